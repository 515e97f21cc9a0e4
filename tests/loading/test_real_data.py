"""The two-hop queries of the real world: enough, readable, unambiguous, and without their answers in the prompt."""

from __future__ import annotations

from collections import defaultdict

import pytest

from experiments.data.single_facts import real_queries
from mlx_interp.datasets import TwoHopQuery

ALL = real_queries()
FAMILIES = list(dict.fromkeys(query.family for query in ALL))


@pytest.fixture(params=FAMILIES)
def queries(request: pytest.FixtureRequest) -> list[TwoHopQuery]:
    return [query for query in ALL if query.family == request.param]


def test_fifteen_hundred_queries_of_fifteen_families_are_there() -> None:
    assert len(ALL) >= 1500
    assert len(FAMILIES) >= 15
    assert set(FAMILIES) >= {"state_capital", "country_currency", "country_language"}


def test_a_family_has_eight_bridges_and_the_first_queries_have_them_all(queries: list[TwoHopQuery]) -> None:
    bridges = len({query.bridge for query in queries})
    assert bridges >= 8
    assert len({query.bridge for query in queries[:bridges]}) == bridges


def test_no_prompt_gives_its_answer_or_bridge_away(queries: list[TwoHopQuery]) -> None:
    for query in queries:
        prompt = query.two_hop.lower()
        for word in (query.answer, query.bridge):
            assert word.lower() not in prompt.split(query.mention.lower())[0], query.key
            assert f" {word.lower()} " not in f" {prompt} ", query.key
        assert f" {query.answer.lower()} " not in f" {query.second_hop.lower()} ", query.key
        assert f" {query.bridge.lower()} " not in f" {query.first_hop.lower()} ", query.key


def test_answer_and_bridge_cannot_be_confused_by_their_first_tokens(queries: list[TwoHopQuery]) -> None:
    for query in queries:
        assert not query.answer.startswith(query.bridge), query.key
        assert not query.bridge.startswith(query.answer), query.key


def test_prompts_end_where_the_answer_begins(queries: list[TwoHopQuery]) -> None:
    for query in queries:
        for prompt in (query.two_hop, query.first_hop, query.second_hop):
            assert prompt == prompt.strip()
            assert prompt.endswith((" is", " is the"))
        assert query.bridge in query.second_hop
        assert query.subject in query.mention
        assert query.mention in query.two_hop
        assert query.mention.lower() in query.first_hop.lower()


def test_a_bridge_has_one_answer_and_a_source(queries: list[TwoHopQuery]) -> None:
    answers = defaultdict(set)
    for query in queries:
        answers[query.bridge].add((query.answer, query.answer_aliases))
        assert query.source.startswith("Wikidata, CC0")
        assert len(set(query.answers)) == len(query.answers)
    assert all(len(values) == 1 for values in answers.values()), answers
