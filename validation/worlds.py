"""What a model knows: asked in the embedded world's own words, and real facts behind examples of the same kind.

1. Each world's questions are asked, those that begin alike together, and answered by the arg-max of the first token.
2. The world of which a model knows the larger share is the one that its lens is tested on.

A model of real text goes on with "the" or "a" after "The capital of France is": it knows the fact, and has not been
told the form. Examples in front tell it, and cost an embedded model nothing but words that it does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp import Model
from mlx_interp.behaviour.answers import Question, question
from mlx_interp.deferred import mx
from mlx_interp.embedded import load_world
from validation import data


@dataclass(frozen=True)
class Asked:
    """A question with its one answer, and the token that the model says."""

    question: Question
    answer: str
    top: int

    @property
    def known(self) -> bool:
        return self.top in self.question.first_tokens


@dataclass(frozen=True)
class World:
    """Facts of one kind, asked of one model."""

    name: str
    asked: tuple[Asked, ...]

    @property
    def known(self) -> list[Asked]:
        return [item for item in self.asked if item.known]

    @property
    def share(self) -> float:
        return len(self.known) / len(self.asked)

    def __str__(self) -> str:
        return f"{len(self.known)} of {len(self.asked)} {self.name}"


@dataclass(frozen=True)
class Worlds:
    """The worlds asked of a model."""

    embedded: World
    real: World

    @property
    def best(self) -> World:
        """The one of which the model knows more."""
        return self.real if self.real.share > self.embedded.share else self.embedded

    def __str__(self) -> str:
        return f"known: {self.embedded}, {self.real}"


def ask_worlds(model: Model, n: int) -> Worlds:
    """Asks up to n facts of each world."""
    embedded = [(fact.prompt, fact.answer) for fact in load_world().everyday_facts[:n]]
    return Worlds(ask(model, "embedded facts", embedded), ask(model, "real facts", real_facts()[:n]))


def ask(model: Model, name: str, facts: Sequence[tuple[str, str]]) -> World:
    """Asks facts, (text, answer); what the texts begin with in common is computed once."""
    questions = [question(model, text, [answer]) for text, answer in facts]
    tops = model.sweep_prompts([q.prompt for q in questions], [[]], metric=lambda x: mx.argmax(x, axis=-1))
    found = [int(top) for top in np.asarray(tops).reshape(-1)]
    asked = (Asked(q, answer, top) for q, (_, answer), top in zip(questions, facts, found, strict=True))
    return World(name, tuple(asked))


def real_facts() -> list[tuple[str, str]]:
    """Text and answer, behind examples; kinds in turn, so that the first few are of every kind."""
    kinds = []
    for phrasing, examples, asked in data.FACTS:
        front = in_front([(phrasing.format(subject), answer) for subject, answer in examples])
        kinds.append([(front + phrasing.format(subject), answer) for subject, answer in asked])
    return [fact for turn in zip(*kinds, strict=True) for fact in turn]


def two_hops(world: World, n: int) -> list[tuple[str, str, str]]:
    """Text, bridge and answer of about n two-hop prompts of the world that a model knows."""
    if world.name == "real facts":
        front = in_front(data.TWO_HOP_EXAMPLES)
        return [(front + text, bridge, answer) for text, bridge, answer in data.TWO_HOP[:n]]
    queries = load_world().two_hop_queries(split="trained")
    chosen = queries[:: max(1, len(queries) // n)]
    return [(query.two_hop, query.bridge, query.answer) for query in chosen]


def in_front(examples: Sequence[tuple[str, str]]) -> str:
    """Examples as lines, each a whole sentence."""
    return "".join(f"{text} {answer}.\n" for text, answer in examples)
