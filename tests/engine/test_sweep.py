"""A sweep is what running each variant alone is, whatever it shares and however it is split."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_interp import Ablate, Add, Patch
from mlx_interp.errors import ShapeError
from mlx_interp.interventions import Intervention
from mlx_interp.model import Model
from tests.engine.examples import KINDS, POSITIONS, SITES, TOKENS, example, mixed_variants, worst
from tests.tiny import tiny_model

BOUND = 1e-4


def alone(model: Model, variants: list[list[Intervention]]) -> mx.array:
    return mx.concatenate([model.run(TOKENS, interventions=variant).logits for variant in variants])


def test_a_mixed_sweep_equals_each_variant_alone(model: Model) -> None:
    variants = mixed_variants(model)
    assert worst(model.sweep(TOKENS, variants), alone(model, variants)) < BOUND


def test_a_sweep_of_one_variant_is_its_run(model: Model) -> None:
    """Where all variants begin at the first token, the clean run ends early, and nothing of it may be missed."""
    ones = mx.ones((model.d_model,))
    for variant in (
        [Add("resid_post.1", ones, 0.5)],
        [Ablate("resid_post", ones)],
        [Patch("resid_post.0", ones, 2)],
        [],
    ):
        assert worst(model.sweep(TOKENS, [variant]), alone(model, [variant])) < BOUND


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(["llama", "qwen2", "gemma2", "phi"]),
    variants=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(KINDS),
                st.sampled_from(SITES),
                st.integers(0, 2),
                st.sampled_from(POSITIONS),
                st.integers(0, 99),
            ),
            max_size=3,
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_any_sweep_equals_each_variant_alone(family: str, variants: list[list[tuple]]) -> None:
    model = tiny_model(family)
    built = [[example(model, *item) for item in variant if item[1] in model.sites] for variant in variants]
    assert worst(model.sweep(TOKENS, built), alone(model, built)) < BOUND


def test_the_result_does_not_depend_on_the_split(model: Model) -> None:
    variants = mixed_variants(model)
    steps: list[tuple[int, int]] = []
    split = model.sweep(TOKENS, variants, memory=100_000, progress=lambda done, n: steps.append((done, n)))
    assert len(steps) > 5
    assert steps[-1] == (len(variants), len(variants))
    assert worst(split, model.sweep(TOKENS, variants)) < 1e-5


def test_captures_and_all_logits_of_a_sweep_equal_each_variant_alone(model: Model) -> None:
    variants = mixed_variants(model)[::3]
    capture = model.sites
    swept = model.sweep(TOKENS, variants, capture=capture, logits="all")
    for row, variant in enumerate(variants):
        expected = model.run(TOKENS, interventions=variant, capture=capture, logits="all")
        assert worst(swept.logits[row], expected.logits[0]) < BOUND
        for name in map(str, expected.captured):
            difference = float(mx.linalg.norm(swept[name][row] - expected[name][0]))
            assert difference <= BOUND * float(mx.linalg.norm(expected[name][0])), (name, variant)


def test_a_metric_sees_the_logits_and_keeps_the_order(model: Model) -> None:
    variants = mixed_variants(model)
    measured = model.sweep(TOKENS, variants, metric=lambda logits: logits[:, 7] - logits[:, 9], memory=200_000)
    logits = model.sweep(TOKENS, variants)
    assert mx.allclose(measured, logits[:, 7] - logits[:, 9], atol=1e-4)


def test_a_metric_that_loses_the_variants_is_an_error(llama: Model) -> None:
    with pytest.raises(ShapeError, match="first axis must be 1"):
        llama.sweep(TOKENS, [[]], metric=lambda logits: logits.sum())


def test_a_sweep_leaves_clean_runs_bitwise_unchanged(model: Model) -> None:
    before = model.run(TOKENS, logits="all").logits
    model.sweep(TOKENS, mixed_variants(model))
    assert mx.array_equal(model.run(TOKENS, logits="all").logits, before)


def test_prompts_of_one_and_two_tokens_can_be_swept(model: Model) -> None:
    for tokens in ([5], [5, 9]):
        variants: list[list[Intervention]] = [
            [Patch(f"resid_post.{layer}", mx.ones((model.d_model,)), -1)] for layer in range(3)
        ]
        expected = mx.concatenate([model.run(tokens, interventions=variant).logits for variant in variants])
        assert worst(model.sweep(tokens, variants), expected) < BOUND
