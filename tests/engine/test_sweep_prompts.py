"""Variants on many prompts are what sweeping each prompt alone gives, whatever the prompts begin with in common."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_interp import Ablate, Add, Apply, Intervention, Knockout, Patch, Scale
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import plan_edits
from mlx_interp.engine.prefix_tree import together
from mlx_interp.engine.sweep_prompts import _Prompts
from mlx_interp.errors import NeverFired, PositionError, ShapeError
from mlx_interp.model import Model
from tests.engine.examples import inside_mlp, mixed_variants, sites_of, worst
from tests.tiny import tiny_model

PROMPTS = [[3, 5, 7, 11, 13], [3, 5, 7, 11, 17, 19, 4], [3, 5, 8, 11, 13, 6], [9, 5, 7, 4, 4], [3, 5, 7, 11, 13]]
BOUND = 1e-4


def variants_of(model: Model) -> list[list[Intervention]]:
    """Edits at all positions, at those that differ from prompt to prompt, and at those that a prompt may lack."""
    rng = np.random.default_rng(1)
    vector, other = (mx.array(rng.normal(size=model.d_model).astype(np.float32)) for _ in range(2))
    rows = mx.array(rng.normal(size=(2, model.d_model)).astype(np.float32))
    return [
        [],
        [Ablate(site, vector) for site in ("resid_pre.0", "attn_out", "mlp_out")],
        [Add("resid_post.1", vector, 2.0, slice(None))],
        [Add("attn_out.0", vector, 2.0, -1)],
        [Patch("resid_post.0", rows, [-2, 1])],
        [Add("resid_post.1", other, 1.0, slice(1, 3)), Ablate("resid_post.1", vector, -2)],
        [Patch("z.1", mx.ones((model.d_head,)), -1, heads=2)],
        [Scale(f"{inside_mlp(model)}.2", 0.2, slice(2, -1))],
        [Knockout(1, query=-1, keys=[0, 2])],
        [Knockout("0-2", query=slice(2, None), keys=1), Scale("v.1", 2.0, 3)],
        [Scale("resid_pre.0", 1.5, slice(5, None)), Add("resid_pre.0", vector, 1.0, 0)],
        [Add("final", vector, 1.0, -1)],
    ]


def one_by_one(model: Model, prompts: list[list[int]], variants: list[list[Intervention]]) -> mx.array:
    return mx.stack([model.sweep(prompt, variants) for prompt in prompts])


def swept_by_run(model: Model, variants: list[list[Intervention]]) -> mx.array:
    return mx.stack(
        [mx.concatenate([model.run(prompt, interventions=one).logits for one in variants]) for prompt in PROMPTS]
    )


def whole(variants: list[list[Intervention]]) -> list[list[Intervention]]:
    """Those that touch every prompt: one that finds nothing to touch is an error, alone as together."""
    return [
        variant for variant in variants if not any(getattr(one, "positions", 0) == slice(5, None) for one in variant)
    ]


def test_variants_on_many_prompts_equal_runs_of_each_alone(model: Model) -> None:
    variants = whole(variants_of(model))
    assert worst(model.sweep_prompts(PROMPTS, variants), swept_by_run(model, variants)) < BOUND


def test_variants_that_enter_the_last_layer_equal_runs_of_each_alone(model: Model) -> None:
    """Of the last layer, prompts of different lengths hold their ends alone, wherever these stand in the layout."""
    last = model.n_layers - 1
    names = [name for name in sites_of(model) if name not in ("scores", "pattern", "final")]
    variants: list[list[Intervention]] = [[Scale(f"{name}.{last}", 0.3, -1)] for name in names]
    assert worst(model.sweep_prompts(PROMPTS, variants), swept_by_run(model, variants)) < BOUND


def test_every_kind_of_intervention_equals_each_prompt_alone(llama: Model) -> None:
    prompts = [[3, 5, 7, 11, 13, 17, 19], [3, 5, 7, 11, 13, 17, 4], [3, 5, 7, 8, 13, 17, 19]]
    variants = mixed_variants(llama)[::4]
    assert worst(llama.sweep_prompts(prompts, variants), one_by_one(llama, prompts, variants)) < BOUND


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(2, 4), min_size=4, max_size=8), min_size=1, max_size=7),
    chosen=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    family=st.sampled_from(["gemma3", "qwen2", "gpt2"]),
)
def test_any_prompts_equal_each_alone(prompts: list[list[int]], chosen: list[int], family: str) -> None:
    model = tiny_model(family)
    variants = [whole(variants_of(model))[number] for number in chosen]
    assert worst(model.sweep_prompts(prompts, variants), one_by_one(model, prompts, variants)) < BOUND


def test_the_result_does_not_depend_on_the_memory_given(llama: Model) -> None:
    variants = whole(variants_of(llama))
    steps: list[tuple[int, int]] = []
    split = llama.sweep_prompts(PROMPTS, variants, memory=50_000, progress=lambda done, n: steps.append((done, n)))
    assert worst(split, llama.sweep_prompts(PROMPTS, variants)) < 1e-5
    assert steps[-1] == (len(PROMPTS) * len(variants),) * 2


def test_what_prompts_begin_with_is_computed_once(llama: Model) -> None:
    layout, paths = together(PROMPTS, [[None] * len(prompt) for prompt in PROMPTS])
    assert layout.length == 5 + 3 + 4 + 5  # the first prompt, what the second adds, the third, the fourth
    assert [[int(layout.tokens[column]) for column in path] for path in paths] == PROMPTS
    assert layout.sees is not None
    assert [int(row.sum()) for row in layout.sees] == [p + 1 for p in layout.positions]


def test_tokens_are_kept_apart_where_variants_treat_prompts_differently(llama: Model) -> None:
    prompts = [[3, 5, 7], [3, 5, 7, 9]]
    assert _layout_length(llama.network, prompts, [[Scale("resid_pre.0", 0.5)]]) == 4
    assert _layout_length(llama.network, prompts, [[Scale("resid_pre.0", 0.5, -1)]]) == 2 + 1 + 2


def _layout_length(net: Network, prompts: list[list[int]], variants: list[list[Intervention]]) -> int:
    plans = {n: plan_edits(net, variants, [n] * len(variants)) for n in (3, 4)}
    return _Prompts(net, prompts, plans, 1).joined([0, 1])[0].length


def test_short_prompts_that_share_nothing_are_swept_together_and_long_ones_apart(llama: Model) -> None:
    short, long = [[n, 5, 7, 11] for n in range(6)], [[n, *range(2, 20)] * 20 for n in range(2)]
    variants: list[list[Intervention]] = [[Scale(f"resid_pre.{layer}", 0.5, -1)] for layer in range(3)]
    assert [len(pack) for pack in _packs(llama.network, short, variants)] == [6]
    assert [len(pack) for pack in _packs(llama.network, long, variants)] == [1, 1]
    assert worst(llama.sweep_prompts(short, variants), one_by_one(llama, short, variants)) < BOUND


def test_what_variants_recompute_counts_in_how_many_prompts_go_together(llama: Model) -> None:
    """Each variant's positions look at all prompts' columns: ten thousand variants are no longer worth it."""
    prompts = [[n, *range(2, 30)] for n in range(4)]
    assert len(_packs(llama.network, prompts, [[Scale("resid_pre.0", 0.5, -1)]])) == 1
    assert len(_packs(llama.network, prompts, [[Scale("resid_pre.0", 0.5)]] * 200)) == 4


def _packs(net: Network, prompts: list[list[int]], variants: list[list[Intervention]]) -> list[list[int]]:
    plans = {n: plan_edits(net, variants, [n] * len(variants)) for n in {len(prompt) for prompt in prompts}}
    return list(_Prompts(net, prompts, plans, len(variants)).packs())


def test_one_metric_or_one_for_each_prompt(llama: Model) -> None:
    logits = llama.sweep_prompts(PROMPTS, [[], [Scale("attn_out.1", 0.0)]])
    assert mx.allclose(llama.sweep_prompts(PROMPTS, [[], [Scale("attn_out.1", 0.0)]], metric=_third), logits[..., 3])
    each = [lambda logits, at=at: logits[:, at] for at in range(len(PROMPTS))]
    ours = llama.sweep_prompts(PROMPTS, [[], [Scale("attn_out.1", 0.0)]], metric=each)
    assert mx.allclose(ours, mx.stack([logits[at, :, at] for at in range(len(PROMPTS))]))
    with pytest.raises(ShapeError, match="2 metrics for 5 prompts"):
        llama.sweep_prompts(PROMPTS, [[]], metric=[_third, _third])


def _third(logits: mx.array) -> mx.array:
    return logits[:, 3]


def test_mistakes_are_the_same_as_with_one_prompt(llama: Model) -> None:
    with pytest.raises(NeverFired, match="5 tokens"):
        llama.sweep_prompts(PROMPTS, [[Scale("resid_pre.0", 0.5, slice(5, None))]])
    with pytest.raises(PositionError, match="position 5 does not exist"):
        llama.sweep_prompts(PROMPTS, [[Scale("resid_pre.0", 0.5, 5)]])
    with pytest.raises(ValueError, match="at least one variant"):
        llama.sweep_prompts(PROMPTS, [])


def test_functions_and_patterns_are_swept_prompt_by_prompt(llama: Model) -> None:
    variants: list[list[Intervention]] = [
        [Apply("resid_mid.1", lambda x: x - x.mean(axis=1, keepdims=True))],
        [Scale("pattern.1", 0.5, -1)],
    ]
    assert worst(llama.sweep_prompts(PROMPTS, variants), one_by_one(llama, PROMPTS, variants)) < BOUND
