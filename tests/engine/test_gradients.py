"""Gradients with respect to activations equal finite differences and torch's autograd."""

from __future__ import annotations

import importlib.util

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_interp import Ablate, Add, Apply, Knockout, Model, Patch, Scale
from mlx_interp.errors import NeverFired, ShapeError, SiteError
from mlx_interp.interventions import Intervention
from tests.engine.examples import TOKENS, named, sites_of
from tests.tiny import FAMILY_CONFIGS, RECENT, each_family, tiny_model


def gap(logits: mx.array) -> mx.array:
    """A logit difference, bent so that its slope depends on where it is taken."""
    return mx.tanh((logits[:, 7] - logits[:, 23]) / 4) * 4


def slope_by_difference(
    model: Model, site: str, direction: mx.array, given: list[Intervention], position: int, step: float = 3e-3
) -> float:
    """Central difference of the metric along a direction at one position of a site."""

    def at(amount: float) -> float:
        change = Apply(site, lambda x: x + amount * direction, positions=position)
        logits = model.run(TOKENS, interventions=[*given, change]).logits
        assert logits is not None
        return float(gap(logits)[0])

    return (at(step) - at(-step)) / (2 * step)


def compare(model: Model, given: list[Intervention], sites: list[str], tolerance: float = 2e-2) -> None:
    found = model.gradients(TOKENS, gap, sites, interventions=given)
    rng = np.random.default_rng(0)
    for name in sites:
        slopes = found[name]
        if name.startswith(("scores", "pattern")):  # (batch, head, query, key): its positions are queries
            slopes = slopes.swapaxes(1, 2)
        for position in (2, len(TOKENS) - 1):
            slope = slopes[0, position]
            along = slope / mx.maximum(mx.linalg.norm(slope.reshape(-1)), 1e-6)
            other = mx.array(rng.normal(size=slope.shape).astype(np.float32))
            if name.startswith(("scores", "pattern")):  # probabilities on the future belong to no run
                other = other * (mx.arange(len(TOKENS)) <= position)
            direction = along + 0.1 * other
            expected = slope_by_difference(model, name, direction, given, position)
            assert abs(float((slope * direction).sum()) - expected) <= tolerance * max(1e-1, abs(expected)), name


@pytest.mark.parametrize("family", each_family(FAMILY_CONFIGS.keys() - RECENT))
def test_gradients_at_every_site_equal_finite_differences(family: str) -> None:
    model = tiny_model(family)
    compare(model, [], [named(site, 1) for site in sites_of(model)])


def test_gradients_pass_through_quantised_weights() -> None:
    model = tiny_model("llama", hidden_size=64, head_dim=32, intermediate_size=96)
    nn.quantize(model.mlx_model, group_size=32, bits=4)
    assert isinstance(model.network.layers[0].mlp.down_proj, nn.QuantizedLinear)
    compare(model, [], ["resid_post.0", "z.1", "mlp_act.1"])


@pytest.mark.parametrize(
    "given",
    [
        Add("resid_post.0", mx.ones((30,)), 0.5),
        Patch("z.1", mx.ones((8,)), 3, heads=2),
        Ablate("resid_mid", mx.arange(1.0, 31.0)),
        Scale("mlp_out.1", 0.3, slice(2, 5)),
        Knockout("all", query=-1, keys=[1, 2]),
        Patch("resid_post.1", mx.ones((30,)), -1),
    ],
    ids=lambda given: type(given).__name__,
)
def test_gradients_are_taken_under_interventions(given: Intervention) -> None:
    compare(tiny_model("llama"), [given], ["resid_pre.1", "z.0", "resid_post.0"])


def test_what_a_patch_overwrites_has_no_influence() -> None:
    model = tiny_model("qwen2")
    overwritten = [Patch("resid_post.1", mx.zeros((48,)))]
    slopes = model.gradients(TOKENS, gap, ["resid_post.0", "resid_post.1"], interventions=overwritten)
    assert float(mx.abs(slopes["resid_post.0"]).max()) == 0 < float(mx.abs(slopes["resid_post.1"]).max())


def test_a_padded_batch_has_the_gradients_of_each_prompt_alone() -> None:
    model = tiny_model("gemma2")
    prompts = [TOKENS, TOKENS[:3], TOKENS[2:7]]
    together = model.gradients(prompts, gap, ["resid_post", "pattern.1"])
    for row, tokens in enumerate(prompts):
        alone = model.gradients(tokens, gap, ["resid_post", "pattern.1"])
        assert mx.allclose(together.metric[row], alone.metric[0], atol=1e-5)
        for layer in range(3):
            ours = together[f"resid_post.{layer}"][row]
            assert mx.allclose(ours[: len(tokens)], alone[f"resid_post.{layer}"][0], rtol=1e-3, atol=1e-5)
            assert float(mx.abs(ours[len(tokens) :]).sum()) == 0
        assert together["pattern.1"].shape == (3, 6, len(TOKENS), len(TOKENS))


def test_activations_and_metric_come_along_and_are_those_of_a_run() -> None:
    model = tiny_model("llama")
    found = model.gradients(TOKENS, gap, ["resid_post", "z.1"])
    out = model.run(TOKENS, capture=["resid_post", "z.1"])
    assert mx.array_equal(found.activation("resid_post.2"), out["resid_post.2"])
    assert mx.array_equal(found.activation("z.1"), out["z.1"])
    assert mx.array_equal(found.metric, gap(out.logits))
    assert found.stack("resid_post").shape == (3, 1, len(TOKENS), 30)


def test_a_metric_can_be_of_an_activation_in_place_of_the_logits() -> None:
    model = tiny_model("gemma2")
    direction = mx.array(np.random.default_rng(0).normal(size=(3, model.d_head)).astype(np.float32))

    def length(z: mx.array) -> mx.array:
        return mx.square(z[:, 3, :3] * direction).sum((1, 2))

    slopes = model.gradients(TOKENS, length, ["resid_post.0", "resid_post.2"], of="z.1")
    assert float(mx.abs(slopes["resid_post.2"]).max()) == 0  # it comes later
    along = slopes["resid_post.0"][0, 2] / mx.linalg.norm(slopes["resid_post.0"][0, 2])
    sides = [
        length(model.run(TOKENS, capture="z.1", interventions=[Add("resid_post.0", along, step, 2)])["z.1"])
        for step in (1e-2, -1e-2)
    ]
    expected = float((sides[0] - sides[1])[0]) / 2e-2
    assert float((slopes["resid_post.0"][0, 2] * along).sum()) == pytest.approx(expected, rel=1e-2)
    with pytest.raises(SiteError, match="take 'z'"):
        model.gradients(TOKENS, length, ["resid_post.0"], of="pattern.1")


def test_metrics_of_all_positions_are_possible() -> None:
    model = tiny_model("llama")
    found = model.gradients(TOKENS, lambda logits: logits[:, 2, 5], ["resid_post.1"], logits="all")
    strength = mx.abs(found["resid_post.1"][0]).sum(axis=-1)
    assert float(strength[3:].sum()) == 0 < float(strength[:3].min())  # the future has no influence


def test_mistakes_are_named() -> None:
    model = tiny_model("llama")
    with pytest.raises(SiteError, match="take 'z'"):
        model.gradients(TOKENS, gap, ["head_out.1"])
    with pytest.raises(ShapeError, match=r"returned \(\).*\(1,\)"):
        model.gradients(TOKENS, lambda logits: logits.sum(), ["z.1"])
    with pytest.raises(NeverFired):
        model.gradients(TOKENS, gap, ["z.1"], interventions=[Scale("z.1", 2.0, [])])
    with pytest.raises(SiteError, match=r"resid_mid\.1 was not captured"):
        model.gradients(TOKENS, gap, ["z.1"])["resid_mid.1"]


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch: pip install '.[parity]'")
@pytest.mark.parametrize("family", ["gemma2", "gpt2", "qwen2"])
def test_gradients_equal_torch_autograd(family: str) -> None:
    import torch

    from tests.parity.reference import transformers_model

    theirs = transformers_model(FAMILY_CONFIGS[family], 0)
    output = theirs(torch.tensor([TOKENS]), output_hidden_states=True)
    for state in output.hidden_states:
        state.retain_grad()
    logits = output.logits[0, -1]
    (torch.tanh((logits[7] - logits[23]) / 4) * 4).backward()
    ours = tiny_model(family).gradients(TOKENS, gap, "resid_pre")
    for layer in range(3):
        expected = output.hidden_states[layer].grad[0].numpy()
        assert np.linalg.norm(np.asarray(ours[f"resid_pre.{layer}"])[0] - expected) < 1e-4 * np.linalg.norm(expected)
