"""The two-hop files of the real world: readable, unambiguous, and without their answers in the prompt."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from mlx_interp.datasets import TwoHopQuery, read_two_hop

DATA = Path(__file__).resolve().parents[2] / "experiments" / "data"
FILES = sorted(DATA.glob("*.jsonl"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def queries(request: pytest.FixtureRequest) -> list[TwoHopQuery]:
    return read_two_hop(request.param)


def test_the_three_families_are_there() -> None:
    assert {path.stem for path in FILES} >= {"state_capital", "country_currency", "country_language"}


def test_each_family_is_large_enough_to_be_halved(queries: list[TwoHopQuery]) -> None:
    assert len(queries) >= 25
    assert len({query.family for query in queries}) == 1
    assert len({query.subject for query in queries}) == len(queries)


def test_no_prompt_gives_its_answer_or_bridge_away(queries: list[TwoHopQuery]) -> None:
    for query in queries:
        prompt = query.two_hop.lower()
        for word in (query.answer, query.bridge):
            assert word.lower() not in prompt.split(query.mention.lower())[0], query.key
            assert f" {word.lower()} " not in f" {prompt} ", query.key
        assert query.answer.lower() not in query.second_hop.lower(), query.key
        assert query.bridge.lower() not in query.first_hop.lower(), query.key


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
