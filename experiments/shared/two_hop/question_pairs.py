"""Pairs of questions of one kind and length whose answers begin differently: "The capital of Texas is", and of Ohio."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from experiments.data.single_facts import real_queries
from mlx_interp.behaviour.answers import continuation
from mlx_interp.circuits import Pair
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.embedded import load_world
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt


@dataclass(frozen=True)
class Asked:
    """A question; `subject` is what distinguishes it from others of its family."""

    text: str
    answer: str
    family: str
    subject: str
    bridge: str = ""
    """Two questions of one bridge are no pair; empty: none."""


def known_queries(model: Model) -> list[TwoHopQuery]:
    """What a model can be asked: of the embedded world all that it was trained on, of others the tables of facts."""
    queries = load_world().two_hop_queries() if model.name in EMBEDDED else real_queries()
    return [query for query in queries if query.split != "never_composed"]


def second_hops(model: Model) -> list[Asked]:
    """Single-hop questions, each once: the second hops of the queries."""
    once = {query.second_hop: query for query in known_queries(model)}
    return [Asked(query.second_hop, query.answer, query.family, query.bridge) for query in once.values()]


def two_hops(model: Model) -> list[Asked]:
    """Two-hop questions."""
    return [Asked(q.two_hop, q.answer, q.family, q.subject, q.bridge) for q in known_queries(model)]


def question_pairs(model: Model, questions: Iterable[Asked]) -> Iterator[Pair]:
    """Each question with the next one of its family and length in tokens whose bridge and answer differ.

    A pair's key names family and subjects, its group family and length. Pairs come in the order of the questions.
    """
    alike: dict[tuple[str, int], list[tuple[Asked, Prompt]]] = defaultdict(list)
    places: list[tuple[tuple[str, int], int]] = []
    for question in questions:
        prompt = model.prompt(question.text)
        kind = question.family, len(prompt)
        places.append((kind, len(alike[kind])))
        alike[kind].append((question, prompt))
    for kind, at in places:
        (question, prompt), others = alike[kind][at], (*alike[kind][at + 1 :], *alike[kind][:at])
        answer = continuation(model, prompt, question.answer)[0]
        for other, donor in others:
            wrong = continuation(model, donor, other.answer)[0]
            if wrong != answer and not (question.bridge and other.bridge == question.bridge):
                key = f"{question.family}: {question.subject} / {other.subject}"
                yield Pair(key, prompt, donor, (answer,), (wrong,), f"{kind[0]} {kind[1]}")
                break
