"""How queries are asked is chosen on queries that are not reported, and said in the first table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import mlx_interp as mi
from experiments.data.two_hop import write_queries
from experiments.exp9_back_patching import EXPERIMENT, knock_out
from experiments.harness.runner import run
from experiments.harness.state import Run
from experiments.shared.two_hop import asking
from experiments.shared.two_hop.data import TwoHopConfig, data
from experiments.shared.two_hop.queries import Case, queries
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.embedded import load_world


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Queries that the embedded models know, as a user's own data."""
    path = tmp_path_factory.mktemp("data") / "queries.jsonl"
    kept = [query for query in load_world().two_hop_queries() if query.split != "trained"]
    write_queries(path, kept[:120])
    return path


def test_queries_that_a_way_of_asking_is_chosen_on_are_not_reported(file: Path) -> None:
    under = Run(mi.load("tiny-llama"), TwoHopConfig(data=str(file)))
    aside = asking.set_aside(under)
    everything = data(under)
    assert 0 < len(aside) <= asking.SET_ASIDE
    assert {query.key for query in queries(under, ())} == {query.key for query in everything} - aside
    for family in {query.family for query in everything}:
        kin = {query.key for query in everything if query.family == family}
        assert len(kin & aside) <= len(kin) // asking.ONE_OF


def test_the_way_with_most_hops_known_is_taken_and_the_plainest_of_equals(file: Path) -> None:
    under = Run(mi.load("tiny-llama"), TwoHopConfig(data=str(file)))

    def counts(*known: int) -> list[dict[str, object]]:
        return [
            {"stage": asking.STAGE, "item": way, "way": way, "both_hops": n}
            for way, n in zip(("plain", "examples", "chat"), known, strict=True)
        ]

    assert asking.chosen_way(under, counts(3, 7, 5)) == "examples"
    assert asking.chosen_way(under, counts(7, 7, 7)) == "plain"
    assert asking.chosen_way(under, ()) == "plain"
    asked = queries(under, counts(3, 7, 5))[0]
    assert asked.context
    assert asked.two_hop.count("\n") == under.config.examples
    fixed = Run(under.model, TwoHopConfig(data=str(file), elicit="chat"))
    assert asking.chosen_way(fixed, counts(3, 7, 5)) == "chat"
    assert not asking.set_aside(fixed)


def test_embedded_worlds_and_small_files_are_asked_plainly(file: Path, tmp_path: Path) -> None:
    model = mi.load("tiny-llama")
    assert not asking.ways(Run(model, TwoHopConfig()), ())
    write_queries(tmp_path / "few.jsonl", load_world().two_hop_queries()[: asking.ENOUGH - 1])
    assert not asking.ways(Run(model, TwoHopConfig(data=str(tmp_path / "few.jsonl"))), ())


@pytest.mark.slow
def test_a_study_on_own_data_shows_what_was_taken(file: Path, tmp_path: Path) -> None:
    few = ["--limit", "24", "--all-failures", "4", "--all-correct", "2", "--parts", "back_patching"]
    with pytest.raises(SystemExit) as stopped:
        run(EXPERIMENT, ["--model", "tiny-llama", "--data", str(file), *few, "--no-validate", "--out", str(tmp_path)])
    assert stopped.value.code in (0, None)
    folder = tmp_path / "exp9_back_patching" / "tiny-llama"
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    ways = {r["way"]: r["both_hops"] for r in records if r.get("stage") == asking.STAGE and "way" in r}
    assert set(ways) == {"plain", "examples", "chat"}
    screened = [r for r in records if r.get("stage") == "screened" and "group" in r]
    assert len(screened) == 24
    assert {r["answered"] for r in screened} == {"text"}
    table = (folder / "table.md").read_text()
    taken = next(line for line in table.splitlines() if "| yes" in line).split("|")[1].strip()
    assert ways[taken] == max(ways.values())


def test_positions_of_a_knockout_are_those_of_the_query_and_not_of_its_examples(file: Path) -> None:
    under = Run(mi.load("tiny-llama"), TwoHopConfig(data=str(file), elicit="examples"))
    for query in queries(under, ())[:6]:
        bare = replace(query, context="", two_hop=query.two_hop.removeprefix(query.context))
        shown, plain = (_words_of_edges(under.model, one) for one in (query, bare))
        assert shown == plain
        assert "last to second relation" in shown


def _words_of_edges(model: mi.Model, query: TwoHopQuery) -> dict[str, list[str]]:
    """By edge of the two-hop prompt, the part of the query that queries and keys cover."""
    prompt = model.prompt(query.two_hop)
    found = {}
    for name, text, *groups in knock_out.edges(model, Case(query, "failure", None), seed=0):
        if text == query.two_hop and name != knock_out.CONTROL:  # where a control lies depends on how words are split
            spans = [[prompt.spans[p] for p in group] for group in groups]
            found[name] = [query.two_hop[min(a for a, _ in some) : max(b for _, b in some)].strip() for some in spans]
    return found
