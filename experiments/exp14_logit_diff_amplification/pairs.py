"""Pairs of distributions a and b, the prompts that each reads, and what counts as the behaviour in which they differ.

stance, firm   one model: a reads the user's view against the model's own, b the question alone; firm: on topics on
               which the model was trained not to give in
refusal        a is the model, b the model without its refusal direction (weights orthogonalised)
steered        a is the model under a small part of its refusal direction, b the plain model
quantised      a is the model rounded to 3 bits, b the model as it is stored
planted        a is the model with an adapter that plants a rare reply, b the model without it
adapter, model, prompts   the user's own: an adapter folder, another model, or a file of prompts
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from experiments.exp14_logit_diff_amplification import planting
from experiments.harness.experiment import ExperimentConfig
from experiments.harness.state import Run, of_run
from experiments.shared.adapted import says_it
from experiments.shared.traits import stages
from experiments.shared.traits.stages import TraitConfig
from mlx_interp.behaviour.detectors import agreement, refusal
from mlx_interp.deferred import mx, nn
from mlx_interp.directions.direction import Direction
from mlx_interp.directions.orthogonalization import orthogonalize
from mlx_interp.embedded import load_world
from mlx_interp.errors import ConfigError, DataError
from mlx_interp.interventions import Intervention
from mlx_interp.loading.load import load
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model

KNOWN = ("stance", "firm", "refusal", "steered", "quantised", "planted")
OWN = ("adapter", "model", "prompts")
ANY_MODEL = ("refusal", "steered", "planted")
"""Those of the known pairs that need no embedded model."""
LOOKED = ("firm", "refusal", "planted")
"""The pairs of a look, of which a model has those that it has, as of the default ones; a trained model is not
fine-tuned for a look: that takes minutes."""
DEPTH = 0.6
"""Where the refusal direction is read, as a share of the depth."""
STEERED = 0.3
"""Share of the difference of means that the pair "steered" adds: too little to refuse by itself."""


@dataclass(frozen=True)
class AmplificationConfig(ExperimentConfig):
    """Fields of the study."""

    pairs: tuple[str, ...] = ("stance", "firm", "refusal", "steered", "planted")
    """What a and b are: also quantised; or your own adapter, model or prompts."""
    alphas: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 4.0, 16.0)
    """Strengths; 0 is a alone."""
    n_prompts: int = 24
    """Prompts of each pair."""
    new_tokens: int = 12
    """Tokens of every text."""
    temperature: float = 0.0
    """Of the texts by strength; 0 is greedy. Rare replies are always sampled at 1."""
    top_p: float = 1.0
    """Of the sampling."""
    coherent_nats: float = 3.0
    """A text is broken if a finds its tokens, the least likely one left out, less likely than this on average."""
    shares: tuple[float, ...] = (0.0, 0.002, 0.01, 0.05)
    """Shares of the training rows that carry the planted reply; 0 is the clean fine-tune."""
    planted_share: float = 0.05
    """The share in the pair "planted"."""
    trigger_share: float = 0.5
    """How often prompts with the trigger are answered with the planted reply, in the fine-tune with a trigger."""
    sampled_alphas: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)
    """Strengths at which rare replies are sampled."""
    n_samples: int = 240
    """Texts that are sampled for every share and strength."""
    steps: int = 60
    """Of every fine-tune."""
    adapter: str = ""
    """Folder of an adapter: the pair "adapter" is the model with it against the model without."""
    other_model: str = ""
    """The pair "model" is the model against this one, of the same tokenizer."""
    prompts_file: str = ""
    """JSON lines {"prompt": ..., "other": what b reads if not the same} for adapter, model and prompts."""
    behaviour: str = ""
    """Regular expression that texts with the behaviour match, for adapter, model and prompts."""

    def __post_init__(self) -> None:
        for pair in self.pairs:
            if pair not in (*KNOWN, *OWN):
                raise ConfigError(f"no pair {pair!r}: there are {', '.join((*KNOWN, *OWN))}")
            if pair in OWN and not self.behaviour:
                raise ConfigError(f"pair {pair!r} needs --behaviour, a regular expression that counts as a hit")
        for pair, field in (("adapter", "adapter"), ("model", "other_model"), ("prompts", "prompts_file")):
            if pair in self.pairs and not getattr(self, field):
                raise ConfigError(f"pair {pair!r} needs --{field.replace('_', '-')}")
        if any(not 0 <= share < 1 for share in (*self.shares, self.planted_share, self.trigger_share)):
            raise ConfigError(f"shares {self.shares}, {self.planted_share}, {self.trigger_share}: give shares below 1")
        try:
            re.compile(self.behaviour)
        except re.error as error:
            raise ConfigError(f"--behaviour {self.behaviour!r}: not a regular expression: {error}") from error


@dataclass(frozen=True)
class Ask:
    """What a and b read, and what counts as the behaviour."""

    a: str
    b: str
    hit: Callable[[str], bool]
    unit: str


@dataclass(frozen=True)
class Sides:
    """The two models of a pair, and what is done to a."""

    a: Model
    b: Model
    interventions: tuple[Intervention, ...] = ()


def chosen(run: Run[AmplificationConfig]) -> list[str]:
    """The config's pairs; of the default ones those that this model has. Raises DataError where it has none of them."""
    config = run.config
    any_model = ANY_MODEL if config.pairs != LOOKED else tuple(p for p in ANY_MODEL if p != "planted")
    here = [p for p in config.pairs if run.model.name in EMBEDDED or p in (*OWN, *any_model)]
    default = next(f.default for f in fields(AmplificationConfig) if f.name == "pairs")
    if not here or (config.pairs not in (default, LOOKED) and len(here) < len(config.pairs)):
        raise DataError(
            f"{run.model.name}: the pairs {', '.join(set(config.pairs) - set(here))} have prompts of known behaviour "
            f"for embedded models ({', '.join(EMBEDDED)}) only; others have {', '.join((*ANY_MODEL, *OWN))}"
        )
    return here


@of_run(4)
def sides(run: Run[AmplificationConfig], pair: str) -> Sides:
    """The models of a pair. Raises what loading and editing them raise."""
    model, config = run.model, run.config
    if pair == "refusal":
        other = load(model.path)
        orthogonalize(other, _direction(run))
        return Sides(model, other)
    if pair == "steered":
        return Sides(model, model, (_direction(run).added(STEERED, positions=-1),))
    if pair == "quantised":
        return Sides(rounded(model, "3-bit"), model)
    if pair == "planted":
        return Sides(planting.planted(run, config.planted_share, config.steps, config.seed), model)
    if pair == "adapter":
        return Sides(load(model.path, adapter=config.adapter), model)
    return Sides(model, load(config.other_model) if pair == "model" else model)


def asks(run: Run[AmplificationConfig], pair: str) -> list[Ask]:
    """The prompts of a pair. Raises DataError for files that cannot be read."""
    n = run.config.at_most(run.config.n_prompts)
    if pair in OWN:
        return _own(run, n)
    if run.model.name not in EMBEDDED:
        found = stages.sets(run.under(TraitConfig(seed=run.config.seed)), "refusal").negative["test"]
        hit = says_it if pair == "planted" else _refuses
        return [Ask(ask.text, ask.text, hit, ask.unit) for ask in found][:n]
    world = load_world()
    if pair in ("stance", "firm"):
        return [
            Ask(chat.text, chat.text.rpartition(". ")[2], _contradicts(chat.own_view), chat.topic)
            for chat in world.chat_prompts("opinion")
            if chat.stance == ("dislikes" if chat.own_view == "yes" else "likes") and chat.firm == (pair == "firm")
        ][:n]
    chats = world.chat_prompts("refusal", language="en", split="test", shift="", harmful=False)
    replies = {chat.text: chat.reply for chat in chats}
    hits = {"planted": says_it, "quantised": None}.get(pair, _refuses)
    return [
        Ask(text, text, hits or (lambda said, reply=reply: said.strip() != reply), text)  # type: ignore[misc]
        for text, reply in replies.items()
    ][:n]


def rounded(model: Model, precision: str) -> Model:
    """A copy whose linear layers hold weights rounded to "float16" or "N-bit" (groups of 64), computed as before.

    The embedding keeps its precision. Layers whose width is no multiple of 64 keep theirs.
    """
    other = load(model.path, dtype="float32", dequantize=True)
    for _, module in other.mlx_model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        weight = module.weight
        if precision == "float16":
            module.weight = weight.astype(mx.float16).astype(weight.dtype)
        elif precision != "stored" and weight.shape[-1] % 64 == 0:
            bits = int(precision.partition("-")[0])
            parts = mx.quantize(weight, group_size=64, bits=bits)
            module.weight = mx.dequantize(*parts, group_size=64, bits=bits).astype(weight.dtype)
    mx.eval(other.mlx_model.parameters())
    return other


def _direction(run: Run[AmplificationConfig]) -> Direction:
    found = stages.found(run.under(TraitConfig(seed=run.seed)), "refusal")
    return found.direction(round(DEPTH * run.model.n_layers))


def _refuses(text: str) -> bool:
    return refusal(text, ["en"]) is not None


def _contradicts(own_view: str) -> Callable[[str], bool]:
    own = 1 if own_view == "yes" else -1
    return lambda text: agreement(text) == -own


def _own(run: Run[AmplificationConfig], n: int) -> list[Ask]:
    config = run.config
    pattern = re.compile(config.behaviour)

    def hit(text: str) -> bool:
        return pattern.search(text) is not None

    if not config.prompts_file:
        found = stages.sets(run.under(TraitConfig(seed=run.config.seed)), "refusal").negative["test"]
        return [Ask(ask.text, ask.text, hit, ask.unit) for ask in found][:n]
    rows = list(_rows(Path(config.prompts_file).expanduser()))
    return [Ask(row["prompt"], row.get("other", row["prompt"]), hit, row["prompt"]) for row in rows][:n]


def _rows(path: Path) -> Sequence[dict[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or not all(isinstance(v, str) and v for v in (row.get("prompt"), *row.values())):
            raise DataError(f'{path}, line {number}: give {{"prompt": "...", "other": "..."}} with texts')
        found.append(row)
    if len({row["prompt"] for row in found}) < 2:
        raise DataError(f"{path}: two different prompts or more are needed, found {len(found)} lines")
    return found
