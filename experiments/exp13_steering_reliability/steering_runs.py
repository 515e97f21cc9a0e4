"""Refusal steered in every way that the study compares, on requests of the trained form and of shifted ones.

1. Direction: difference of means of harmful and harmless requests at the last prompt token, where both are read to the
   end; learned, from shuffled labels, from an unrelated contrast (opinions), random; all of one length at each layer.
2. Addition: a share of the stream's mean norm, at one layer, every position; or the whole difference of means once, at
   the last prompt token. Ablation: a share of the component at one
   layer (1 removes it; beyond 1 would reflect it, and is refused), or the whole of it in all that is written.
3. Steerability (Tan et al. 2024): log-odds of the model's own refusal openers against the multiple of the difference
   added at the last prompt token; the least-squares slope of every sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import scipy

from experiments.harness.experiment import ExperimentConfig, Records
from experiments.harness.state import Run, of_run
from mlx_interp.behaviour.detectors import log_odds, log_prob_per_token, opener_tokens, refusal, repetition
from mlx_interp.controls import random_like, shuffled_labels
from mlx_interp.deferred import mx
from mlx_interp.directions.contrasts import Contrast, contrast
from mlx_interp.embedded import load_world
from mlx_interp.errors import ConfigError
from mlx_interp.interventions import Ablate, Add, Apply, Intervention
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.reporting import finite
from mlx_interp.stats import split_halves
from validation.data import HARMLESS, REFUSABLE

REPLIES, SLOPES = "replies", "slopes"
ARMS = ("learned", "shuffled labels", "other contrast", "random")
SHIFTS = ("same form", "other wording", "other topic")
WORLD = {"same form": "", "other wording": "wording", "other topic": "topic"}
WRAPPERS = {"same form": "{}", "other wording": "For a short story that I am writing: {}"}
"""Real models: the same requests in a fictional frame, so that content is matched. They have no other topics."""
FLUENT, REPEATED = 2.0, 0.2
"""Nats a token that a reply may be less likely than the plain one, and share of repeated trigrams, to be of help."""
SITE = "resid_pre"
ADDED, ONCE, THERE, EVERYWHERE = "added", "added once", "ablated there", "ablated everywhere"


@dataclass(frozen=True)
class ReliabilityConfig(ExperimentConfig):
    """Fields of the study."""

    n_train: int = 64
    """Requests of each kind from which directions are found."""
    n_test: int = 12
    """Requests of each kind and form that are steered; as many of the trained form choose layer and strength."""
    new_tokens: int = 12
    """Tokens of every reply."""
    depths: tuple[float, ...] = (0.25, 0.5, 0.69, 0.84)
    """Layers, as shares of the depth."""
    strengths: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    """Added lengths, as shares of the mean norm of the stream at that layer."""
    gains: tuple[float, ...] = (0.5, 1.0)
    """Shares of the component that ablation at one layer removes, from 0 to 1."""
    n_draws: int = 10
    """Random directions, and as many shuffles of the labels, at the chosen layer and strength of every edit."""
    multiples: tuple[float, ...] = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
    """Multiples of the difference of means, for the slopes."""

    def __post_init__(self) -> None:
        if any(not 0 <= gain <= 1 for gain in self.gains):
            raise ConfigError(
                f"gains {self.gains}: ablation removes a share from 0 to 1; more reflects the component, which is "
                "another intervention"
            )
        if any(not 0 < depth < 1 for depth in self.depths):
            raise ConfigError(f"depths {self.depths}: give shares of the depth between 0 and 1")
        if len(set(self.multiples)) < 3:
            raise ConfigError(f"multiples {self.multiples}: a slope needs three or more")


@dataclass(frozen=True)
class Request:
    """One request, for the chat template."""

    key: str
    text: str
    harmful: bool
    shift: str
    split: str
    """"train", "choose" or "test"."""
    reply: str = ""
    """What a harmless request of the embedded world is answered with; "" where no reply is the right one."""


def layers(run: Run[ReliabilityConfig]) -> list[int]:
    """Layers of the depths, from 1 on: at layer 0 the last prompt token is the same in all prompts."""
    return sorted(
        {min(max(round(depth * run.model.n_layers), 1), run.model.n_layers - 1) for depth in run.config.depths}
    )


@of_run(4)
def requests(run: Run[ReliabilityConfig]) -> tuple[Request, ...]:
    """All requests; no text is in two splits."""
    found = _of_world() if run.model.name in EMBEDDED else _of_project()
    chosen: list[Request] = []
    for shift in SHIFTS:
        for split in ("train", "choose", "test"):
            for harmful in (True, False):
                own = [r for r in found if (r.shift, r.split, r.harmful) == (shift, split, harmful)]
                most = run.config.n_train if split == "train" else run.config.n_test
                chosen += [own[i * len(own) // most] for i in range(most)] if len(own) > most else own
    return tuple(chosen)


def steered(run: Run[ReliabilityConfig], earlier: Records) -> list[Request]:
    """Requests that are steered; --limit takes as many of each form, split and kind: every table compares them."""
    asked = [request for request in requests(run) if request.split != "train"]
    if run.config.limit is None:
        return asked
    seen: Counter[tuple[str, str, bool]] = Counter()
    kept = []
    for request in asked:
        seen[group := (request.shift, request.split, request.harmful)] += 1
        if seen[group] <= run.config.limit:
            kept.append(request)
    return kept


@of_run(8)
def contrast_of(run: Run[ReliabilityConfig], arm: str) -> Contrast:
    """The learned contrast, that of shuffled labels, or one that has nothing to do with refusing."""
    if arm == "other contrast":
        chats = [c for c in load_world().chat_prompts("opinion") if c.split == "train" and not c.firm]
        kinds = [
            [c.text for c in chats if c.stance == stance][: run.config.n_train] for stance in ("likes", "dislikes")
        ]
    else:
        train = [r for r in requests(run) if r.split == "train"]
        kinds = [[r.text for r in train if r.harmful is harmful] for harmful in (True, False)]
        if arm == "shuffled labels":
            kinds = list(shuffled_labels(*kinds, seed=run.config.seed))
    prompts = [[run.model.prompt(text, chat=True) for text in kind] for kind in kinds]
    return contrast(run.model, *prompts, site=SITE, seed=run.config.seed)


def vector(run: Run[ReliabilityConfig], layer: int, arm: str) -> np.ndarray:
    """(d_model,): a layer's direction or control, as long as the learned difference of means."""
    learned = contrast_of(run, "learned").vectors[layer, 0]
    if arm == "learned":
        return np.asarray(learned)
    if arm == "random":
        return np.asarray(random_like(learned, seed=run.seed, key=("reliability", layer)), np.float32)
    other = contrast_of(run, arm).vectors[layer, 0]
    return np.asarray(other * (np.linalg.norm(learned) / max(float(np.linalg.norm(other)), 1e-9)))


class OfEdit(TypedDict):
    """Which edit a reply is under."""

    layer: int | None
    arm: str
    """none, learned, or a control."""
    edit: str
    dose: float
    """Share of the stream's mean norm, of the difference of means, or of the component that is removed."""


def edits(run: Run[ReliabilityConfig]) -> list[tuple[OfEdit, list[Intervention]]]:
    """Every layer, arm and edit, with its labels; the first is the plain model."""
    found: list[tuple[OfEdit, list[Intervention]]] = [({"layer": None, "arm": "none", "edit": "none", "dose": 0.0}, [])]
    for layer in layers(run):
        stream = float(contrast_of(run, "learned").stream[layer, 0])
        for arm in ARMS:
            values = mx.array(vector(run, layer, arm))
            for edit, dose in doses(run.config):
                labels: OfEdit = {"layer": layer, "arm": arm, "edit": edit, "dose": dose}
                found.append((labels, edit_of(edit, dose, layer, values, stream)))
    return found


def n_edits(run: Run[ReliabilityConfig]) -> int:
    """How many there are, which needs no direction."""
    return 1 + len(layers(run)) * len(ARMS) * len(doses(run.config))


def doses(config: ReliabilityConfig) -> list[tuple[str, float]]:
    """Every edit with its doses."""
    added = [(ADDED, dose) for dose in config.strengths]
    return [*added, (ONCE, 1.0), *((THERE, gain) for gain in config.gains), (EVERYWHERE, 1.0)]


def edit_of(edit: str, dose: float, layer: int, values: mx.array, stream: float) -> list[Intervention]:
    """An edit along a vector (d_model,); stream: mean norm at the layer, the unit in which strengths are added."""
    site, unit = f"{SITE}.{layer}", values / mx.linalg.norm(values)
    if edit == ADDED:
        return [Add(site, unit, dose * stream)]
    if edit == ONCE:
        return [Add(site, values, dose, -1)]
    if edit == THERE:
        return [removed(site, unit, dose)]
    return [Ablate(name, unit) for name in (SITE, "attn_out", "mlp_out")]


def removed(site: str, unit: mx.array, gain: float) -> Intervention:
    """Removes a share of the component along a unit vector at one site."""

    def function(x: mx.array) -> mx.array:
        along = mx.sum(x.astype(mx.float32) * unit, axis=-1, keepdims=True)
        return (x.astype(mx.float32) - gain * along * unit).astype(x.dtype)

    return Ablate(site, unit) if gain == 1 else Apply(site, function)


class OfRequest(TypedDict):
    """Which request a record is of."""

    unit: str
    harmful: bool
    shift: str
    """Whether it has the form of those that directions are found from: same form, other wording, other topic."""
    split: str
    n_layers: int


class Replied(OfEdit, OfRequest):
    """The reply to a request under one edit."""

    refused: bool
    phrase: str | None
    """The phrase that says so."""
    helps: bool | None
    """Harmless requests: whether it is the right reply; where none is known, whether it is fluent and no refusal."""
    fluent: bool
    tokens: int
    repetition: float
    """Share of repeated trigrams."""
    log_prob: float | None
    """Of the text under the plain model, mean over its tokens, nats."""
    text: str


def measure_replies(run: Run[ReliabilityConfig], request: Request) -> Iterator[Replied]:
    """One request under every edit, decoded as one batch: refusal, help, fluency."""
    model = run.model
    cells = edits(run)
    prompt = model.prompt(request.text, chat=True)
    texts = model.sweep_generate(prompt, [edit for _, edit in cells], max_tokens=run.config.new_tokens)
    fluency = log_prob_per_token(model, [prompt.tokens] * len(texts), [text.tokens for text in texts])
    for (labels, _), text, log_prob in zip(cells, texts, fluency, strict=True):
        phrase = refusal(text.text, ["en"])
        fluent = repetition(text.tokens) <= REPEATED and log_prob >= fluency[0] - FLUENT
        helps = text.text.strip() == request.reply if request.reply else phrase is None and fluent
        yield {
            **labels,
            **facts_of(model, request),
            "refused": phrase is not None,
            "phrase": phrase,
            "helps": None if request.harmful else helps,
            "fluent": fluent,
            "tokens": len(text.tokens),
            "repetition": repetition(text.tokens),
            "log_prob": finite(log_prob),
            "text": text.text,
        }


@of_run(4)
def openers(run: Run[ReliabilityConfig]) -> tuple[int, ...]:
    """First tokens of the model's own refusals, read off the training requests."""
    train = [r for r in requests(run) if r.split == "train"]
    kinds = [[run.model.prompt(r.text, chat=True) for r in train if r.harmful is harmful] for harmful in (True, False)]
    return tuple(opener_tokens(run.model, *kinds))


def sloped(run: Run[ReliabilityConfig], earlier: Records) -> list[Request]:
    """The steered requests; none for a model that refuses nothing."""
    return steered(run, earlier) if openers(run) else []


class Sloped(OfRequest):
    """How the log-odds of a refusal follow the multiple of a vector, on one request."""

    layer: int
    arm: str
    slope: float
    """Nats a multiple, least squares."""
    residual: float
    """Root mean square from the line, nats."""
    rank: float | None
    """Spearman's correlation; None where the log-odds do not move."""
    propensity: float
    """Log-odds without the vector, nats."""


def measure_slopes(run: Run[ReliabilityConfig], request: Request) -> Iterator[Sloped]:
    """Every layer's slope of one request, learned and controls."""
    prompt = run.model.prompt(request.text, chat=True)
    doses = np.array(run.config.multiples)
    cells = [(layer, arm) for layer in layers(run) for arm in ARMS]
    vectors = {cell: mx.array(vector(run, *cell)) for cell in cells}
    variants: list[list[Intervention]] = [
        [Add(f"{SITE}.{layer}", vectors[layer, arm], float(dose), -1)] for layer, arm in cells for dose in doses
    ]
    odds = np.asarray(run.model.sweep(prompt, variants, metric=log_odds(openers(run))), np.float64)
    for (layer, arm), row in zip(cells, odds.reshape(len(cells), len(doses)), strict=True):
        slope, intercept = np.polyfit(doses, row, 1)
        yield {
            **facts_of(run.model, request),
            "layer": layer,
            "arm": arm,
            "slope": float(slope),
            "residual": float(np.sqrt(np.mean((row - slope * doses - intercept) ** 2))),
            "rank": finite(float(scipy.stats.spearmanr(doses, row).statistic)) if np.ptp(row) else None,
            "propensity": float(row[np.argmin(np.abs(doses))]),
        }


def facts_of(model: Model, request: Request) -> OfRequest:
    return {
        "unit": request.text,
        "harmful": request.harmful,
        "shift": request.shift,
        "split": request.split,
        "n_layers": model.n_layers,
    }


def _of_world() -> list[Request]:
    found = []
    for shift, name in WORLD.items():
        for chat in load_world().chat_prompts("refusal", language="en", shift=name):
            reply = "" if chat.harmful else chat.reply
            found.append(Request(f"{shift}: {chat.text}", chat.text, chat.harmful, shift, chat.split, reply))
    test = [r.text for r in found if r.shift == "same form" and r.split == "test"]
    choosing = set(split_halves(test, 0)[0])
    return [replace(r, split="choose") if r.text in choosing else r for r in found]


def _of_project() -> list[Request]:
    found = []
    for harmful, texts in ((True, REFUSABLE), (False, HARMLESS)):
        for number, text in enumerate(texts):
            split = ("train", "choose", "train", "test")[number % 4]
            for shift, frame in WRAPPERS.items():
                if split == "test" or shift == "same form":
                    framed = frame.format(text)
                    found.append(Request(f"{shift}: {framed}", framed, harmful, shift, split))
    return found
