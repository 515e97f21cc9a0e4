"""Queries as they are put to a model: what stands before them changes no key, no position, no shortcut."""

from __future__ import annotations

import pytest

import mlx_interp as mi
from mlx_interp.behaviour.elicitation import INSTRUCTION, asked, behind_examples, entities, in_chat, ways_of
from mlx_interp.behaviour.two_hop import NOT_ASKED, bridge_position, screen_texts
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError

QUERIES = load_world().two_hop_queries("state_capital")


def test_examples_are_solved_queries_that_share_no_entity_with_the_query_or_one_another() -> None:
    for query in QUERIES[:40]:
        shown = behind_examples(query, QUERIES, 4)
        lines = shown.context.splitlines()
        assert len(lines) == 4
        used = [next(other for other in QUERIES if line.startswith(other.two_hop)) for line in lines]
        for line, other in zip(lines, used, strict=True):
            assert line == f"{other.two_hop} {other.answer}."
        names = [entities(other) for other in [query, *used]]
        assert sum(map(len, names)) == len(set().union(*names))
        assert shown.first_hop.startswith(f"{used[0].first_hop} {used[0].bridge}.\n")
        assert shown.first_hop.endswith(query.first_hop)
        assert shown.second_hop.startswith(f"{used[0].second_hop} {used[0].answer}.\n")


def test_what_stands_before_a_query_changes_neither_its_key_nor_where_its_bridge_is() -> None:
    model = mi.load("tiny-llama")
    for query in QUERIES[:5]:
        for way in ways_of(model):
            shown = asked(model, query, QUERIES, way, 3)
            assert shown.key == query.key
            assert shown.two_hop.endswith(query.two_hop)
            before, plain = len(model.prompt(shown.two_hop)), len(model.prompt(query.two_hop))
            assert before - bridge_position(model, shown) == plain - bridge_position(model, query)
            assert shown.entity_shortcut == shown.context + query.entity_shortcut
            assert shown.relation_shortcut == shown.context + query.relation_shortcut


def test_a_chat_is_a_reply_that_begins_with_the_prompt() -> None:
    model = mi.load("tiny-llama")
    shown = in_chat(model, QUERIES[0])
    assert shown.two_hop == model.prompt(INSTRUCTION, chat=True).text + QUERIES[0].two_hop
    assert model.prompt(shown.two_hop).tokens[:2] == model.prompt(INSTRUCTION, chat=True).tokens[:2], "one BOS"


def test_ways_are_those_that_the_tokenizer_allows() -> None:
    assert ways_of(mi.load("tiny-llama")) == ["plain", "examples", "chat"]


def test_a_query_without_kin_is_asked_plainly_and_no_examples_are_an_error() -> None:
    assert behind_examples(QUERIES[0], QUERIES[:1], 4) == QUERIES[0]
    with pytest.raises(DataError, match="elicit=plain"):
        behind_examples(QUERIES[0], QUERIES, 0)


def test_a_text_counts_that_names_the_answer_and_nothing_is_asked_where_a_hop_is_unknown() -> None:
    model = mi.load("tiny-gemma2")
    broken = TwoHopQuery(
        family="none",
        subject=QUERIES[0].subject,
        bridge="Nowhere",
        answer="Nothing",
        two_hop=QUERIES[0].two_hop,
        first_hop=QUERIES[0].first_hop,
        second_hop=QUERIES[0].second_hop,
        mention=QUERIES[0].mention,
    )
    found = screen_texts(model, [*QUERIES[:20], broken])
    assert found[-1].two_hop is NOT_ASKED
    known = [one for one in found if one.hops_known]
    assert len(known) > 10, "the embedded models know their single hops"
    for one in known:
        (text,) = model.generate(one.query.first_hop, max_tokens=10)
        assert one.query.bridge in text.text
    assert {one.group for one in known} <= {"failure", "correct", "neither"}
