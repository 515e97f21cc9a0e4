"""Elicitation: the same two-hop query asked plainly, behind worked examples, or as the reply of a chat.

A base model goes on with "a city in ..." where an answer was meant; behind a few examples of the same kind it answers.
What stands before the prompt is the query's `context`: positions, keys and shortcuts are those of the prompt behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from mlx_interp.continuations import space_before
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.errors import DataError
from mlx_interp.model import Model

Way = Literal["plain", "examples", "chat"]
WAYS: tuple[Way, ...] = get_args(Way)
INSTRUCTION = "Complete the sentence with the right answer."
"""The user's turn of a chat; the reply begins with the prompt, so that the answer is what follows."""


def ways_of(model: Model) -> list[Way]:
    """Ways of asking that a model allows: a chat needs a template."""
    chats = bool(getattr(model.tokenizer, "chat_template", None))
    return [way for way in WAYS if way != "chat" or chats]


def asked(model: Model, query: TwoHopQuery, kin: Sequence[TwoHopQuery], way: Way, n_examples: int) -> TwoHopQuery:
    """A query as it is put to a model; kin: queries that examples may be taken from.

    Raises PromptError for a chat without a template, DataError for fewer than one example.
    """
    if way == "examples":
        return behind_examples(query, kin, n_examples)
    return in_chat(model, query) if way == "chat" else query


def behind_examples(query: TwoHopQuery, kin: Iterable[TwoHopQuery], n_examples: int) -> TwoHopQuery:
    """A query behind solved ones of its family that share no entity with it or with one another, the first in order.

    Each prompt stands behind examples of its own kind: a single hop behind single hops. A query without such kin is
    asked plainly. Raises DataError for fewer than one example.
    """
    if n_examples < 1:
        raise DataError(f"{n_examples} examples: at least one is needed; elicit=plain asks without any")
    seen = entities(query)
    chosen: list[TwoHopQuery] = []
    for other in kin:
        if len(chosen) == n_examples:
            break
        if other.family == query.family and not entities(other) & seen:
            chosen.append(other)
            seen |= entities(other)
    return _behind(
        query,
        two_hop=_solved((other.two_hop, other.answer) for other in chosen),
        first_hop=_solved((other.first_hop, other.bridge) for other in chosen),
        second_hop=_solved((other.second_hop, other.answer) for other in chosen),
    )


def in_chat(model: Model, query: TwoHopQuery) -> TwoHopQuery:
    """A query as the beginning of a reply. Raises PromptError for a model without a chat template."""
    turns = model.prompt(INSTRUCTION, chat=True).text
    return _behind(query, two_hop=turns, first_hop=turns, second_hop=turns)


def entities(query: TwoHopQuery) -> set[str]:
    """Names of a query's entities, in lower case."""
    return {name.lower() for name in (query.subject, *query.bridges, *query.answers)}


def _solved(pairs: Iterable[tuple[str, str]]) -> str:
    """Prompts with their answers, one a line."""
    return "".join(f"{prompt}{space_before(prompt, answer)}{answer}.\n" for prompt, answer in pairs)


def _behind(query: TwoHopQuery, *, two_hop: str, first_hop: str, second_hop: str) -> TwoHopQuery:
    return replace(
        query,
        context=two_hop,
        two_hop=two_hop + query.two_hop,
        first_hop=first_hop + query.first_hop,
        second_hop=second_hop + query.second_hop,
    )
