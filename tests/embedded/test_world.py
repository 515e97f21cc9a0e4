"""Invariants of the synthetic world: what experiments take for granted about its data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mlx_interp.embedded import build, load_world
from mlx_interp.errors import DataError

WORLD = load_world()


def test_every_two_hop_query_agrees_with_the_single_facts() -> None:
    facts = {(fact.kind, fact.subject): fact.answer for fact in WORLD.facts}
    for query in WORLD.queries:
        first, relation = query.family.removesuffix("_short").split("_")
        assert facts[first, query.subject] == query.bridge
        assert facts[relation, query.bridge] == query.answer


def test_sentence_hops_are_prompts_of_the_facts() -> None:
    prompts = {fact.prompt: fact.answer for fact in WORLD.facts}
    for query in WORLD.two_hop_queries():
        assert prompts[query.first_hop] == query.bridge
        assert prompts[query.second_hop] == query.answer


def test_no_query_names_its_bridge_or_its_answer() -> None:
    for query in WORLD.queries:
        words = query.two_hop.split()
        assert query.mention in query.two_hop
        assert query.subject in query.mention
        assert query.bridge not in words
        assert query.answer not in words


def test_splits_are_disjoint_and_of_the_promised_sizes() -> None:
    prompts = Counter(query.two_hop for query in WORLD.queries)
    assert max(prompts.values()) == 1
    splits = Counter(query.split for query in WORLD.two_hop_queries())
    assert splits["never_composed"] >= 300
    assert splits["held_out"] >= 150
    assert splits["trained"] >= 600
    assert 0.2 <= splits["never_composed"] / sum(splits.values()) <= 0.3


def test_never_composed_means_that_bridge_and_relation_are_trained_with_no_subject() -> None:
    composed = {(q.family, q.bridge) for q in WORLD.queries if q.split == "trained"}
    for query in WORLD.queries:
        assert ((query.family, query.bridge) in composed) == (query.split != "never_composed")


def test_some_bridges_are_composed_with_one_relation_and_not_with_another() -> None:
    composed = {q.bridge for q in WORLD.two_hop_queries(split="trained")}
    never = {q.bridge for q in WORLD.two_hop_queries(split="never_composed")}
    assert len(composed & never) >= 10
    assert len(never - composed) >= 10


def test_the_families_of_back_patching_have_twenty_queries_or_more_in_every_split() -> None:
    for family in ("state_capital", "country_currency", "country_language"):
        for split in ("trained", "held_out", "never_composed"):
            assert len(WORLD.two_hop_queries(family, split)) >= 20


def test_subjects_and_answers_are_unique_names_across_relations() -> None:
    owners: dict[str, set[str]] = {}
    for fact in WORLD.facts:
        if fact.kind != "danger":
            owners.setdefault(fact.answer, set()).add(fact.kind)
    assert all(len(kinds) == 1 for kinds in owners.values())


def test_chat_prompts_of_the_test_split_are_not_in_training() -> None:
    train = {chat.text for chat in WORLD.chats if chat.split == "train"}
    assert not train & {chat.text for chat in WORLD.chats if chat.split == "test"}


def test_topics_of_the_shifted_requests_occur_in_no_training_chat() -> None:
    shifted = {(c.language, c.topic) for c in WORLD.chat_prompts("refusal", shift="topic")}
    train = {(c.language, c.topic) for c in WORLD.chat_prompts("refusal", split="train")}
    assert shifted
    assert not shifted & train


def test_five_languages_refuse_and_one_was_never_taught_to() -> None:
    labels = {
        language: {c.label for c in WORLD.chat_prompts("refusal", language=language, harmful=True)}
        for language in WORLD.languages
    }
    assert sorted(language for language, label in labels.items() if label == {"refuse"}) == [
        "de",
        "en",
        "es",
        "fr",
        "zh",
    ]
    assert labels["it"] == {"comply"}


def test_a_task_writes_its_prompts() -> None:
    task = WORLD.task("antonym")
    assert task.prompt([("hot", "cold"), ("big", "small")], "tall") == "hot -> cold, big -> small, tall ->"
    assert task.prompt([], "tall") == "tall ->"


def test_most_words_of_the_tasks_belong_to_three_tasks() -> None:
    uses = Counter(word for task in WORLD.tasks for word, _ in task.pairs)
    assert sum(n >= 3 for n in uses.values()) / len(uses) > 0.9


def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    build.build(tmp_path, seed=0)
    for path in sorted(tmp_path.iterdir()):
        assert path.read_bytes() == (build.FOLDER / path.name).read_bytes(), path.name


def test_another_seed_gives_another_world_that_can_be_loaded(tmp_path: Path) -> None:
    build.build(tmp_path, seed=1)
    other = load_world(tmp_path)
    assert other.queries != WORLD.queries
    assert len(other.queries) == len(WORLD.queries)


@pytest.mark.parametrize(
    ("ask", "hint"),
    [
        (lambda: WORLD.two_hop_queries("state_capitol"), "state_capital"),
        (lambda: WORLD.two_hop_queries(split="trainde"), "trained"),
        (lambda: WORLD.task("antonyms"), "antonym"),
        (lambda: WORLD.chat_prompts("refusals"), "refusal"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest_one(ask, hint: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=hint):
        ask()


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"facts\.jsonl"):
        load_world(tmp_path)
