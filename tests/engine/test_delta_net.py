"""Gated DeltaNets: what their sites mean, that a state carries a change on, and what such layers do not have."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Ablate, Apply, Knockout, Patch, Scale
from mlx_interp.engine.edge_pass import wiring
from mlx_interp.errors import SiteError, UnsupportedModel
from mlx_interp.model import Model
from tests.engine.examples import TOKENS, random_array, worst
from tests.tiny import tiny_model

LINEAR = [0, 1, 3]
"""Layer 2 has attention."""


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("qwen3_5")


def test_the_state_is_the_delta_rule_by_hand(model: Model) -> None:
    names = ("lin_q", "lin_k", "lin_v", "decay", "write", "state", "mixed")
    out = model.run(TOKENS, capture=[f"{name}.1" for name in names])
    q, k, v, decay, write, states, mixed = (np.asarray(out[f"{name}.1"])[0].astype(np.float64) for name in names)
    d = model.network.state_sizes
    for head in range(d.n_heads):
        state = np.zeros((d.d_value, d.d_key))
        key_head = head * d.n_key_heads // d.n_heads
        for t in range(len(TOKENS)):
            state = state * decay[t, head]
            state += np.outer((v[t, head] - state @ k[t, key_head]) * write[t, head], k[t, key_head])
            assert np.allclose(states[t, head], state.reshape(-1), rtol=1e-4, atol=1e-5)
            assert np.allclose(mixed[t, head], state @ q[t, key_head], rtol=1e-4, atol=1e-5)


def test_the_convolution_reads_a_position_and_the_two_before_it(model: Model) -> None:
    changed = model.run(TOKENS, interventions=Scale("conv_in.1", 2.0, 1), capture=["lin_v.1", "lin_k.1"])
    clean = model.run(TOKENS, capture=["lin_v.1", "lin_k.1"])
    for name in ("lin_v.1", "lin_k.1"):
        moved = np.abs(np.asarray(changed[name] - clean[name]))[0].max(axis=(1, 2)) > 1e-6
        assert moved.tolist() == [False, True, True, True, False, False, False]


def test_a_change_at_one_position_is_in_all_later_ones_of_the_same_layer(model: Model) -> None:
    clean = model.run(TOKENS, capture="mixed.0")
    for site in ("lin_v.0", "decay.0", "state.0"):
        changed = model.run(TOKENS, interventions=Scale(site, 0.5, 2), capture="mixed.0")
        moved = np.abs(np.asarray(changed["mixed.0"] - clean["mixed.0"]))[0].max(axis=(1, 2)) > 1e-6
        assert moved.tolist() == [False, False, True, True, True, True, True], site


def test_a_state_that_is_patched_with_nothing_forgets(model: Model) -> None:
    """Behind it the layer reads as if its text began there, but for what the convolution still reaches."""
    forgets = model.run(TOKENS, interventions=Patch("state.0", mx.zeros((4, 63)), 3), capture=["mixed.0", "state.0"])
    by_decay = model.run(TOKENS, interventions=Ablate("decay.0", positions=4), capture="mixed.0")
    assert np.allclose(np.asarray(forgets["state.0"])[0, 3], 0)
    assert np.allclose(np.asarray(forgets["mixed.0"])[0, 3], 0)
    assert worst(forgets["mixed.0"][0, 4:], by_decay["mixed.0"][0, 4:]) < 1e-5
    patched = model.run(TOKENS, interventions=Patch("state.3", random_array(np.random.default_rng(0), 4, 63), -1))
    assert worst(patched.logits, model.run(TOKENS).logits) > 1e-3


def test_a_site_that_a_layer_lacks_is_an_error_that_names_those_with_it(model: Model) -> None:
    with pytest.raises(
        SiteError, match=r"no 'pattern' in layer 1 of this qwen3_5: its mixer is a gated DeltaNet.*'pattern\.2'"
    ):
        model.run(TOKENS, capture="pattern.1")
    with pytest.raises(SiteError, match=r"Scale.*no 'mixed' in layer 2.*attends.*'mixed\.0,1,3'"):
        model.run(TOKENS, interventions=Scale("mixed.1-3", 0.0))
    with pytest.raises(SiteError, match=r"Knockout.*no 'pattern' in layer 0.*'pattern\.2'"):
        model.sweep(TOKENS, [[Knockout("0-2", keys=0)]])
    with pytest.raises(SiteError, match=r"llama has no site 'state': all its layers have attention"):
        tiny_model("llama").run(TOKENS, capture="state.0")
    with pytest.raises(SiteError, match=r"state is made position by position.*Patch, Add, Scale and Ablate"):
        model.run(TOKENS, interventions=Apply("state.0", lambda x: x))
    with pytest.raises(UnsupportedModel, match=r"edges lead between heads and MLPs.*some layers of qwen3_5"):
        wiring(model.network)


def test_a_selector_without_layers_names_those_that_have_the_site(model: Model) -> None:
    out = model.run(TOKENS, capture=["pattern", "mixer_out", "resid_mid.all"])
    assert [name for name in out if not name.startswith("resid")] == [
        *("mixer_out.0", "mixer_out.1", "pattern.2", "mixer_out.3"),
    ]
    everywhere = model.run(TOKENS, interventions=Knockout("all", keys=0, query=slice(1, None))).logits
    assert worst(everywhere, model.run(TOKENS, interventions=Knockout(2, keys=0, query=slice(1, None))).logits) == 0


@pytest.mark.slow  # MLX compiles the kernels of another dtype: ten seconds where it has not before
def test_half_precision_keeps_the_state_in_float32(model: Model) -> None:
    half = tiny_model("qwen3_5", seed=1)
    half.mlx_model.set_dtype(mx.float16)
    for layer in LINEAR:  # as mlx-lm's cast leaves it
        mixer = half.network.layers[layer].linear_attn
        mixer.A_log = mixer.A_log.astype(mx.float32)
    assert mx.array_equal(half.run(TOKENS, logits="all").logits, half.mlx_model(mx.array([TOKENS])))
    out = half.run(TOKENS, capture=["state.0", "mixed.0", "mixer_out.0"])
    assert [out[name].dtype for name in ("state.0", "mixed.0", "mixer_out.0")] == [mx.float32, mx.float16, mx.float16]
