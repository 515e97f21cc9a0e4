"""Circuits from weights are what the model computes, in every family; composition finds the heads that were wired."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_interp import Model, circuits
from mlx_interp.architectures import FAMILIES
from mlx_interp.errors import CircuitError, UnsupportedModel
from tests.tiny import each_family, tiny_model

TOKENS = [3, 5, 8, 13, 21]
LAYER, HEAD = 1, 4


BEYOND = {name for name, one in FAMILIES.items() if one.mixer or one.v_norm or one.attn_gate or one.latent}
"""Families whose heads, or some of whose layers, are more than products of matrices."""


@pytest.fixture(scope="module", params=each_family(FAMILIES.keys() - BEYOND))
def model(request: pytest.FixtureRequest) -> Model:
    """Every family whose heads are products of matrices, recent ones too."""
    return tiny_model(request.param)


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, in shares of the largest number."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_the_qk_circuit_gives_the_scores_of_every_pair_of_positions_in_every_family(model: Model) -> None:
    """At each pair's own distance, before a soft-cap, by the divisors that norms of queries and keys have there."""
    out = model.run(TOKENS, capture=[f"resid_pre.{LAYER}", f"scores.{LAYER}", f"q.{LAYER}", f"k.{LAYER}"])
    x = circuits.normed_stream(model, LAYER, out[f"resid_pre.{LAYER}"][0])
    weights = circuits.head_weights(model, LAYER)
    q_sizes, k_sizes = np.ones(len(TOKENS)), np.ones(len(TOKENS))
    if model.network.qk_norm:  # one divisor a position: RoPE does not change lengths
        reads = [
            (weights.query, weights.query_bias, "q", HEAD),
            (weights.key, weights.key_bias, "k", HEAD // (model.n_heads // model.n_kv_heads)),
        ]
        q_sizes, k_sizes = (
            np.linalg.norm(np.asarray(x @ matrix[HEAD] + offset[HEAD]), axis=-1)
            / np.linalg.norm(np.asarray(out[f"{name}.{LAYER}"][0, :, head]), axis=-1)
            for matrix, offset, name, head in reads
        )
    scores = np.asarray(out[f"scores.{LAYER}"][0, HEAD], np.float64)
    cap = model.network.softcap_scores
    scores = scores if cap is None else cap * np.arctanh(scores / cap)
    if (grows := model.network.family.query_scale) is not None:  # a circuit is that of early positions
        scores = scores / np.asarray(grows(model.network.args, mx.arange(len(TOKENS))))[:, None]
    query, seen = len(TOKENS) - 1, model.network.window(LAYER) or len(TOKENS)
    keys = range(max(0, len(TOKENS) - seen), len(TOKENS))
    found = [
        circuits.qk_circuit(model, LAYER, HEAD, distance=query - key).scores(x[query:], x[key : key + 1]).item()
        / (q_sizes[query] * k_sizes[key])
        for key in keys
    ]
    assert worst(np.array(found), scores[query, keys.start :]) < 1e-5


def test_the_ov_circuit_gives_what_a_head_writes_in_every_family(model: Model) -> None:
    """Its normed streams mixed by the head's pattern, through the matrix, with the value's bias behind it."""
    names = [f"{name}.{LAYER}" for name in ("resid_pre", "pattern", "head_out")]
    out = model.run(TOKENS, capture=names)
    x = circuits.normed_stream(model, LAYER, out[names[0]][0])
    weights = circuits.head_weights(model, LAYER)
    pattern = out[names[1]][0, HEAD]
    value_bias = pattern.sum(-1, keepdims=True) * (weights.value_bias[HEAD] @ weights.output[HEAD])
    found = np.asarray(pattern @ x @ circuits.ov_circuit(model, LAYER, HEAD) + value_bias, np.float64)
    net, written = model.network, out[names[2]][0, :, HEAD]
    if (name := net.family.norms.after_attn) is not None:  # its gain is in the circuit, its divisor is not
        written = written * _gain(getattr(net.layers[LAYER], name), model.d_model)
    factor = getattr(net.args, net.family.residual_scale) if net.family.residual_scale else 1.0
    assert worst(found, np.asarray(written * factor, np.float64)) < 1e-5


def _gain(norm: nn.Module, width: int) -> mx.array:
    return norm(mx.ones((width,))) * (1 + norm.eps) ** 0.5


def test_quantised_weights_are_read_as_they_compute() -> None:
    model = tiny_model("llama", hidden_size=64, head_dim=32, intermediate_size=96)
    nn.quantize(model.mlx_model, group_size=32, bits=4)
    out = model.run(TOKENS, capture=["attn_in.0", "v.0"])
    made = out["attn_in.0"][0] / _gain(model.network.layers[0].input_layernorm, 64)
    weights = circuits.head_weights(model, 0)
    for head in range(model.n_heads):
        found = np.asarray(made @ weights.value[head] + weights.value_bias[head])
        assert worst(found, np.asarray(out["v.0"][0, :, head // 2])) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rope_gives_each_distance_its_own_circuit_and_learned_positions_do_not(family: str) -> None:
    model = tiny_model(family)
    at = [circuits.qk_circuit(model, 0, 2, distance=distance).matrix for distance in (0, 3)]
    assert mx.array_equal(*at) == (family == "gpt2")


@pytest.mark.parametrize(
    ("family", "layer", "what"),
    [
        ("lfm2", 1, "it has no attention; take a layer that has"),
        ("qwen3_5", 1, "it has no attention"),
        ("qwen3_5", 2, "what heads mix passes a gate"),
        ("gemma4_text", 0, "values are normed"),
    ],
)
def test_a_layer_that_is_more_than_products_of_matrices_is_refused_in_words(family: str, layer: int, what: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"layer {layer} of this {family}.* has no circuits.*: {what}"):
        circuits.head_weights(tiny_model(family), layer)


def test_a_layer_a_head_or_a_distance_that_there_is_not_is_refused(llama: Model) -> None:
    with pytest.raises(CircuitError, match="no layer 3: random-llama has layers 0 to 2"):
        circuits.ov_circuit(llama, 3, 0)
    with pytest.raises(CircuitError, match="no head 6: random-llama has heads 0 to 5"):
        circuits.qk_circuit(llama, 0, 6)
    with pytest.raises(CircuitError, match="distance=-1: a key lies at its query"):
        circuits.qk_circuit(llama, 0, 0, distance=-1)


def wired(model: Model, writer: tuple[int, int], reader: tuple[int, int], name: str) -> None:
    """Weights changed so that one head reads by `name` the very directions that an earlier one writes."""
    width = model.d_head
    output = model.network.layers[writer[0]].self_attn.o_proj.weight[:, writer[1] * width :][:, :width]
    projection = getattr(model.network.layers[reader[0]].self_attn, f"{name}_proj")
    weight = mx.array(projection.weight)
    weight[reader[1] * width : (reader[1] + 1) * width] = output.T
    projection.weight = weight


@pytest.mark.parametrize("reading", ["q", "k", "v"])
def test_composition_finds_the_two_heads_that_were_wired_together(reading: str) -> None:
    model = tiny_model("llama", num_key_value_heads=6, hidden_size=48)
    before = circuits.composition_scores(model, reading)  # type: ignore[arg-type]
    wired(model, (0, 3), (2, 5), reading)
    after = circuits.composition_scores(model, reading)  # type: ignore[arg-type]
    assert np.unravel_index(np.nanargmax(after), after.shape) == (0, 3, 2, 5)
    assert after[0, 3, 2, 5] > 2 * before[0, 3, 2, 5]
    chance = circuits.chance_composition(model, seed=1)
    assert chance.max() < after[0, 3, 2, 5]
    assert np.nanmean(before) == pytest.approx(chance.mean(), rel=0.1)
    assert np.isnan(after[1, 0, 1, 2])
    assert np.isnan(after[2, 0, 1, 2])


def test_composition_is_the_length_of_the_whole_matrices_product(llama: Model) -> None:
    first, second = (circuits.head_weights(llama, layer) for layer in (0, 2))
    written = np.asarray(circuits.ov_circuit(llama, 0, 1))
    compared = np.asarray(circuits.qk_circuit(llama, 2, 4).matrix)
    again = np.asarray(circuits.ov_circuit(llama, 2, 4))
    for reading, read in (("q", compared), ("k", compared.T), ("v", again)):
        expected = np.linalg.norm(written @ read) / (np.linalg.norm(written) * np.linalg.norm(read))
        assert circuits.composition_scores(llama, reading)[0, 1, 2, 4] == pytest.approx(expected, rel=1e-4)  # type: ignore[arg-type]
    assert first.value.shape == second.value.shape == (6, 30, 8)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "cohere"])
def test_copying_is_what_the_eigenvalues_of_the_map_from_tokens_to_logits_say(family: str) -> None:
    model = tiny_model(family)
    net, tokens = model.network, mx.arange(model.d_vocab)
    embedded = getattr(net.decoder, net.family.embed)(tokens)
    norm = getattr(net.decoder, net.family.norm)
    ends = _gain(norm, model.d_model) if family in ("llama", "gemma2") else norm.weight
    logits = net.unembed(mx.eye(model.d_model), capped=False) - net.unembed(mx.zeros((1, model.d_model)), capped=False)
    middle = circuits.ov_circuit(model, 1, 2)
    if family in ("gpt2", "cohere"):
        embedded, middle = (x - x.mean(-1, keepdims=True) for x in (embedded, middle))
    values = np.linalg.eigvals(np.asarray((embedded @ (middle * ends)) @ logits, np.float64))
    values = values[np.argsort(-np.abs(values))[: model.d_head]]  # all others are 0, but for rounding
    expected = values.sum().real / np.abs(values).sum()
    assert circuits.copying_scores(model)[1, 2] == pytest.approx(expected, abs=1e-3)


def test_a_head_that_writes_what_it_reads_copies_and_one_that_writes_its_opposite_does_not() -> None:
    model = tiny_model("gemma", num_key_value_heads=6, hidden_size=48)  # tied: what is read is what is written
    attention = model.network.layers[1].self_attn
    value = np.asarray(attention.v_proj.weight)[8:24]
    output = np.array(attention.o_proj.weight)
    output[:, 8:16], output[:, 16:24] = value[:8].T, -value[8:].T
    attention.o_proj.weight = mx.array(output)
    norms = (model.network.layers[1].input_layernorm, model.network.decoder.norm)
    for norm in norms:
        norm.weight = mx.zeros_like(norm.weight)
    found = circuits.copying_scores(model)[1]
    assert found[1] == pytest.approx(1, abs=1e-3)
    assert found[2] == pytest.approx(-1, abs=1e-3)
    assert np.abs(found[[0, 3, 4, 5]]).max() < 0.9


def test_a_reading_that_there_is_not_is_refused(llama: Model) -> None:
    with pytest.raises(CircuitError, match="no reading 'z': heads read q, k, v"):
        circuits.composition_scores(llama, "z")  # type: ignore[arg-type]
    with pytest.raises(CircuitError, match="draws=0"):
        circuits.chance_composition(llama, draws=0)
