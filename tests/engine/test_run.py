"""The wrapped forward is mlx-lm's own, bit for bit, and interventions do what they say where they say it."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_interp import Ablate, Add, Apply, Knockout, Patch, Scale
from mlx_interp.errors import SiteError
from mlx_interp.model import Model
from mlx_interp.sites import KINDS as KINDS_OF_SITES
from tests.engine.examples import KINDS, POSITIONS, SITES, TOKENS, example, inside_mlp, named
from tests.tiny import tiny_model

PROMPTS = [TOKENS, [2, 4], [9], [31, 8, 6, 4, 90, 12, 13, 14, 15, 16]]


def close(a: mx.array, b: mx.array, bound: float = 1e-4) -> bool:
    return float(mx.linalg.norm(a - b)) <= bound * float(mx.linalg.norm(b))


@pytest.mark.parametrize("length", [1, 2, 7])
def test_the_wrapped_forward_is_bitwise_mlx_lms_own(model: Model, length: int) -> None:
    own = model.mlx_model(mx.array([TOKENS[:length]]))
    assert mx.array_equal(model.run(TOKENS[:length], logits="all").logits, own)


def test_a_batch_of_equal_lengths_is_bitwise_mlx_lms_own(model: Model) -> None:
    batch = [TOKENS, TOKENS[::-1]]
    assert mx.array_equal(model.run(batch, logits="all").logits, model.mlx_model(mx.array(batch)))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_is_bitwise_mlx_lms_own_and_keeps_its_dtype_under_interventions(dtype: mx.Dtype) -> None:
    for family in ("llama", "gemma2", "phi"):
        model = tiny_model(family, seed=1)
        model.mlx_model.set_dtype(dtype)
        model.self_check()
        seen = []
        vector = mx.ones((model.d_model,))  # float32 must not widen the stream
        model.run(
            TOKENS,
            interventions=[
                Add("resid_post.0", vector, 0.5),
                Patch("z.1", mx.zeros((model.d_head,)), heads=1),
                Apply("resid_post.2", lambda x, seen=seen: seen.append(x.dtype) or x.astype(mx.float32)),
                Apply("final", lambda x, seen=seen: seen.append(x.dtype) or x),
            ],
        )
        assert seen == [dtype, dtype]


def test_capturing_every_site_leaves_the_logits_bitwise_unchanged(model: Model) -> None:
    captured = model.run(TOKENS, capture=model.sites, logits="all")
    assert mx.array_equal(captured.logits, model.run(TOKENS, logits="all").logits)


@pytest.mark.parametrize("site", SITES)
def test_patching_an_activation_with_itself_is_bitwise_the_identity(model: Model, site: str) -> None:
    if site not in model.sites:  # attention and MLP side by side, an MLP without a gate
        with pytest.raises(SiteError, match=rf"has no site '{site}': its (attention|MLP)"):
            model.run(TOKENS, capture=site)
        with pytest.raises(SiteError, match=rf"Scale\(.*has no site '{site}'"):
            model.sweep(TOKENS, [[Scale(f"{site}.1", 2.0)]])
        return
    clean = model.run(TOKENS, capture=site, logits="all")
    for layer in range(model.n_layers):
        itself = Patch(named(site, layer), clean[named(site, layer)])
        assert mx.array_equal(model.run(TOKENS, interventions=[itself], logits="all").logits, clean.logits)


@pytest.mark.parametrize("value", [1.0, -0.0, 3e38])
def test_adding_with_scale_zero_is_bitwise_the_identity(model: Model, value: float) -> None:
    clean = model.run(TOKENS, logits="all").logits
    nothing = Add("resid_post", mx.full((model.d_model,), value), scale=0.0)
    assert mx.array_equal(model.run(TOKENS, interventions=[nothing], logits="all").logits, clean)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    site=st.sampled_from(
        [site for site in SITES if KINDS_OF_SITES[site].axes[0] not in ("expert", "slot", "head")] + ["z", "q"]
    ),
    layer=st.integers(0, 2),
    positions=st.sampled_from(POSITIONS[1:5]),
)
def test_an_intervention_leaves_logits_before_its_first_position_bitwise_untouched(
    kind: str, site: str, layer: int, positions: object
) -> None:
    model = tiny_model("llama")
    first = np.atleast_1d(np.arange(len(TOKENS))[positions]).min()
    edited = model.run(TOKENS, interventions=[example(model, kind, site, layer, positions)], logits="all").logits
    clean = model.run(TOKENS, logits="all").logits
    assert mx.array_equal(edited[:, :first], clean[:, :first])
    assert not close(edited[:, first:], clean[:, first:], 1e-6)


def test_padding_does_not_change_the_short_prompt(model: Model) -> None:
    capture = model.sites
    batch = model.run(PROMPTS, capture=capture, logits="all")
    for row, prompt in enumerate(PROMPTS):
        alone = model.run(prompt, capture=capture, logits="all")
        n = len(prompt)
        assert close(batch.logits[row, :n], alone.logits[0])
        assert not mx.any(batch.logits[row, n:])
        for name in map(str, alone.captured):
            held = batch[name][row]
            held = held[:, :n, :n] if name.startswith(("scores", "pattern")) else held[:n]
            assert close(held, alone[name][0]), name
            rest = batch[name][row]
            assert not mx.any(rest[:, n:] if name.startswith(("scores", "pattern")) else rest[n:]), name


@pytest.mark.parametrize("kind", KINDS)
def test_interventions_in_a_padded_batch_are_those_of_each_prompt_alone(model: Model, kind: str) -> None:
    for site, positions in [("resid_post", -1), ("z", 0), (inside_mlp(model), None), ("k", slice(0, 2))]:
        intervention = example(model, kind, site, 1, positions)
        batch = model.run(PROMPTS, interventions=[intervention]).logits
        alone = mx.concatenate([model.run(prompt, interventions=[intervention]).logits for prompt in PROMPTS])
        assert close(batch, alone), site


def test_negative_positions_count_from_each_prompts_own_end(llama: Model) -> None:
    value = mx.arange(llama.d_model).astype(mx.float32)
    out = llama.run(PROMPTS, interventions=[Patch("resid_post.1", value, -1)], capture="resid_post.1")
    for row, prompt in enumerate(PROMPTS):
        assert mx.array_equal(out["resid_post.1"][row, len(prompt) - 1], value)


def test_interventions_compose_in_the_order_given(llama: Model) -> None:
    ones = mx.ones((llama.d_model,))
    steps = [Patch("resid_post.1", ones, 2), Scale("resid_post.1", 3.0, 2), Add("resid_post.1", ones, 0.5, 2)]
    out = llama.run(TOKENS, interventions=steps, capture="resid_post.1")
    assert mx.array_equal(out["resid_post.1"][0, 2], ones * 3.5)
    out = llama.run(TOKENS, interventions=steps[::-1], capture="resid_post.1")
    assert mx.array_equal(out["resid_post.1"][0, 2], ones)


def test_a_layers_output_and_a_module_inside_it_are_both_changed(llama: Model) -> None:
    both = [Scale("mlp_out.1", 0.0), Add("resid_post.1", mx.ones((llama.d_model,)))]
    out = llama.run(TOKENS, interventions=both, capture=["resid_mid.1", "mlp_out.1", "resid_post.1"])
    assert not mx.any(out["mlp_out.1"])
    assert mx.array_equal(out["resid_post.1"], out["resid_mid.1"] + 1)


def test_ablation_removes_the_direction_and_nothing_else(model: Model) -> None:
    rng = np.random.default_rng(0)
    direction = mx.array(rng.normal(size=model.d_model).astype(np.float32))
    unit = direction / mx.linalg.norm(direction)
    clean = model.run(TOKENS, capture="resid_post.1")["resid_post.1"]
    ablated = model.run(TOKENS, capture="resid_post.1", interventions=[Ablate("resid_post.1", direction * 7)])
    expected = clean - (clean @ unit)[..., None] * unit
    assert close(ablated["resid_post.1"], expected, 1e-6)
    assert float(mx.max(mx.abs(ablated["resid_post.1"] @ unit))) < 1e-5


def test_values_broadcast_as_documented(llama: Model) -> None:
    d, rng = llama.d_model, np.random.default_rng(0)
    batch = [TOKENS, TOKENS[::-1]]
    for shape in [(d,), (2, d), (1, 2, d), (2, 2, d)]:
        value = mx.array(rng.normal(size=shape).astype(np.float32))
        out = llama.run(batch, interventions=[Patch("resid_post.0", value, [1, 4])], capture="resid_post.0")
        held = out["resid_post.0"][:, mx.array([1, 4])]
        assert mx.array_equal(held, mx.broadcast_to(value, held.shape))
    for shape, heads in [((8,), None), ((6, 8), None), ((2, 6, 8), None), ((8,), 3), ((2, 8), 3), ((2, 8), [1, 3])]:
        value = mx.array(rng.normal(size=shape).astype(np.float32))
        out = llama.run(TOKENS, interventions=[Patch("z.0", value, [1, 4], heads=heads)], capture="z.0")
        held = out["z.0"][0][mx.array([1, 4])]
        held = held if heads is None else held[:, mx.array(heads)]
        assert mx.array_equal(held, mx.broadcast_to(value, held.shape)), (shape, heads)


def test_a_number_fills_the_site(llama: Model) -> None:
    out = llama.run(TOKENS, interventions=[Patch("z.1", 0.0, heads=2)], capture="z.1")
    assert not mx.any(out["z.1"][:, :, 2])
    assert mx.all(mx.any(out["z.1"][:, :, 1] != 0, axis=-1))


def test_knocked_out_edges_carry_no_attention_and_the_rest_is_renormalised(model: Model) -> None:
    clean = model.run(TOKENS, capture="pattern.1")["pattern.1"]
    cut = [Knockout(1, query=[4, 6], keys=[0, 2], heads=[1, 3])]
    if model.network.family.sinks:
        pytest.skip("a sink takes its part of what is free: tests/engine/test_sinks.py has the arithmetic for it")
    pattern = model.run(TOKENS, interventions=cut, capture="pattern.1")["pattern.1"]
    expected = np.array(clean)
    for head in (1, 3):
        for query in (4, 6):
            expected[0, head, query, [0, 2]] = 0
            expected[0, head, query] /= expected[0, head, query].sum()
    assert np.allclose(np.asarray(pattern), expected, atol=1e-6)


def test_patterns_rebuild_attention_and_never_look_ahead(model: Model) -> None:
    out = model.run(TOKENS, capture=["pattern", "v", "z", "head_out", "attn_out"])
    repeats = model.n_heads // model.n_kv_heads
    for layer in range(model.n_layers):
        pattern, v = np.asarray(out[f"pattern.{layer}"])[0], np.asarray(out[f"v.{layer}"])[0]
        rows = pattern.sum(-1)
        assert np.allclose(np.maximum(rows, 1) if model.network.family.sinks else rows, 1, atol=1e-5)
        assert not np.triu(pattern, k=1).any()
        z = np.einsum("hqk,khd->qhd", pattern, v.repeat(repeats, axis=1))
        assert np.allclose(z, np.asarray(out[f"z.{layer}"])[0], atol=1e-5)


def test_head_outputs_and_the_bias_add_up_to_the_output_projection(llama: Model) -> None:
    out = llama.run(TOKENS, capture=["head_out.1", "attn_out.1"])
    bias = llama.network.layers[1].self_attn.o_proj.bias
    assert close(out["head_out.1"].sum(axis=2) + bias, out["attn_out.1"], 1e-5)


def test_the_last_layers_lens_is_the_models_logits(model: Model) -> None:
    out = model.run(TOKENS, capture="resid_post.-1", logits="all")
    assert mx.array_equal(model.unembed(out["resid_post.-1"]), out.logits)


def test_resid_post_is_the_next_layers_resid_pre_and_the_first_is_the_scaled_embedding(model: Model) -> None:
    out = model.run(TOKENS, capture=["resid_pre", "resid_post"])
    for layer in range(model.n_layers - 1):
        assert mx.array_equal(out[f"resid_post.{layer}"], out[f"resid_pre.{layer + 1}"])
    embedding = getattr(model.network.decoder, model.network.family.embed)(mx.array([TOKENS]))
    rounded = 5.46875  # the root of 30 in bfloat16
    scales = {"gemma": 30**0.5, "gemma2": 30**0.5, "gemma3": rounded, "gemma3_text": rounded, "granite": 1.7}
    scale = scales.get(model.family, 1)
    if model.family == "gpt2":
        embedding = embedding + model.network.decoder.wpe.weight[: len(TOKENS)]
    assert close(out["resid_pre.0"], embedding * scale, 1e-6)


def test_activations_are_plain_arrays_that_numpy_reads(llama: Model) -> None:
    out = llama.run(TOKENS, capture=["resid_post"])
    assert np.asarray(out["resid_post.-1"]).shape == (1, len(TOKENS), llama.d_model)
    assert out.stack("resid_post").shape == (llama.n_layers, 1, len(TOKENS), llama.d_model)
    half = tiny_model("llama", seed=1)
    half.mlx_model.set_dtype(mx.bfloat16)
    assert np.asarray(half.run(TOKENS, capture="resid_post.1")["resid_post.1"]).dtype == np.float32
