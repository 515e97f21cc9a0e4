"""The check of the data finds nothing in what ships, and finds each kind of fault where there is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.data import aliases as of_aliases
from experiments.data import check
from experiments.data.aliases import read_aliases, spellings, unaccented
from experiments.data.function_answers import accepted_outputs
from experiments.data.single_facts import real_queries
from mlx_interp.errors import DataError


@pytest.mark.parametrize("name", ["two-hop queries", "function tasks", "aliases"])
def test_the_facts_and_tasks_that_ship_have_no_fault(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "SETS", {name: check.SETS[name]})
    status = check.main()
    assert status == 0, capsys.readouterr().out


def test_faults_of_queries_are_found() -> None:
    query = real_queries()[0]
    broken = {
        "occurs 2 times": [query, query],
        "names its subject": [replace(query, subject="Paris")],
        "two of its three entities are the same": [replace(query, answer=query.subject)],
        "names its bridge": [replace(query, bridge_aliases=(query.subject,))],
        "has no source": [replace(query, source="")],
        "has several answers": [query, replace(query, two_hop=f"{query.two_hop} now", bridge="Ohio")],
        "is in 'a' and in 'b'": [replace(query, split="a"), replace(query, split="b")],
    }
    assert not list(check.query_faults([query]))
    for message, queries in broken.items():
        assert any(message in fault for fault in check.query_faults(queries)), message


def test_names_that_can_be_taken_for_another_are_found() -> None:
    assert not list(check.name_clashes("x", [("rupee", "Indian rupee"), ("rupee", "Pakistani rupee"), ("yen",)]))
    for names, message in (
        ([("Virginia",), ("West Virginia",)], "a name of 'West Virginia' holds 'virginia', a name of 'Virginia'"),
        ([("Emily Brontë", "Brontë"), ("Charlotte Brontë",)], "holds 'bronte', a name of 'Emily Brontë'"),
        ([("krona", "crown"), ("koruna", "crown")], "a name of 'krona' holds 'crown', a name of 'koruna'"),
        ([("United States", "US")], "accepted as 'us', an ordinary word"),
    ):
        assert any(message in fault for fault in check.name_clashes("x", names)), message


def test_splits_of_one_set_are_compared() -> None:
    assert list(check.shared_between("requests", {"train": ["a", "b"], "test": ["b"], "held": ["c"]})) == [
        "requests: 'b' is in 'test' and in 'train'"
    ]


def test_a_table_that_cannot_be_read_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def unread() -> list[str]:
        raise DataError("relations.csv, row 3: nothing there")

    monkeypatch.setattr(check, "SETS", {"two-hop queries": unread})
    assert list(check.faults()) == ["two-hop queries: relations.csv, row 3: nothing there"]
    assert check.main() == 1


def test_what_people_say_is_accepted_and_only_where_it_fits() -> None:
    names = read_aliases()
    assert "Indian rupee" in names.of("currency", "rupee", "India")
    assert "Indian rupee" not in names.of("currency", "rupee", "Pakistan")
    assert {"pound sterling", "Great British pound", "British pound"} <= set(
        names.of("currency", "pound", "the United Kingdom")
    )
    assert {"USA", "U.S.", "America"} <= set(names.of("country", "United States"))
    assert "Kiev" in names.of("city", "Kyiv")
    assert "Tolstoy" in names.of("person", "Leo Tolstoy")
    assert "Brontë" not in names.of("person", "Emily Brontë")
    assert "Japanese yen" in accepted_outputs(names, "country-currency", ("Japan", "yen"))
    assert accepted_outputs(names, "uppercase", ("japan", "JAPAN")) == ()


def test_accents_may_be_left_out() -> None:
    assert spellings("Málaga", []) == ("Malaga",)
    assert spellings("zloty", ["złoty"]) == ("złoty",)
    assert unaccented("smørrebrød São Łódź") == "smorrebrod Sao Lodz"


def test_bad_tables_of_aliases_are_named_by_row(tmp_path: Path) -> None:
    path = tmp_path / "aliases.csv"
    for text, message in (
        ("type,name,aliases\n", "they must be type, name, of, aliases"),
        ("type,name,of,aliases\ncity,Kyiv,,Kiev\ncity,Kyiv,,Kiew\n", "row 2: .* has a row already"),
        ("type,name,of,aliases\ncity,Kyiv,,Kiev;;Kiew\n", "row 1: an alias of 'Kyiv' is empty"),
        ("type,name,of,aliases\ncity,,,Kiev\n", "row 1: column 'name' is missing or empty"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            of_aliases.read_aliases(path)
    with pytest.raises(DataError, match="cannot be read as CSV"):
        of_aliases.read_aliases(tmp_path / "none.csv")
