"""References of the suite are each prompt and each variant by itself, and one wrong row among many is seen."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_interp import Add, Model
from tests.engine.examples import worst
from tests.tiny import tiny_model
from validation import alone
from validation.alone import EVERY, from_each_alone, prompts_alone
from validation.check import Subject
from validation.exactness import _variants


@pytest.fixture(scope="module")
def subject() -> Subject:
    from tests.validation.fault_table import loaded

    return Subject(loaded("tiny-llama"), "standard")


def test_each_variant_that_is_wrong_is_seen(subject: Subject) -> None:
    """Whether or not it is one of those that have a run of their own."""
    variants = _variants(subject)
    cases = [(subject.prompt.tokens, variant) for variant in variants]
    swept = subject.model.sweep(subject.prompt, variants)
    assert len(cases) > EVERY
    assert from_each_alone(subject.model, swept, cases) < 1e-5
    for number in range(len(cases)):
        wrong = mx.concatenate([swept[:number], swept[number : number + 1] * 1.001, swept[number + 1 :]])
        assert from_each_alone(subject.model, wrong, cases[:]) > 5e-4


def test_rows_that_reach_each_other_in_sweep_and_reference_alike_are_seen(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the plain passes wrong as a sweep is, the runs of single variants would tell."""
    variants = _variants(subject)
    cases = [(subject.prompt.tokens, variant) for variant in variants]
    wrong = subject.model.sweep(subject.prompt, variants)[::-1]
    monkeypatch.setattr(alone, "_in_plain_passes", lambda model, cases: dict(enumerate(wrong)))
    assert from_each_alone(subject.model, wrong, cases) > 1e-2


def test_every_kind_of_variant_has_a_run_of_its_own(subject: Subject) -> None:
    variants = _variants(subject)
    chosen = [variants[number] for number in range(0, len(variants), EVERY)]
    kinds = {tuple(type(one).__name__ for one in variant) for variant in variants}
    assert {tuple(type(one).__name__ for one in variant) for variant in chosen} == kinds


def test_prompts_alone_are_their_own_runs(subject: Subject) -> None:
    edits = [Add("resid_post.2", mx.ones((subject.model.d_model,)), 1.0, -1)]
    found = prompts_alone(subject.model, subject.prompts, "resid_post.4", edits)
    for prompt, one in zip(subject.prompts, found, strict=True):
        out = subject.model.run(prompt, capture="resid_post.4", interventions=edits)
        assert worst(one.logits, out.logits[0]) < 1e-5
        assert worst(one.state, out["resid_post.4"][0]) < 1e-5


def test_passes_are_cut_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Model = tiny_model("llama")
    cases = [([1, 2, 3 + number], []) for number in range(9)]
    swept = mx.concatenate([model.run(tokens).logits for tokens, _ in cases])
    monkeypatch.setattr(alone, "default_budget", lambda: 1)
    assert from_each_alone(model, swept, cases) < 1e-6
