"""exp18's pairs for trained models, on SmolLM2: equal but for what matters, and their answers are the right ones."""

from __future__ import annotations

import functools

import pytest

import mlx_interp as mi
from experiments.exp18_discover_circuits import trained_tasks
from experiments.exp18_discover_circuits.pair_sources import TRAINED, Source, drawn, prompts_of
from experiments.harness.experiment import ExperimentConfig
from experiments.harness.state import Run
from mlx_interp.circuits import Pair
from mlx_interp.errors import DataError
from mlx_interp.loading.packaged import PACKAGED_MODELS
from mlx_interp.model import Model

MODEL = "smollm2-135m"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PACKAGED_MODELS[MODEL].installed(), reason=f"{MODEL} is not installed: make real"),
]


@functools.cache
def model() -> Model:
    return mi.load(MODEL, check=False)


@functools.cache
def pairs(task: str) -> list[Pair]:
    return list(trained_tasks.candidates(model(), task))


def words(tokens: tuple[int, ...]) -> set[str]:
    return {model().tokenizer.decode([token]).strip() for token in tokens}


@pytest.mark.parametrize("task", [task for task in TRAINED if task != "refusal"])
def test_pairs_are_many_and_differ_in_their_subject(task: str) -> None:
    found = pairs(task)
    assert len(found) > 150
    assert len({pair.key for pair in found}) == len(found)
    for pair in found:
        same = sum(a == b for a, b in zip(pair.clean.tokens, pair.counterfactual.tokens, strict=True))
        assert 1 <= same < len(pair.clean)
        assert pair.wrong
    groups = {pair.group: len(pair.clean) for pair in found}
    assert all(groups[pair.group] == len(pair.clean) for pair in found), "positions mean the same in a group"


def test_verbs_agree_with_the_subject_and_not_with_the_noun_between() -> None:
    singular, plural = {"is", "was", "has"}, {"are", "were", "have"}
    for pair in pairs("agreement"):
        subject = pair.clean.text.split(". ")[-1].split()[1]
        noun = pair.clean.text.split()[-1]
        assert subject.endswith("s") != noun.endswith("s"), pair.clean.text
        assert words(pair.answers) == (plural if subject.endswith("s") else singular)
        assert words(pair.wrong) == (singular if subject.endswith("s") else plural)


def test_answers_are_the_first_digits_of_later_years_alone() -> None:
    """Brute force: all hundred ends of some spans."""
    for pair in pairs("greater_than")[::20]:
        start = int(pair.clean.text.split("the year ")[1].split()[0])
        for end in range(100):
            text = f"{pair.clean.text}{end:02d}"
            token = model().prompt(text).tokens[len(pair.clean)]
            if token in pair.answers:
                assert int(text.split()[-1]) > start, text
            if token in pair.wrong:
                assert int(text.split()[-1]) <= start, text
        assert pair.counterfactual.text.count("01 to the year") == 1


def test_a_word_is_shown_with_the_images_of_both_tasks_in_the_same_order() -> None:
    for pair in pairs("in_context"):
        shown, other = (text.split("Q: ")[1:] for text in (pair.clean.text, pair.counterfactual.text))
        assert [one.split("\n")[0] for one in shown] == [one.split("\n")[0] for one in other]
        assert shown[:-1] != other[:-1]


def test_the_model_does_what_is_drawn() -> None:
    run = Run(model(), ExperimentConfig())
    for task in ("recall", "agreement", "greater_than"):
        for pair in drawn(run, Source(), task, 6, 0).pairs:
            logits = [model().run(prompt).logits for prompt in (pair.clean, pair.counterfactual)]
            tops = [int(one[0].argmax()) for one in logits if one is not None]
            assert tops[0] in pair.answers
            assert tops[1] not in pair.answers


def test_written_requests_are_prompts_with_their_topic() -> None:
    harmful, harmless = prompts_of("written:harmful"), prompts_of("written:harmless")
    assert len(harmful) == len(harmless) >= 400
    assert [row.category for row in harmful] == [row.category for row in harmless]
    with pytest.raises(DataError, match="harmful, or harmless"):
        prompts_of("written:nice")
