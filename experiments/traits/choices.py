"""Questions of two options, as in contrastive activation addition (Rimsky et al. 2024), on published sets.

1. A question in the chat template, answered "(A" or "(B": the state after each block at the letter. The vector is the
   mean difference between the answer that shows the behaviour and the other one.
2. Added with a multiplier from the prompt's last token on; the measure is p(match), the probability of the letter that
   shows the behaviour among both letters.
3. The layer with the largest p(match) at +1 less that at -1 is chosen on questions set aside, and reported on others.
4. Knowledge: p(right) on questions of two options that have nothing to do with it, under the same vector.

Controls: random vectors of the same length, and the multiplier 0. Sets are fetched when asked for (prompt_sets).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

from experiments.experiment import Records, Stage
from experiments.prompt_sets.read import Choice, Origin, choices
from experiments.traits.report import of
from experiments.traits.stages import TraitConfig
from mlx_interp.interventions import Add, Intervention
from mlx_interp.methods.candidates import DEEPEST
from mlx_interp.methods.contrast import Contrast, contrast
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Record, Table
from mlx_interp.stats import mean_or_none, stable_draw

MATCH, KNOWLEDGE = "choices", "knowledge"
MULTIPLIERS = (-1.0, 1.0)


@dataclass(frozen=True)
class ChoiceConfig(TraitConfig):
    """Fields of studies that ask questions of two options."""

    behaviours: tuple[str, ...] = ()
    """Published sets of two options, one of which shows a behaviour, for example caa-sycophancy, caa-refusal."""
    knowledge: tuple[str, ...] = ()
    """Published sets of two options, one of which is right, that should not suffer: truthfulqa, mmlu."""


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


@lru_cache(maxsize=32)
def asked(name: str, split: str, n: int, seed: int) -> tuple[list[Choice], Origin]:
    """At most n questions of a split, evenly."""
    found, origin = choices(name, split, seed=seed)
    return [found[i * len(found) // n] for i in range(n)] if len(found) > n else found, origin


def answered(model: Model, question: str) -> tuple[list[int], dict[str, int], int]:
    """Tokens up to where both answers part, the next token of each, and the position of the prompt's last token."""
    start = model.prompt(question, chat=True)
    both = {letter: model.prompt(f"{start.text}{letter[:2]}").tokens for letter in ("(A)", "(B)")}
    a, b = both.values()
    shared = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return a[:shared], {letter: tokens[shared] for letter, tokens in both.items()}, len(start) - 1


@lru_cache(maxsize=16)
def vectors(model: Model, config: ChoiceConfig, behaviour: str) -> Contrast:
    """The contrast at the letter, after every block."""
    items, _ = asked(behaviour, "train", config.n_train, config.seed)
    sides = []
    for wanted in ("matching", "other"):
        rows = []
        for item in items:
            tokens, letters, _ = answered(model, item.question)
            rows.append([*tokens, letters[getattr(item, wanted)]])
        sides.append(rows)
    return contrast(model, sides[0], sides[1], site="resid_post", template="chat", seed=config.seed)


def questions(model: Model, config: ChoiceConfig, earlier: Records) -> list[Question]:
    """Questions for choosing the layer, and others for reporting."""
    return [
        Question(f"{name}, {split} {number}", name, name, split, number)
        for name in config.behaviours
        for split in ("choose", "test")
        for number in range(len(asked(name, split, config.n_test, config.seed)[0]))
    ]


def known(model: Model, config: ChoiceConfig, earlier: Records) -> list[Question]:
    """Questions of knowledge under each behaviour's vector, at its chosen layer."""
    layers = {name: best_layer(earlier, name) for name in config.behaviours}
    return [
        Question(f"{source} under {name}, {number}", name, source, "test", number, layer)
        for name, layer in layers.items()
        if layer is not None
        for source in config.knowledge
        for number in range(len(asked(source, "test", config.n_test, config.seed)[0]))
    ]


def measure(model: Model, item: Question, config: ChoiceConfig) -> Iterator[Record]:
    """p(match) of one question, plain and with each layer's vector, or a random one, added and subtracted."""
    items, origin = asked(item.source, item.split, config.n_test, config.seed)
    one = items[item.number]
    tokens, letters, last = answered(model, one.question)
    found = vectors(model, config, item.behaviour)
    layers = [item.layer] if item.layer >= 0 else [n for n in range(model.n_layers) if found.carries[n, 0]]
    cells: list[tuple[str, int, float]] = [
        (arm, layer, c) for arm in ("direction", "random") for layer in layers for c in MULTIPLIERS
    ]
    variants: list[list[Intervention]] = [[]]
    for arm, layer, c in cells:
        vector = found.vectors[layer, 0]
        if arm == "random":
            seed = stable_draw(config.seed, (item.behaviour, layer), 2**31)
            noise = np.random.default_rng(seed).normal(size=len(vector))
            vector = noise * np.linalg.norm(vector) / np.linalg.norm(noise)
        value = mx.array(vector.astype(np.float32))
        variants.append([Add(f"resid_post.{layer}", value, c, slice(last, len(tokens)))])
    right, wrong = letters[one.matching], letters[one.other]
    apart = model.sweep(tokens, variants, metric=lambda logits: logits[:, right] - logits[:, wrong])
    labels = {"behaviour": item.behaviour, "set": origin.name, "revision": origin.revision, "split": item.split}
    named: list[tuple[str, int | None, float]] = [("plain", None, 0.0), *cells]
    for (arm, at, c), logit in zip(named, np.asarray(apart).tolist(), strict=True):
        given = {"arm": arm, "layer": at, "multiplier": c, "p": 1 / (1 + float(np.exp(-logit)))}
        yield {**labels, **given, "unit": item.key, "n_layers": model.n_layers}


def best_layer(records: Records, behaviour: str) -> int | None:
    """The layer whose vector moves p(match) most on the choosing questions, at most 80 % deep; None without records."""
    effects: dict[int, float] = {}
    for r in of(records, MATCH, behaviour=behaviour, split="choose", arm="direction"):
        if r["layer"] <= DEEPEST * r["n_layers"]:
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
                    _mean(mine, arm, c, config.seed) for arm in ("direction", "random") for c in MULTIPLIERS
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
            "p: of the letter that shows the behaviour (or is right), among both. Vectors have their own length; layer "
            "chosen on other questions. Moved against: questions on which +1 gives less than -1.",
        ],
    )


def _mean(records: Sequence[Record], arm: str, multiplier: float, seed: int) -> Cell:
    own = [r for r in records if r["arm"] == arm and r["multiplier"] == multiplier]
    return mean_or_none([r["p"] for r in own], unit=[r["unit"] for r in own], seed=seed)


def _against(records: Sequence[Record]) -> float | None:
    moved: dict[str, float] = {}
    for r in records:
        if r["arm"] == "direction":
            moved[r["unit"]] = moved.get(r["unit"], 0.0) + r["multiplier"] * r["p"]
    return sum(value < 0 for value in moved.values()) / len(moved) if moved else None


STAGES = (Stage(MATCH, questions, measure), Stage(KNOWLEDGE, known, measure))
