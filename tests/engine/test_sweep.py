"""A sweep is what running each variant alone is, whatever it shares and however it is split."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_interp import Ablate, Add, Apply, Patch
from mlx_interp.errors import ShapeError
from mlx_interp.interventions import Intervention
from mlx_interp.model import Model
from tests.engine.examples import KINDS, POSITIONS, SITES, TOKENS, example, mixed_variants, worst
from tests.tiny import FAMILY_CONFIGS, tiny_model

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


@pytest.mark.parametrize("family", sorted(FAMILY_CONFIGS))
def test_the_last_few_tokens_have_the_logits_that_all_of_them_have(family: str) -> None:
    """Where variants set in before, among and behind the positions that are asked for; with and without captures."""
    model = tiny_model(family)
    ones = mx.ones((model.d_model,))
    variants: list[list[Intervention]] = [
        [],
        *([Add(f"resid_post.{layer}", ones, 0.3, at)] for layer in range(model.n_layers) for at in (0, 3, 5, -1, None)),
        [Add("resid_pre.0", ones, 0.3, -2), Ablate("mlp_out.1", ones, 4)],
        [Add("final", ones, 0.2, -1)],
        [Add("final", ones, 0.2, 2)],
        [Ablate("attn_out", ones)],
    ]
    every = model.sweep(TOKENS, variants, logits="all")
    for n in (1, 2, 3, len(TOKENS)):
        swept = model.sweep(TOKENS, variants, logits=n)
        assert swept.shape == (len(variants), n, model.d_vocab)
        assert worst(swept, every[:, -n:]) < BOUND, n
    measured = model.sweep(TOKENS, variants, logits=2, metric=lambda x: x[:, 0, 7], memory=100_000)
    assert worst(measured, every[:, -2, 7]) < BOUND
    captured = model.sweep(TOKENS, variants, logits=3, capture="resid_post.1")
    assert worst(captured.logits, every[:, -3:]) < BOUND
    whole = [[Apply(f"resid_post.{model.n_layers - 1}", lambda x: x * 1.1)], []]
    assert worst(model.sweep(TOKENS, whole, logits=2), model.sweep(TOKENS, whole, logits="all")[:, -2:]) < BOUND


def test_logits_of_kept_runs_and_of_too_many_tokens(llama: Model) -> None:
    variants: list[list[Intervention]] = [[Patch("resid_post.0", mx.ones((llama.d_model,)), 4)], []]
    swept = llama.sweep(TOKENS, variants, logits=2, kept=llama.keep(TOKENS))
    assert worst(swept, llama.sweep(TOKENS, variants, logits="all")[:, -2:]) < BOUND
    for logits in (0, -1, len(TOKENS) + 1):
        with pytest.raises(ValueError, match=rf"logits={logits}: the prompt has 7 tokens"):
            llama.sweep(TOKENS, variants, logits=logits)
    for other in (True, "most", 1.5):
        with pytest.raises(ValueError, match="or a number of last tokens"):
            llama.sweep(TOKENS, variants, logits=other)  # type: ignore[call-overload]


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
