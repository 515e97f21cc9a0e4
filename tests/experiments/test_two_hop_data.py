"""Facts become queries; a model's answers sort them into the subsets that experiments use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mlx_interp as mi
from experiments.data import two_hop
from experiments.data.published_facts import Fact, read_facts
from experiments.data.single_facts import read_families, read_relations
from experiments.data.two_hop import evaluate, funnel, subsets, write
from mlx_interp.datasets import read_two_hop
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError

# A file as it was published: ids, aliases as a Python list in text, lower-case templates.
PUBLISHED = (
    "id,e1,r1,e2,r2,e3,e1_label,e2_label,e3_label,e1_aliases,e2_aliases,e3_aliases,e1_type,r1_type,e2_type,r2_type,"
    "e3_type,e1_popularity,e2_popularity,e3_popularity,r1_template,r2_template,source_prompt\n"
    '7,Q1971,P175,Q1203,P26,Q117012,Imagine,John Lennon,Yoko Ono,[],"[\'Lennon\', ""John \'O\' Lennon""]","[\'Ono\']",'
    "musical work,performer,human,spouse,human,10.5,20.0,3.5,the performer of {},the spouse of {},"
    "the spouse of the performer of Imagine\n"
    "8,Q1,P1,Q2,P2,Q1,France,Paris,France,[],[],[],country,capital,city,country,country,1,2,3,"
    "the capital of {},the country of {},the country of the capital of France\n"
)


def world_facts(n: int) -> list[Fact]:
    queries = load_world().two_hop_queries("state_capital")
    return [Fact(str(i), query, "state") for i, query in enumerate(queries[:n])]


def test_the_published_table_loads_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "two_hop.csv"
    path.write_text(PUBLISHED, encoding="utf-8")
    (fact,) = read_facts(path)  # the second row comes back to where it started
    query = fact.query
    assert query.two_hop == "the spouse of the performer of Imagine is"
    assert query.first_hop == "the performer of Imagine is"
    assert query.second_hop == "the spouse of John Lennon is"
    assert query.entity_shortcut == "the spouse of Imagine is"
    assert query.relation_shortcut == "the spouse of the performer of"
    assert query.bridge_aliases == ("Lennon", "John 'O' Lennon")
    assert (query.family, fact.bridge_type, fact.id) == ("musical_work_human_spouse", "human", "7")


def test_the_same_facts_as_json_make_the_same_queries(tmp_path: Path) -> None:
    import csv
    import io

    rows = list(csv.DictReader(io.StringIO(PUBLISHED)))
    (tmp_path / "f.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "f.csv").write_text(PUBLISHED, encoding="utf-8")
    assert read_facts(tmp_path / "f.json") == read_facts(tmp_path / "f.csv")


def test_subsets_are_what_the_world_says(tmp_path: Path) -> None:
    model = mi.load("tiny-llama")
    found = list(evaluate(model, world_facts(60)))
    for one in found:
        assert one.hops_known
        if one.fact.query.split == "trained":
            assert one.correct["composition"]
    assert any(not one.correct["composition"] for one in found)
    table = write(tmp_path, "tiny-llama", found, cap=100)
    rows = read_two_hop(tmp_path / "tiny-llama" / "incorrect.jsonl")
    assert {query.key for query in rows} == {one.fact.query.key for one in found if one.subset == "incorrect"}
    assert table.rows[-1][:3] == ["all", 60, 60]
    assert len((tmp_path / "tiny-llama" / "evaluated.csv").read_text().splitlines()) == 61


def test_a_cap_holds_for_each_subset_and_type_of_bridge() -> None:
    found = list(evaluate(mi.load("tiny-llama"), world_facts(60)))
    chosen = subsets(found, cap=2)
    assert all(len(members) <= 2 for members in chosen.values())
    assert sum(funnel(found, chosen).rows[-1][4:6]) == sum(len(members) for members in chosen.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("e3_label", "e3_lable"), "did you mean 'e3_lable'|column 'e3_label' is missing"),
        (("the performer of {}", "the performer of it"), r"must hold \{\} once"),
        (("['Ono']", "Ono"), "is no list"),
        (("Yoko Ono", " "), "row 1: column 'e3_label' is missing or empty"),
    ],
)
def test_bad_tables_are_named_by_row_and_column(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "two_hop.csv"
    path.write_text(PUBLISHED.replace(*change), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_facts(path)


@pytest.mark.slow
def test_the_command_writes_queries_and_says_how_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert two_hop.main(["--out", str(tmp_path), "--model", "tiny-qwen2", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    n = len(read_families(read_relations()))
    assert f"{2 * n} queries of {n} families" in out
    assert "From facts to the queries that count" in out
    assert len(read_two_hop(tmp_path / "queries.jsonl")) == 2 * n
    assert two_hop.main(["--facts", str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err
