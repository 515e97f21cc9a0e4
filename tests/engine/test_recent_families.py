"""Families with layers of several kinds: sweeps, prompts together and cached texts are what single runs are."""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Add, Intervention, Knockout, Patch, Scale
from mlx_interp.engine import sweep_batch, sweep_state
from mlx_interp.model import Model
from mlx_interp.sites import KINDS
from tests.engine.examples import TOKENS, example, worst
from tests.tiny import RECENT, tiny_model

PROMPTS = [[3, 5, 7, 11, 13], [3, 5, 7, 11, 17, 19, 4], [3, 5, 8, 11], [9, 5, 7, 4, 4, 23, 8, 1]]
BOUND = 1e-4


@cache
def model_of(family: str) -> Model:
    return tiny_model(family)


@pytest.fixture(params=sorted(family for family in RECENT if family not in ("mistral3", "gemma4")))
def model(request: pytest.FixtureRequest) -> Model:
    return model_of(request.param)


def variants_of(model: Model) -> list[list[Intervention]]:
    """Every site that can be changed, in a layer that has it, at an early, a late or several positions."""
    found: list[list[Intervention]] = [[]]
    for number, site in enumerate(name for name in model.sites if KINDS[name].writable):
        layers = model.network.layers_with(site) or [-1]
        kind = ("patch", "scale", "add", "zero" if KINDS[site].stepwise else "apply")[number % 4]
        found.append([example(model, kind, site, layers[number % len(layers)], (2, -1, [1, 4], None)[number % 4])])
        if KINDS[site].layered:
            found.append([example(model, "add", site, layer, 3) for layer in layers[:: max(1, len(layers) - 1)]])
    found += [[Add("resid_pre.0", mx.ones((model.d_model,)), 3.0, position)] for position in (0, 3, 5)]
    attending = model.network.layers_with("pattern")
    return [*found, [Knockout(attending, query=-1, keys=[1, 2]), Scale("resid_post.0", 0.4, 2)]]


def test_a_sweep_equals_each_variant_alone(model: Model) -> None:
    variants = variants_of(model)
    expected = [model.run(TOKENS, interventions=one, capture="resid_post", logits="all") for one in variants]
    swept = model.sweep(TOKENS, variants, capture="resid_post", logits="all")
    assert worst(swept.logits, mx.concatenate([one.logits for one in expected])) < BOUND
    last = f"resid_post.{model.n_layers - 1}"
    assert worst(swept[last], mx.concatenate([one[last] for one in expected])) < BOUND
    assert (
        worst(model.sweep(TOKENS, variants, memory=60_000), mx.stack([one.logits[0, -1] for one in expected])) < BOUND
    )


def test_variants_that_all_change_the_first_token_need_no_clean_run_behind_them(model: Model) -> None:
    ones = mx.ones((model.d_model,))
    variants: list[list[Intervention]] = [[Add("resid_pre.0", ones, 2.0, 0)], [Scale("mlp_out.0", 0.3)]]
    expected = mx.concatenate([model.run(TOKENS, interventions=one).logits for one in variants])
    assert worst(model.sweep(TOKENS, variants), expected) < BOUND
    for variant, one in zip(variants, model.sweep_generate(TOKENS, variants, max_tokens=3), strict=True):
        read_anew(model, TOKENS, variant, one.tokens)


def test_prompts_together_equal_runs_of_each_alone(model: Model) -> None:
    ones = mx.ones((model.d_model,))
    variants: list[list[Intervention]] = [
        [],
        [Add("resid_post.1", ones, 2.0, -1)],
        [Patch("resid_post.0", ones, 1), Scale("resid_mid.2", 0.3, -2)],
    ]
    for found, prompt in zip(model.sweep_prompts(PROMPTS, variants), PROMPTS, strict=True):
        expected = [model.run(prompt, interventions=one).logits for one in variants]
        assert worst(found, mx.concatenate(expected)) < BOUND
    batch = model.run(PROMPTS, logits="all")
    for row, prompt in enumerate(PROMPTS):
        assert worst(batch.logits[row, : len(prompt)], model.run(prompt, logits="all").logits[0]) < BOUND


def test_texts_are_written_as_if_everything_were_read_anew(model: Model) -> None:
    ones = mx.ones((model.d_model,))
    variants: list[list[Intervention]] = [[], [Add("resid_post.1", ones, 2.0, 2)], [Scale("mlp_out.0", 0.5)]]
    written = model.sweep_generate(PROMPTS[1], variants, max_tokens=4)
    for variant, one in zip(variants, written, strict=True):
        read_anew(model, PROMPTS[1], variant, one.tokens)
    alike = [PROMPTS[1], [*PROMPTS[1], 8, 1], [*PROMPTS[1], 8, 5, 2], PROMPTS[2]]  # read as one prefix tree
    for prompt, one in zip(alike, model.generate(alike, max_tokens=4), strict=True):
        read_anew(model, prompt, [], one.tokens)


def read_anew(model: Model, prompt: list[int], variant: list[Intervention], written: list[int]) -> None:
    """Each token is the likeliest where prompt and what was written so far are read in one run."""
    logits = model.run([*prompt, *written], interventions=variant, logits="all").logits[0]
    assert mx.argmax(logits[len(prompt) - 1 : -1], axis=-1).tolist() == written


def test_the_wrapped_forward_is_mlx_lms_own(model: Model) -> None:
    model.self_check()
    for prompt in PROMPTS:
        assert mx.array_equal(model.run([prompt], logits="all").logits, model.mlx_model(mx.array([prompt])))


def test_gradients_equal_finite_differences(model: Model) -> None:
    site = "resid_post.0"
    slope = np.asarray(model.gradients(TOKENS, difference, capture=site)[site])[0]
    direction = np.random.default_rng(0).normal(size=slope.shape).astype(np.float32)
    lower, upper = (
        float(difference(model.run(TOKENS, interventions=Add(site, mx.array(direction), by, slice(None))).logits)[0])
        for by in (-3e-3, 3e-3)
    )
    assert abs((upper - lower) / 6e-3 - float((slope * direction).sum())) < 0.02 * np.linalg.norm(slope * direction)


def difference(logits: mx.array) -> mx.array:
    return logits[:, 7] - logits[:, 9]


@pytest.mark.parametrize(("family", "seen"), [("qwen3_5", 1e-2), ("granitemoehybrid", 1e-3)])
def test_a_sweep_without_the_clean_runs_state_is_seen(
    family: str, seen: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(family)
    layers = [layer for layer in range(model.n_layers) if not model.network.attends(layer)]
    variants = [[Add(f"resid_pre.{layer}", mx.ones((model.d_model,)), 2.0, 4)] for layer in layers]
    expected = mx.concatenate([model.run(TOKENS, interventions=one).logits for one in variants])
    assert worst(model.sweep(TOKENS, variants), expected) < BOUND
    scan = sweep_state.scan_groups

    def forgetful(net, layer, clean, groups, visit):  # type: ignore[no-untyped-def]
        return scan(net, layer, [mx.zeros_like(a) for a in clean], groups, visit)

    monkeypatch.setattr(sweep_batch, "scan_groups", forgetful)
    assert worst(model.sweep(TOKENS, variants), expected) > seen
