"""Latent attention, and layers of which one MLP is not made of experts: what q, k, v, z mean there."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Add, Knockout, Patch, Scale
from mlx_interp.circuits.weights import head_weights
from mlx_interp.engine.edge_pass import wiring
from mlx_interp.errors import SiteError, UnsupportedModel
from mlx_interp.interventions.routes import Route
from mlx_interp.model import Model
from tests.engine.examples import TOKENS, random_array, worst
from tests.tiny import tiny_model

PLAIN, TURNED, D_V = 8, 4, 7


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("deepseek_v2")


def test_keys_are_a_part_of_each_head_without_positions_and_one_that_all_share_turned(model: Model) -> None:
    out = model.run(TOKENS, capture=["q_pre.1", "k_pre.1", "q.1", "k.1", "v.1", "z.1", "kv_latent.1"])
    q, k, k_pre = (np.asarray(out[name])[0] for name in ("q.1", "k.1", "k_pre.1"))
    assert q.shape == k.shape == (len(TOKENS), model.n_heads, PLAIN + TURNED)
    assert out["v.1"].shape[-1] == out["z.1"].shape[-1] == model.d_v == D_V
    assert np.array_equal(k[..., :PLAIN], k_pre[..., :PLAIN])
    assert np.array_equal(np.asarray(out["q_pre.1"])[0][..., :PLAIN], q[..., :PLAIN])
    assert np.array_equal(k[..., PLAIN:], np.broadcast_to(k[:, :1, PLAIN:], k[..., PLAIN:].shape))
    assert np.abs(k[3, 0, PLAIN:] - k_pre[3, 0, PLAIN:]).max() > 1e-2
    made = np.asarray(model.network.layers[1].self_attn.kv_b_proj(out["kv_latent.1"]))[0]
    made = made.reshape(len(TOKENS), model.n_heads, PLAIN + D_V)
    assert np.allclose(made, np.concatenate([k[..., :PLAIN], np.asarray(out["v.1"])[0]], -1), atol=1e-5)


def test_a_latent_carries_what_all_heads_read_of_a_position_but_for_where_it_is(model: Model) -> None:
    names = [f"{name}.1" for name in ("q", "k", "v")]
    clean = model.run(TOKENS, capture=names)
    value = random_array(np.random.default_rng(0), model.network.d_latent)
    patched = model.run(TOKENS, interventions=Patch("kv_latent.1", value, 2), capture=names)
    assert mx.array_equal(patched["q.1"], clean["q.1"])
    for name in ("k.1", "v.1"):
        moved = np.abs(np.asarray(patched[name] - clean[name]))[0].max(axis=2)
        assert (moved > 1e-4).all(axis=1).tolist() == [position == 2 for position in range(len(TOKENS))]
    assert mx.array_equal(patched["k.1"][..., PLAIN:], clean["k.1"][..., PLAIN:])
    swept = model.sweep(TOKENS, [[Patch("kv_latent.1", value, 2)], [Add("k_pre.0", mx.ones((12,)), 1.0, 3)]])
    assert worst(swept[:1], patched.logits) < 1e-4


def test_shared_experts_are_in_the_output_whatever_the_router_says(model: Model) -> None:
    shared = model.network.layers[1].mlp.shared_experts
    out = model.run(TOKENS, capture=["mlp_in.1", "shared_out.1", "mlp_out.1", "expert_out.1"])
    assert mx.allclose(out["shared_out.1"], shared(out["mlp_in.1"]), atol=1e-5)
    alone = model.run(TOKENS, interventions=Scale("expert_weights.1", 0.0), capture="mlp_out.1")["mlp_out.1"]
    assert mx.allclose(alone, out["shared_out.1"], atol=1e-5)
    none = model.run(TOKENS, interventions=Scale("shared_out.1", 0.0), capture="mlp_out.1")["mlp_out.1"]
    assert mx.allclose(none, out["mlp_out.1"] - out["shared_out.1"], atol=1e-5)


def test_what_a_layer_lacks_is_an_error_that_names_those_with_it(model: Model) -> None:
    with pytest.raises(SiteError, match=r"no 'router' in layer 0.*its MLP is one, not made of experts.*'router\.1,2'"):
        model.run(TOKENS, capture="router.0")
    with pytest.raises(SiteError, match=r"Scale.*no 'mlp_act' in layer 2.*its MLP is made of experts.*'mlp_act\.0'"):
        model.run(TOKENS, interventions=Scale("mlp_act.2", 0.5))
    with pytest.raises(SiteError, match=r"Route.*no 'choice' in layer 0"):
        model.run(TOKENS, interventions=Route(0, force=1))
    assert worst(model.run(TOKENS, interventions=Route("all", force=1)).logits, model.run(TOKENS).logits) > 1e-3
    with pytest.raises(SiteError, match="llama has no site 'kv_latent': each head's keys and values have matrices"):
        tiny_model("llama").run(TOKENS, capture="kv_latent.0")
    with pytest.raises(SiteError, match="mixtral has no site 'shared_out': none of its experts is every token's"):
        tiny_model("mixtral").run(TOKENS, capture="shared_out.0")
    with pytest.raises(UnsupportedModel, match="made of a latent, which is normed"):
        head_weights(model, 0)
    with pytest.raises(UnsupportedModel, match="keys of other layers or of a latent"):
        wiring(tiny_model("deepseek_v2", first_k_dense_replace=0).network)
    assert worst(model.run(TOKENS, interventions=Knockout("all", keys=0, query=-1)).logits, model.run(TOKENS).logits)
