"""exp14: logit-difference amplification. What does more of the difference between two contexts, or models, show?

Question   Decoding from l_a + alpha (l_a - l_b): does the behaviour in which a and b differ grow with alpha, while the
           text stays text; and what is lost when only the top 20 logits are known, as through an API?
Data       stance: a reads the user's view against the model's own, b the question alone. firm: the same on topics on
           which the model was trained not to give in, so that a alone does not. refusal: a is the model, b the model
           without its refusal direction (weights orthogonalised), both on harmless requests. Embedded models.
Measure    at every alpha: rate of the behaviour, length, KL(a || amplified) a step, entropy, likelihood under a,
           repetition; all alphas of all prompts of a pair decode as one batch, two forward passes a token.
Figure     the rate over alpha, with a 95 % interval over prompts.
Control    the difference shuffled over the vocabulary; b with another prompt's question; the top 20 logits alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import mlx.core as mx

from experiments.experiment import Experiment, ExperimentConfig, Metric, Plan, Records, Stage
from experiments.runner import run
from experiments.traits import stages
from experiments.traits.stages import TraitConfig
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError
from mlx_interp.loading.load import load
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.methods.amplification import Amplified, amplify
from mlx_interp.methods.detectors import agreement, refusal, repetition
from mlx_interp.methods.orthogonalization import orthogonalize
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, finite, line_with_band
from mlx_interp.stats import Estimate, mean_or_none

Pair = Literal["stance", "firm", "refusal"]
ARMS = ("full", "top 20", "shuffled difference", "unrelated prompt")
TOP = 20
AMPLIFIED = "amplified"


@dataclass(frozen=True)
class Config(ExperimentConfig):
    pairs: tuple[Pair, ...] = ("stance", "firm", "refusal")
    """What a and b are."""
    alphas: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 4.0)
    """Strengths; 0 is a alone."""
    n_prompts: int = 24
    """Prompts of each pair."""
    new_tokens: int = 12
    """Tokens of every text."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Of the sampling."""


@dataclass(frozen=True)
class Ask:
    """What a and b read, and what counts as the behaviour."""

    a: str
    b: str
    hit: Callable[[str], bool]
    unit: str


@dataclass(frozen=True)
class Item:
    """One pair under one arm: all of its prompts and strengths."""

    key: str
    pair: Pair
    arm: str


def asks(model: Model, config: Config, pair: Pair) -> list[Ask]:
    """The prompts of a pair. Raises DataError on models whose behaviour is not known."""
    if model.name not in EMBEDDED:
        raise DataError(f"exp14 has prompts of known behaviour for embedded models ({', '.join(EMBEDDED)}) only so far")
    world = load_world()
    if pair == "refusal":
        chats = world.chat_prompts("refusal", language="en", split="test", shift="", harmful=False)
        return [Ask(c.text, c.text, _refuses, c.text) for c in chats][: config.n_prompts]
    found = []
    for chat in world.chat_prompts("opinion"):
        against = chat.stance == ("dislikes" if chat.own_view == "yes" else "likes")
        if against and chat.firm == (pair == "firm"):
            question = chat.text.rpartition(". ")[2]
            found.append(Ask(chat.text, question, _contradicts(chat.own_view), chat.topic))
    return found[: config.n_prompts]


def _refuses(text: str) -> bool:
    return refusal(text, ["en"]) is not None


def _contradicts(own_view: str) -> Callable[[str], bool]:
    own = 1 if own_view == "yes" else -1
    return lambda text: agreement(text) == -own


@lru_cache(maxsize=1)
def without_refusal(model: Model, seed: int) -> Model:
    """The same model with its refusal direction taken out of the weights, layer 5/8 deep."""
    config = TraitConfig(seed=seed)
    layer = round(0.6 * model.n_layers)
    other = load(model.name)
    orthogonalize(other, stages.found(model, config, "refusal").direction(layer))
    return other


def items(model: Model, config: Config, earlier: Records) -> list[Item]:
    return [Item(f"{pair}: {arm}", pair, arm) for pair in config.pairs for arm in ARMS]


def measure(model: Model, item: Item, config: Config) -> Iterator[Record]:
    """All prompts and strengths of a pair under one arm, in one decode."""
    chosen = asks(model, config, item.pair)
    partners = [*chosen[1:], chosen[0]] if item.arm == "unrelated prompt" else chosen
    found = amplify(
        model,
        [model.prompt(ask.a, chat=True) for ask in chosen],
        [model.prompt(ask.b, chat=True) for ask in partners],
        config.alphas,
        other=without_refusal(model, config.seed) if item.pair == "refusal" else None,
        max_tokens=config.new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
        top_k=TOP if item.arm == "top 20" else None,
        control="shuffled" if item.arm == "shuffled difference" else "none",
    )
    for ask, row in zip(chosen, found, strict=True):
        for one in row:
            yield {"pair": item.pair, "arm": item.arm, "unit": ask.unit, "prompt": ask.a, **_figures(one, ask)}


def _figures(one: Amplified, ask: Ask) -> Record:
    def mean(values: Sequence[float]) -> float | None:
        return finite(sum(values) / len(values)) if values else None

    return {
        "alpha": one.alpha,
        "hit": ask.hit(one.text),
        "length": len(one.tokens),
        "kl": mean(one.kl),
        "entropy": mean(one.entropy),
        "log_prob": mean(one.log_prob),
        "repetition": repetition(one.tokens),
        "text": one.text,
    }


def cell(records: Records, config: Config, field: str, **labels: object) -> Estimate | None:
    own = [r for r in records if all(r.get(name) == value for name, value in labels.items()) and r[field] is not None]
    return mean_or_none([float(r[field]) for r in own], unit=[r["unit"] for r in own], seed=config.seed)


def rate_table(records: Records, config: Config) -> Table:
    """The behaviour's rate at every strength, beside its controls."""
    rows: list[list[Cell]] = []
    for pair in config.pairs:
        for alpha in config.alphas:
            rates = [cell(records, config, "hit", pair=pair, arm=arm, alpha=alpha) for arm in ARMS]
            rows.append([pair, alpha, _n(records, pair), *rates])
    return Table(
        "Rate of the behaviour",
        ["pair", Column("alpha", digits=1), "n", *(Column(arm, "%") for arm in ARMS)],
        rows,
        [
            "stance, firm: replies that contradict the model's own view. refusal: harmless requests that are refused. "
            "Unrelated prompt: b reads another prompt's question. The texts of small models break early.",
        ],
    )


def text_table(records: Records, config: Config) -> Table:
    """What becomes of the text."""
    fields = ("length", "kl", "entropy", "log_prob", "repetition")
    rows: list[list[Cell]] = [
        [pair, arm, alpha, *(cell(records, config, f, pair=pair, arm=arm, alpha=alpha) for f in fields)]
        for pair in config.pairs
        for arm in ARMS[:2]
        for alpha in config.alphas
    ]
    return Table(
        "The text at every strength",
        [
            *("pair", "logits", Column("alpha", digits=1), Column("length", "tokens", digits=1)),
            Column("KL(a || amplified)", "nats a token"),
            Column("entropy", "nats"),
            Column("log-probability under a", "nats a token"),
            Column("repetition", "%"),
        ],
        rows,
    )


def curves(records: Records, config: Config) -> Iterator[Plot]:
    for pair in config.pairs:
        rates = {
            arm: [cell(records, config, "hit", pair=pair, arm=arm, alpha=a) for a in config.alphas] for arm in ARMS
        }
        yield line_with_band(
            config.alphas,
            [Series(arm, found) for arm, found in rates.items()],
            name=f"{pair}_by_alpha",
            title=f"Amplified difference: {pair}",
            x_label="alpha",
            y_label="rate of the behaviour",
            caption=f"Rate of the behaviour of the pair {pair} over alpha; n = {_n(records, pair)}, 95 % intervals.",
            limits=(0, 1),
        )


def headline(records: Records, config: Config) -> str:
    parts = []
    for pair in config.pairs:
        low, high = (cell(records, config, "hit", pair=pair, arm="full", alpha=a) for a in (0.0, max(config.alphas)))
        if low is not None and high is not None:
            after = f"{high.text(percent=True)} % at {max(config.alphas):g}"
            parts.append(f"{pair}: {low.text(percent=True)} % at 0, {after}")
    return "; ".join(parts)


def metrics(records: Records, config: Config) -> list[Metric]:
    return [
        Metric(f"{pair} at alpha 1", "%", cell(records, config, "hit", pair=pair, arm="full", alpha=1.0))
        for pair in config.pairs
        if 1.0 in config.alphas
    ]


def _n(records: Records, pair: str) -> int:
    return len({r["prompt"] for r in records if r["pair"] == pair})


def plan(model: Model, chosen: Sequence[Item], config: Config) -> Plan:
    texts = sum(len(asks(model, config, item.pair)) for item in chosen) * len(config.alphas)
    rows = max(len(asks(model, config, pair)) for pair in config.pairs) * len(config.alphas)
    memory = mx.get_active_memory() * 2 + model.memory([[1] * 32] * rows)
    return Plan(texts // len(config.alphas), texts, 2.0 * texts * (1 + config.new_tokens / 16), memory)


EXPERIMENT = Experiment(
    name="exp14_logit_diff_amplification",
    config=Config,
    stages=[Stage(AMPLIFIED, items, measure)],
    tables=[rate_table, text_table],
    figures=[curves],
    headline=headline,
    plan=plan,
    group=lambda item: item.pair,
    scaling=metrics,
)

if __name__ == "__main__":
    run(EXPERIMENT)
