"""Single facts join to two-hop queries, by the rules that the module states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.data.aliases import Aliases
from experiments.data.published_facts import read_facts
from experiments.data.single_facts import (
    Family,
    Relation,
    family_queries,
    joined,
    read_families,
    read_relations,
    real_queries,
)
from experiments.data.two_hop import write_queries
from mlx_interp.datasets import read_two_hop
from mlx_interp.errors import DataError

NONE = Aliases({})
CITY = {"Osaka": "Japan", "Kyoto": "Japan", "Lyon": "France", "Tokyo": "Japan", "Chicago": "the United States"}
CAPITAL = {"Japan": "Tokyo", "France": "Paris", "the United States": "Washington, D.C.", "Mexico": "Mexico City"}


def relation(name: str, subject: str, object: str, template: str, facts: Mapping[str, str]) -> Relation:
    return Relation(name, subject, object, template, "P0", facts)


def family(cities: Mapping[str, str] = CITY, capitals: Mapping[str, str] = CAPITAL, most: int = 9) -> Family:
    first = relation("city_country", "city", "country", "the country that contains {}", cities)
    second = relation("country_capital", "country", "city", "the capital of {}", capitals)
    return Family("city_country_capital", first, second, most)


def test_two_facts_with_one_bridge_make_a_query() -> None:
    query = next(joined(family({"Osaka": "Japan"}), NONE))
    assert query.two_hop == "The capital of the country that contains Osaka is"
    assert query.first_hop == "The country that contains Osaka is"
    assert query.second_hop == "The capital of Japan is"
    assert (query.bridge, query.answer, query.mention) == ("Japan", "Tokyo", "the country that contains Osaka")
    assert query.entity_shortcut == "The capital of Osaka is"
    assert query.source == "Wikidata, CC0: Osaka (P0); Japan (P0)"


def test_an_article_belongs_to_the_prompt_and_not_to_the_name() -> None:
    query = next(joined(family({"Chicago": "the United States"}), NONE))
    assert query.first_hop == "The country that contains Chicago is the"
    assert query.second_hop == "The capital of the United States is"
    assert query.bridge == "United States"


def test_queries_that_give_themselves_away_are_left_out() -> None:
    assert [query.subject for query in joined(family(), NONE)] == ["Osaka", "Kyoto", "Lyon", "Chicago"]  # Tokyo: itself
    assert not list(joined(family({"Cancún": "Mexico"}), NONE))  # Mexico City begins as its bridge does
    assert not list(joined(family({"the Bank of Japan": "Japan"}), NONE))
    america = Aliases({("country", "United States", ""): ("América",)})
    assert not list(
        joined(family({"the Bank of America": "the United States"}), america)
    )  # an alias, without its accent


def test_each_bridge_comes_once_before_any_comes_twice() -> None:
    assert [query.bridge for query in family_queries(family(), NONE)] == ["Japan", "France", "United States", "Japan"]
    assert len(family_queries(family(most=2), NONE)) == 2


def test_answers_come_in_turn_among_bridges_that_come_for_the_first_time() -> None:
    cities = {"Lyon": "France", "Milan": "Italy", "Osaka": "Japan", "Nice": "France", "Porto": "Portugal"}
    currencies = {"France": "the euro", "Italy": "the euro", "Japan": "the yen", "Portugal": "the euro"}
    assert [query.subject for query in family_queries(family(cities, currencies), NONE)] == [
        *("Lyon", "Osaka", "Milan", "Porto"),
        "Nice",
    ]


def test_what_ships_survives_being_written_and_read(tmp_path: Path) -> None:
    queries = real_queries()[::40]
    write_queries(tmp_path / "queries.jsonl", queries)
    assert read_two_hop(tmp_path / "queries.jsonl") == queries


def test_tables_that_do_not_fit_are_named_by_file_and_row(tmp_path: Path) -> None:
    relations, families = tmp_path / "relations.csv", tmp_path / "families.csv"
    facts = tmp_path / "city_country.csv"
    head = "relation,subject,object,template,property,inverse_of\n"
    relations.write_text(f"{head}city_country,city,country,the country of it,P17,\n", encoding="utf-8")
    facts.write_text("subject,object\nOsaka,Japan\nOsaka,China\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"relations.csv, row 1: template 'the country of it' must hold \{\} once"):
        read_relations(relations, tmp_path)
    relations.write_text(f"{head}city_country,city,country,the country of {{}},P17,\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"city_country\.csv, row 2: 'Osaka' has an object already"):
        read_relations(relations, tmp_path)
    facts.write_text("subject,object\nOsaka, \n", encoding="utf-8")
    with pytest.raises(DataError, match="row 1: column 'object' is missing or empty"):
        read_relations(relations, tmp_path)
    facts.write_text("subject,object\nSalem, Oregon,United States\n", encoding="utf-8")
    with pytest.raises(DataError, match="a comma inside a cell needs quotes"):
        read_relations(relations, tmp_path)
    facts.write_text("subject,object\nOsaka,Japan\nKyoto,Japan\n", encoding="utf-8")
    backwards = "country_city,country,city,a city of {},P17,city_country\n"
    relations.write_text(f"{head}{backwards}", encoding="utf-8")
    with pytest.raises(DataError, match="row 1: 'Japan' belongs to 'Osaka' and 'Kyoto'; a fact has one answer"):
        read_relations(relations, tmp_path)
    facts.write_text("subject,object\nOsaka,Japan\n", encoding="utf-8")
    assert read_relations(relations, tmp_path)["country_city"].facts == {"Japan": "Osaka"}
    relations.write_text(f"{head}city_country,city,country,the country of {{}},P17,\n", encoding="utf-8")
    found = read_relations(relations, tmp_path)
    for row, message in (
        ("x,city_contry,city_country,5", "no relation 'city_contry': did you mean 'city_country'"),
        ("x,city_country,city_country,5", "city_country leads to a country and city_country starts at a city"),
    ):
        families.write_text(f"family,first,second,most\n{row}\n", encoding="utf-8")
        with pytest.raises(DataError, match=f"families.csv, row 1: {message}"):
            read_families(found, families)
    second = replace(found["city_country"], name="back", subject="country", object="city")
    families.write_text("family,first,second,most\nx,city_country,back,many\n", encoding="utf-8")
    with pytest.raises(DataError, match="most is 'many'; give a number"):
        read_families({**found, "back": second}, families)


def test_published_columns_stay_a_way_in(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text(
        "e1_label,e2_label,e3_label,r1_template,r2_template\nOsaka,Japan,Tokyo,the country of {},the capital of {}\n",
        encoding="utf-8",
    )
    assert read_facts(path)[0].query.two_hop == "the capital of the country of Osaka is"
