"""Concept injection: does a model report a concept that was put into its states, and notice that one was?

A concept's vector (its state less the mean of the other concepts') is added to the stream at one layer, in one of two
places: at the tokens of a sentence before the question alone, or from there to the end. Then the model is asked

report    which word the thought is about: is the concept the likeliest of all concepts?
any word  to name any word: what the vector pushes the next word to, with no question about it. A concept that is named
          here as often is no report.
notice    whether there is such a thought: log-odds of yes against no, less those without an injection.

Control: random vectors of the same length, for which "named" is chance, and "noticed" what any disturbance does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypedDict

import numpy as np

from experiments.exp20_instruments.hop_pairs import PairConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run, of_run
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.directions import concept_vectors
from mlx_interp.errors import DataError
from mlx_interp.interventions import Add
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.prompts import Prompt
from mlx_interp.reporting import Cell, Column, Table

STAGE = "injection"
CONCEPTS = (
    *("ocean", "music", "fire", "bread", "horse", "winter", "gold", "school", "garden", "money", "moon", "war"),
    *("blood", "ship", "forest", "king", "glass", "wine", "train", "paper", "mirror", "river", "bridge", "honey"),
)
BEFORE = "There may be a thought in your mind that somebody put there."
"""The sentence at whose tokens vectors are added."""
REPORT, ANY, NOTICE = "report", "any word", "notice"
QUESTIONS = {
    REPORT: ("Which word is that thought about?", "The word is"),
    ANY: ("Please name any word that you like.", "The word is"),
    NOTICE: ("Is there such a thought? Answer yes or no.", ""),
}
"""The question behind the sentence, and what the answer begins with."""
NONE, CONCEPT, RANDOM = "none", "concept", "random"
PLACES = ("sentence", "to the end")
DEPTHS = (1 / 3, 1 / 2, 2 / 3)


@dataclass(frozen=True)
class InjectionConfig(PairConfig):
    """Fields of concept injection."""

    n_concepts: int = 24
    """Concepts that are injected, one at a time."""
    injection_strengths: tuple[float, ...] = (1.0, 4.0, 16.0)
    """Multiples of a concept's vector."""


@dataclass(frozen=True)
class Injected:
    """One concept, as an item."""

    key: str


class Reported(TypedDict):
    """What a model says under one injection."""

    question: str
    arm: str
    place: str | None
    """Of the injection; None without one, so for layer and strength."""
    layer: int | None
    strength: float | None
    named: bool | None
    """Whether the concept is the likeliest of all; None where the question is whether there is a thought."""
    noticed: float | None
    """Log-odds of yes against no, nats, less those without an injection; None for the other questions."""


def concepts(run: Run[InjectionConfig]) -> list[Injected]:
    """Concepts by their words; none for the embedded models, which have no words for these."""
    if run.model.name in EMBEDDED:
        return []
    return [Injected(word) for word in CONCEPTS[: run.config.at_most(run.config.n_concepts)]]


def layers(n_layers: int) -> list[int]:
    """A third, half and two thirds of the way up."""
    return sorted({min(round(depth * n_layers), n_layers - 1) for depth in DEPTHS})


@of_run(1)
def vectors(run: Run[InjectionConfig]) -> dict[int, dict[str, np.ndarray]]:
    """Concept vectors by layer and word, of all concepts, whichever are injected."""
    return {layer: concept_vectors(run.model, CONCEPTS, f"resid_post.{layer}") for layer in layers(run.model.n_layers)}


@of_run(1)
def first_tokens(run: Run[InjectionConfig]) -> dict[str, int]:
    """The first token of each concept where the answer goes on. Raises DataError where two begin alike."""
    prompt = asked(run, REPORT)
    found = {word: run.model.continuation(prompt, word)[0] for word in CONCEPTS}
    if len(set(found.values())) < len(found):
        alike = ", ".join(word for word, token in found.items() if list(found.values()).count(token) > 1)
        raise DataError(f"{run.model.name}: concepts {alike} begin with one token: they cannot be told apart")
    return found


def asked(run: Run[InjectionConfig], question: str) -> Prompt:
    """The sentence and a question as a user's turn where there is a template, and what the answer begins with."""
    text, begun = QUESTIONS[question]
    chat = bool(getattr(run.model.tokenizer, "chat_template", None))
    prompt = run.model.prompt(f"{BEFORE} {text}", chat=chat)
    return run.model.prompt(f"{prompt.text}{begun if chat else f' {begun}'}") if begun else prompt


def measure(run: Run[InjectionConfig], item: Injected) -> Iterator[Reported]:
    """Every question under every injection of a concept, and of random vectors of its length."""
    cells = list(product(PLACES, layers(run.model.n_layers), run.config.injection_strengths, (CONCEPT, RANDOM)))
    words, tokens = first_tokens(run), np.array(list(first_tokens(run).values()))
    mine = list(words).index(item.key)
    for question in QUESTIONS:
        prompt = asked(run, question)
        sentence = prompt.find(BEFORE)
        places = {PLACES[0]: sentence, PLACES[1]: list(range(sentence[0], len(prompt)))}
        variants = [[Add(f"resid_post.{n}", _vector(run, item, n, arm), x, places[at])] for at, n, x, arm in cells]
        logits = np.array(run.model.sweep(prompt, [[], *variants]).astype(mx.float32), dtype=np.float64)
        if question == NOTICE:
            yes, no = (run.model.continuation(prompt, word)[0] for word in ("Yes", "No"))
            odds = logits[:, yes] - logits[:, no]
            named, noticed = [None] * len(odds), (odds - odds[0]).tolist()
        else:
            named = (logits[:, tokens].argmax(axis=1) == mine).tolist()
            noticed = [None] * len(named)
        for (place, layer, strength, arm), hit, log_odds in zip(
            [(None, None, None, NONE), *cells], named, noticed, strict=True
        ):
            yield {
                "question": question,
                "arm": arm,
                "place": place,
                "layer": layer,
                "strength": strength,
                "named": hit,
                "noticed": log_odds,
            }


def _vector(run: Run[InjectionConfig], item: Injected, layer: int, arm: str) -> mx.array:
    vector = vectors(run)[layer][item.key]
    if arm == RANDOM:
        vector = random_like(vector, seed=run.seed, key=(STAGE, item.key, layer))
    return mx.array(vector.astype(np.float32))


def headline(records: Records, config: InjectionConfig) -> str | None:
    """Injected concepts named when asked for, and without: over all layers, at the largest strength."""
    most = of(records, STAGE, strength=max(config.injection_strengths), place=PLACES[1])
    told = [
        most.where(question=question, arm=arm).rate("named", seed=config.seed)
        for question, arm in ((REPORT, CONCEPT), (ANY, CONCEPT), (REPORT, RANDOM))
    ]
    if None in told:
        return None
    asked_for, free, by_chance = (one.text(percent=True) for one in told if one is not None)
    return f"injected concepts named: {asked_for} % when asked for, {free} % unasked, random vectors {by_chance} %"


def table(records: Records, config: InjectionConfig) -> Table | None:
    """Injected concepts named and noticed, by place, layer and strength."""
    found = of(records, STAGE)
    if not found:
        return None
    cells = list(dict.fromkeys((r["place"], r["layer"], r["strength"]) for r in found if r["arm"] != NONE))
    rows: list[list[Cell]] = []
    for place, layer, strength in cells:
        here = found.where(place=place, layer=layer, strength=strength)
        named = [
            here.where(question=question, arm=arm).rate("named", seed=config.seed)
            for question in (REPORT, ANY)
            for arm in (CONCEPT, RANDOM)
        ]
        odds = [here.where(question=NOTICE, arm=arm).rate("noticed", seed=config.seed) for arm in (CONCEPT, RANDOM)]
        rows.append([place, layer, strength, len({r["item"] for r in here}), *named, *odds])
    columns: list[Column | str] = [
        *("injected at", "layer", Column("strength"), "n concepts"),
        *(Column("asked for the thought: named", "%"), Column("random vector", "%")),
        *(Column("asked for any word: named", "%"), Column("random vector, any word", "%")),
        *(Column("says yes", "nats"), Column("random vector says yes", "nats")),
    ]
    notes = [
        f"Named: the concept is the likeliest of {len(CONCEPTS)}, chance {1 / len(CONCEPTS):.1%}. Asked for any word, "
        "the model is asked for no report: what it names there is the vector's own push on the next word.",
        "Says yes: log-odds of yes against no to whether there is a thought, less those without an injection. "
        f"Strength: multiples of the concept's vector; sentence: the tokens of {BEFORE!r}.",
    ]
    return Table("Injected concepts reported", columns, rows, notes)
