"""The tasks that ship are what their names say: every pair that follows from a rule is derived again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from experiments.shared.in_context.tasks import FILES, read_task

ANIMALS = set("wolf bird tiger fox snake cat dog goat horse cow rabbit lion bear mouse pig sheep".split())
FRUITS = set("apple lemon cherry pear peach melon mango banana plum grape".split())
COLOURS = set("red orange black brown green grey yellow pink blue purple white".split())
Rule = Callable[[str], str]


def one_of(kind: set[str], others: set[str]) -> Rule:
    def chosen(text: str) -> str:
        words = text.split(", ")
        mine = [word for word in words if word in kind]
        rest = [word for word in words if word not in kind]
        assert all(word in others for word in rest) or not others
        return " ".join(mine)

    return chosen


def items(text: str) -> list[str]:
    return text.split(", ")


RULES: dict[str, Rule] = {
    "capitalize": str.capitalize,
    "uppercase": str.upper,
    "lowercase": str.lower,
    "first_letter": lambda x: x[0],
    "last_letter": lambda x: x[-1],
    "word_length": lambda x: str(len(x)),
    "choose_first_of_3": lambda x: items(x)[0],
    "choose_middle_of_3": lambda x: items(x)[1],
    "choose_last_of_3": lambda x: items(x)[2],
    "alphabetically_first_3": lambda x: min(items(x)),
    "alphabetically_last_3": lambda x: max(items(x)),
    "animal_v_object": one_of(ANIMALS, set()),
    "object_v_animal": lambda x: " ".join(word for word in items(x) if word not in ANIMALS),
    "fruit_v_animal": one_of(FRUITS, ANIMALS),
    "color_v_animal": one_of(COLOURS, ANIMALS),
}


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_pair_follows_from_its_task(name: str) -> None:
    for x, y in read_task(FILES / f"{name}.json").pairs:
        assert RULES[name](x) == y


def test_no_file_repeats_or_contradicts_itself() -> None:
    for path in FILES.glob("*.json"):
        task = read_task(path)
        assert (task.conflicts, task.repeats) == (0, 0), path.stem


@pytest.mark.parametrize(("one", "other"), [("country-capital", "capital-country"), ("next_item", "prev_item")])
def test_a_task_and_its_inverse_agree(one: str, other: str) -> None:
    back = {y: x for x, y in read_task(FILES / f"{other}.json").pairs}
    assert dict(read_task(FILES / f"{one}.json").pairs) == back


def test_a_person_is_a_word_of_the_sentence_and_topics_are_four_of_equal_share() -> None:
    for sentence, person in read_task(FILES / "person_in_sentence.json").pairs:
        assert person in sentence.split(), sentence
        assert sum(word[0].isupper() for word in sentence.split()[1:]) <= 2, sentence
    topics = Counter(topic for _, topic in read_task(FILES / "topic.json").pairs)
    assert set(topics) == {"Sports", "Business", "Science", "Politics"}
    assert len(set(topics.values())) == 1
