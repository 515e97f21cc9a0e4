"""Questions of two options, as in contrastive activation addition (CAA; Rimsky et al. 2024).

1. A question in the chat template with two answers, "(A" and "(B" in published sets, two replies of the world for
   embedded models: the state after each block at the first token in which the answers differ. The vector is the mean
   difference between the answer that shows the behaviour and the other one.
2. At every layer all behaviours' vectors get the same length, the mean of theirs: a multiplier is one dose for all.
3. Added with a multiplier from the prompt's last token on; the measure is p(match), the probability of the answer that
   shows the behaviour among both answers.
4. The layer with the largest p(match) at +1 less that at -1 is chosen on questions set aside, and reported on others.
5. Knowledge: p(right) on questions of two options that have nothing to do with it, under the same vector.

Controls: random vectors of the same length, and the multiplier 0. Published sets are fetched when asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

import numpy as np

from experiments.harness.experiment import Records, Stage
from experiments.harness.frame import Frame, of, spread
from experiments.harness.state import Run, of_run
from experiments.shared.prompts.read import Choice, Origin, choices
from experiments.shared.traits import world_choices
from experiments.shared.traits.stages import TraitConfig
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.directions.candidates import DEEPEST
from mlx_interp.directions.contrasts import Contrast, contrast
from mlx_interp.interventions import Add, Intervention
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import Estimate

MATCH, KNOWLEDGE = "choices", "knowledge"
ENDS = (-1.0, 1.0)
LETTERS = ("(A)", "(B)")


@dataclass(frozen=True)
class ChoiceConfig(TraitConfig):
    """Fields of studies that ask questions of two options."""

    behaviours: tuple[str, ...] = ()
    """Sets of two options, one of which shows a behaviour: the world's own on embedded models if empty, or published
    ones, for example caa-sycophancy, caa-refusal."""
    knowledge: tuple[str, ...] = ()
    """Sets of two options, one of which is right, that should not suffer: the world's own on embedded models if empty,
    or published ones: truthfulqa, mmlu."""
    multipliers: tuple[float, ...] = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
    """Of the vector that is added; -1 and 1 among them."""


@dataclass(frozen=True)
class Question:
    """One question of a set; `behaviour` is the set whose vector is added."""

    key: str
    behaviour: str
    source: str
    split: str
    number: int
    layer: int = -1
    """-1: every layer."""


def behaviours(run: Run[ChoiceConfig]) -> tuple[str, ...]:
    """Those asked for, or the world's own on an embedded model."""
    return run.config.behaviours or (world_choices.BEHAVIOURS if run.model.name in EMBEDDED else ())


@lru_cache(maxsize=32)
def asked(name: str, split: str, n: int, seed: int) -> tuple[list[Choice], Origin]:
    """At most n questions of a split, evenly."""
    own = name.startswith(world_choices.PREFIX)
    found, origin = world_choices.choices(name, split) if own else choices(name, split, seed=seed)
    return spread(found, n), origin


def measured_on(run: Run[ChoiceConfig], name: str, split: str) -> tuple[list[Choice], Origin]:
    """The questions of a split that a study chooses or reports on, as few as --limit says."""
    return asked(name, split, run.config.at_most(run.config.n_test), run.config.seed)


def answered(
    model: Model, one: Choice, before: str = "", system: str | None = None
) -> tuple[list[int], dict[str, int], int]:
    """Tokens up to where both answers part, the next token of each, and the position of the prompt's last token.

    before: earlier turns, through the chat template, that the question follows. system: a system prompt.
    """
    start = model.prompt(one.question, chat=one.chat, system=system)
    if before:
        start = model.prompt(before + start.text.removeprefix(bos(model)))
    # Of a letter in brackets only the opening one: with the closing one it may be a single token.
    endings = {answer: answer[:2] if answer in LETTERS else answer for answer in (one.matching, one.other)}
    both = {answer: model.prompt(start.text + ending).tokens for answer, ending in endings.items()}
    a, b = both.values()
    shared = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return a[:shared], {answer: tokens[shared] for answer, tokens in both.items()}, len(start) - 1


def bos(model: Model) -> str:
    return getattr(model.tokenizer, "bos_token", None) or ""


def ending(model: Model, one: Choice, answer: str, before: str = "") -> list[int]:
    """The question with an answer, up to the token in which the two answers differ."""
    tokens, parts, _ = answered(model, one, before)
    return [*tokens, parts[answer]]


@of_run(16)
def vectors(run: Run[ChoiceConfig], behaviour: str) -> Contrast:
    """The contrast at the answers' first own token, after every block."""
    items, _ = asked(behaviour, "train", run.config.n_train, run.config.seed)
    sides = [[ending(run.model, one, getattr(one, side)) for one in items] for side in ("matching", "other")]
    return contrast(run.model, sides[0], sides[1], site="resid_post", template="chat", seed=run.config.seed)


def dose(run: Run[ChoiceConfig], behaviour: str, layer: int) -> np.ndarray:
    """(d_model,): a behaviour's vector at the common length of all behaviours at that layer."""
    names = dict.fromkeys((*behaviours(run), behaviour))
    common = float(np.mean([vectors(run, name).norms[layer, 0] for name in names]))
    own = vectors(run, behaviour)
    return np.asarray(own.vectors[layer, 0] * (common / max(float(own.norms[layer, 0]), 1e-12)))


def control(run: Run[ChoiceConfig], behaviour: str, layer: int) -> np.ndarray:
    """(d_model,): a random vector of the same length."""
    return random_like(dose(run, behaviour, layer), seed=run.seed, key=(behaviour, layer))


def questions(run: Run[ChoiceConfig], earlier: Records) -> list[Question]:
    """Questions for choosing the layer, and others for reporting."""
    return [
        Question(f"{name}, {split} {number}", name, name, split, number)
        for name in behaviours(run)
        for split in ("choose", "test")
        for number in range(len(measured_on(run, name, split)[0]))
    ]


def known(run: Run[ChoiceConfig], earlier: Records) -> list[Question]:
    """Questions of knowledge under each behaviour's vector, at its chosen layer."""
    layers = {name: best_layer(earlier, name) for name in behaviours(run)}
    sources = run.config.knowledge or ((world_choices.KNOWN,) if run.model.name in EMBEDDED else ())
    return [
        Question(f"{source} under {name}, {number}", name, source, "test", number, layer)
        for name, layer in layers.items()
        if layer is not None
        for source in sources
        for number in range(len(measured_on(run, source, "test")[0]))
    ]


class Matched(TypedDict):
    """A question of two options under one multiple of a vector."""

    behaviour: str
    """The set whose vector is added."""
    set: str
    """The set that the question is of."""
    revision: str
    split: str
    arm: str
    """direction, random, or plain."""
    layer: int | None
    multiplier: float
    p: float
    """Of the answer that shows the behaviour, or is right, among both."""
    unit: str
    n_layers: int


def measure(run: Run[ChoiceConfig], item: Question) -> Iterator[Matched]:
    """p(match) of one question, plain and with each layer's vector, or a random one, added and subtracted."""
    model, config = run.model, run.config
    items, origin = measured_on(run, item.source, item.split)
    found = vectors(run, item.behaviour)
    layers = [item.layer] if item.layer >= 0 else [n for n in range(model.n_layers) if found.differs[n, 0]]
    cells: list[tuple[str, int, float]] = [
        (arm, layer, c) for arm in ("direction", "random") for layer in layers for c in config.multipliers
    ]
    values = {
        (arm, layer): (dose if arm == "direction" else control)(run, item.behaviour, layer) for arm, layer, _ in cells
    }
    edits = [(layer, values[arm, layer], c) for arm, layer, c in cells]
    named: list[tuple[str, int | None, float]] = [("plain", None, 0.0), *cells]
    for (arm, at, c), p in zip(named, matching(model, items[item.number], edits), strict=True):
        yield {
            "behaviour": item.behaviour,
            "set": origin.name,
            "revision": origin.revision,
            "split": item.split,
            "arm": arm,
            "layer": at,
            "multiplier": c,
            "p": p,
            "unit": item.key,
            "n_layers": model.n_layers,
        }


def matching(
    model: Model,
    one: Choice,
    edits: Sequence[tuple[int, np.ndarray, float]],
    before: str = "",
    system: str | None = None,
) -> list[float]:
    """p(match) of a question left alone, and with each vector added after a layer, from the prompt's last token on."""
    tokens, parts, last = answered(model, one, before, system)
    where = slice(last, len(tokens))
    variants: list[list[Intervention]] = [[]]
    for layer, vector, c in edits:
        variants.append([Add(f"resid_post.{layer}", mx.array(vector.astype(np.float32)), c, where)])
    right, wrong = parts[one.matching], parts[one.other]
    apart = model.sweep(tokens, variants, metric=lambda logits: logits[:, right] - logits[:, wrong])
    return [1 / (1 + float(np.exp(-logit))) for logit in np.asarray(apart, np.float64).tolist()]


def best_layer(records: Records, behaviour: str) -> int | None:
    """The layer whose vector moves p(match) most on the choosing questions, at most 80 % deep; None without records."""
    effects: dict[int, float] = {}
    for r in of(records, MATCH, behaviour=behaviour, split="choose", arm="direction"):
        if r["layer"] <= DEEPEST * r["n_layers"] and abs(r["multiplier"]) == 1:
            effects[r["layer"]] = effects.get(r["layer"], 0.0) + r["multiplier"] * r["p"]
    return max(effects, key=lambda layer: (effects[layer], -layer)) if effects else None


def table(records: Records, config: ChoiceConfig) -> Table | None:
    """p(match), and p(right) on knowledge, with the vector subtracted, left out and added."""
    rows: list[list[Cell]] = []
    for behaviour in dict.fromkeys(r["behaviour"] for r in of(records, MATCH)):
        layer = best_layer(records, behaviour)
        for stage in (MATCH, KNOWLEDGE):
            own = of(records, stage, behaviour=behaviour, split="test")
            for name in dict.fromkeys(r["set"] for r in own):
                mine = [r for r in own if r["set"] == name and r["layer"] in (None, layer)]
                least, most, *random = (
                    _mean(mine, arm, c, config.seed) for arm in ("direction", "random") for c in ENDS
                )
                plain = [r for r in mine if r["arm"] == "plain"]
                head: list[Cell] = [behaviour, name, mine[0]["revision"][:12], layer, len(plain)]
                rows.append([*head, least, _mean(plain, "plain", 0.0, config.seed), most, *random, _against(mine)])
    if not rows:
        return None
    return Table(
        "Questions of two options",
        [
            *("vector of", "questions of", "revision", "layer", "n", "p, -1", "p, plain", "p, +1"),
            *("p, -1, random", "p, +1, random", "share moved against"),
        ],
        rows,
        [
            "p: of the answer that shows the behaviour (or is right), among both. At a layer all behaviours' vectors "
            "have the mean of their lengths; layer chosen on other questions. Moved against: questions on which +1 "
            "gives less than -1.",
        ],
    )


def _mean(records: Sequence[Record], arm: str, multiplier: float, seed: int) -> Cell:
    return Frame(records).where(arm=arm, multiplier=multiplier).rate("p", unit="unit", seed=seed)


def _against(records: Sequence[Record]) -> float | None:
    moved: dict[str, float] = {}
    for r in records:
        if r["arm"] == "direction" and abs(r["multiplier"]) == 1:
            moved[r["unit"]] = moved.get(r["unit"], 0.0) + r["multiplier"] * r["p"]
    return sum(value < 0 for value in moved.values()) / len(moved) if moved else None


def curves(records: Records, config: ChoiceConfig) -> Iterator[Plot]:
    """p(match) by layer under each multiplier, of every behaviour."""
    for behaviour in dict.fromkeys(r["behaviour"] for r in of(records, MATCH)):
        own = of(records, MATCH, behaviour=behaviour, split="test")
        layers = sorted({r["layer"] for r in own if r["layer"] is not None})
        if not layers:  # the classes are the same at every layer
            continue
        arms = [("direction", c) for c in (-2.0, *ENDS, 2.0) if c in config.multipliers] + [("random", c) for c in ENDS]
        yield line_with_band(
            layers,
            [
                Series(f"{arm} {c:+g}", [_mean_of(own, arm, c, layer, config.seed) for layer in layers])
                for arm, c in arms
            ],
            name=f"{behaviour}_choices",
            title=f"{behaviour}: answers under its vector",
            x_label="layer of the vector (output of the block)",
            y_label="p of the answer that shows it",
            caption=f"Probability, among both answers, of the one that shows {behaviour}, on "
            f"{len({r['unit'] for r in own})} held-out questions, by the layer and multiplier of the vector; random: a "
            "vector of the same length. Bands: 95 % intervals over questions.",
            limits=(0, 1),
        )


def _mean_of(records: Sequence[Record], arm: str, multiplier: float, layer: int, seed: int) -> Estimate | None:
    own = Frame(records).where(arm=arm, multiplier=multiplier, layer=layer)
    return own.rate("p", unit="unit", seed=seed)


STAGES = (
    Stage(MATCH, questions, measure, record=Matched),
    Stage(KNOWLEDGE, known, measure, record=Matched),
)
