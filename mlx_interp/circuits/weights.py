"""OV and QK circuits: what a head compares, and what it writes for what it finds, from weights alone (Elhage 2021).

1. Matrices are read off the model's own modules: what they make of each unit vector less what they make of zero. So
   fused, quantised and adapted weights are what they compute, whatever the family.
2. All of them act on the normed stream: centred by a LayerNorm, of root mean square 1 behind any norm. The norm's gain
   and bias are in the matrices; where nothing is normed before attention (OLMo 2) they act on the stream as it is.
3. OV, (d_model, d_model): what a head writes to the stream for one position that it attends to with all its weight. A
   norm behind attention (Gemma 2) has its gain in there; its divisor depends on the prompt, and is left at 1.
4. QK: the scaled score of a query's stream and a key's, before a soft-cap. RoPE turns queries and keys by their
   positions, so that there is a circuit for each distance between them, and none for the head: distance 0 is the plain
   product. Norms of queries and keys (Qwen 3, Gemma 3) have their gain in there, and their divisors at 1.

Elhage et al. (2021), "A Mathematical Framework for Transformer Circuits", transformer-circuits.pub/2021/framework.
Cost: no forward pass; four matrices of d_model x (heads x d_head) a layer, and a result of d_model squared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx_interp.deferred import mx
from mlx_interp.engine.frozen import bias, centred, divisor, gain
from mlx_interp.errors import CircuitError, UnsupportedModel
from mlx_interp.model import Model
from mlx_interp.shapes import ShapesShown


@dataclass(frozen=True, eq=False, repr=False)
class HeadWeights(ShapesShown):
    """Matrices of a layer's heads, float32, on the normed stream; grouped heads have their key's and value's own."""

    query: mx.array
    """(n_heads, d_model, d_head), before RoPE."""
    key: mx.array
    value: mx.array
    output: mx.array
    """(n_heads, d_head, d_model)."""
    query_bias: mx.array
    """(n_heads, d_head)."""
    key_bias: mx.array
    value_bias: mx.array


@dataclass(frozen=True, eq=False, repr=False)
class QKCircuit(ShapesShown):
    """Score of a query's normed stream x and a key's y: x @ matrix @ y + of_query @ x + of_key @ y + constant."""

    matrix: mx.array
    """(d_model, d_model): query, key."""
    of_query: mx.array
    """(d_model,): what the key's bias makes of the query's stream; 0 without biases."""
    of_key: mx.array
    constant: float

    def scores(self, queries: mx.array, keys: mx.array) -> mx.array:
        """Scores (n_queries, n_keys) of normed streams (n, d_model), each pair as if at the circuit's distance."""
        by_key = (keys @ self.of_key)[None]
        return queries @ self.matrix @ keys.T + (queries @ self.of_query)[:, None] + by_key + self.constant


def head_weights(model: Model, layer: int) -> HeadWeights:
    """Matrices of all heads of a layer.

    Raises CircuitError for a layer that the model does not have, UnsupportedModel for one whose heads are more than
    two products of matrices: without attention, with values that are normed, gated, or another layer's.
    """
    if not 0 <= layer < model.n_layers:
        raise CircuitError(f"no layer {layer}: {model.name} has layers 0 to {model.n_layers - 1}")
    _check_attention(model, layer)
    net, d_model = model.network, model.d_model
    name = net.family.norms.before_attn
    before = None if name is None else getattr(net.layers[layer], name)
    scale = mx.ones((d_model,)) if before is None else gain(before, d_model)
    shift = mx.zeros((d_model,)) if before is None else bias(before, d_model)
    nothing, *of_units = _qkv(model, layer, mx.zeros((1, d_model))), *_qkv(model, layer, mx.eye(d_model))
    repeats = net.n_heads // net.n_kv_heads
    matrices, biases = [], []
    for part, (made, none) in enumerate(zip(of_units, nothing, strict=True)):
        matrix = made - none  # (d_model, head, d_head)
        extra = none[0] + mx.tensordot(shift, matrix, 1)
        matrix, extra = (_qk_normed(model, layer, part, x) for x in (matrix * scale[:, None, None], extra))
        copies = 1 if part == 0 else repeats
        matrices.append(mx.repeat(matrix.swapaxes(0, 1), copies, axis=0))
        biases.append(mx.repeat(extra, copies, axis=0))
    (query, key, value), output = matrices, _output(model, layer)
    return HeadWeights(query, key, value, output, *biases)


def ov_circuit(model: Model, layer: int, head: int) -> mx.array:
    """What a head writes for a normed stream that it attends to, less its value's bias: (d_model, d_model).

    Raises CircuitError for a layer or head that the model does not have.
    """
    weights = head_weights(model, layer)
    _check_head(model, head)
    return weights.value[head] @ weights.output[head]


def qk_circuit(model: Model, layer: int, head: int, *, distance: int = 0) -> QKCircuit:
    """The score that a head gives a key that lies `distance` positions before its query, scaled, before a soft-cap.

    Without RoPE (GPT-2, layers of SmolLM 3) it is the same at every distance. Where RoPE depends on the length of the
    text (dynamic NTK, LongRoPE), it is that of a text that ends with the query; where queries grow with their position
    (Ministral 3), that of early ones, which do not yet.
    Raises CircuitError for a layer or head that the model does not have, and for a negative distance.
    """
    weights = head_weights(model, layer)
    _check_head(model, head)
    if distance < 0:
        raise CircuitError(f"distance={distance}: a key lies at its query (0) or before it, 1, 2, ...")
    query, query_bias = _turned(model, layer, weights.query[head], weights.query_bias[head], distance, distance)
    key, key_bias = _turned(model, layer, weights.key[head], weights.key_bias[head], 0, distance)
    scale = model.network.scale(layer)
    return QKCircuit(
        scale * query @ key.T, scale * query @ key_bias, scale * key @ query_bias, float(scale * query_bias @ key_bias)
    )


def normed_stream(model: Model, layer: int, stream: mx.array) -> mx.array:
    """What the circuits of a layer act on, from the residual stream before attention (..., d_model), float32."""
    name = model.network.family.norms.before_attn
    if name is None:
        return stream.astype(mx.float32)
    norm = getattr(model.network.layers[layer], name)
    return centred(norm, stream) / divisor(norm, stream)


def _qkv(model: Model, layer: int, x: mx.array) -> list[mx.array]:
    """Queries, keys, values (row, head, d_head) of what attention reads (row, d_model), before their norms."""
    return [part.astype(mx.float32) for part in model.network.qkv_pre(layer, x.astype(model.network.dtype))]


def _qk_normed(model: Model, layer: int, part: int, heads: mx.array) -> mx.array:
    """Queries (0), keys (1) of (..., head, d_head) behind their norm with its divisor at 1; values as they are."""
    net = model.network
    if not net.qk_norm or part == 2:
        return heads
    module = net.layers[layer][net.family.attention]
    norm: Any = getattr(module, net.family.q_norm if part == 0 else net.family.k_norm)
    width = heads.shape[-2] * net.d_head if net.qk_norm == "all heads" else net.d_head
    of_channels = gain(norm, width).reshape(-1, net.d_head)  # (head or 1, d_head)
    # Nobody centres all heads as one vector: OLMo's norm of them is an RMS norm.
    return centred(norm, heads) * of_channels


def _output(model: Model, layer: int) -> mx.array:
    """(n_heads, d_head, d_model): what heads write to the stream, gain and multiplier behind attention included."""
    net = model.network
    units = mx.eye(net.n_heads * net.d_head, dtype=net.dtype).reshape(-1, net.n_heads, net.d_head)
    written = mx.stack([net.head_out(layer, units[at : at + net.d_head])[:, at // net.d_head] for at in _starts(net)])
    written = written.astype(mx.float32)
    if (name := net.family.norms.after_attn) is not None:
        norm = getattr(net.layers[layer], name)
        written = centred(norm, written) * gain(norm, net.d_model)
    factor = getattr(net.args, net.family.residual_scale) if net.family.residual_scale else 1.0
    return written * factor


def _starts(net: Any) -> range:
    """Where each head begins among the heads side by side."""
    return range(0, net.n_heads * net.d_head, net.d_head)


def _turned(
    model: Model, layer: int, matrix: mx.array, offset: mx.array, position: int, last: int
) -> tuple[mx.array, mx.array]:
    """A head's matrix (d_model, d_head) and bias after RoPE at a position of a text whose last position is `last`."""
    rows = mx.concatenate([matrix, offset[None]])[:, None, None]
    turned = model.network.rotate(layer, rows, position, [last + 1] * rows.shape[0])[:, 0, 0]
    return turned[:-1], turned[-1]


def _check_attention(model: Model, layer: int) -> None:
    net = model.network
    whole = f"layer {layer} of this {net.family.model_type} has no circuits of weights alone: "
    if not net.attends(layer):
        raise UnsupportedModel(f"{whole}it has no attention; take a layer that has")
    if net.kv_source(layer) != layer:
        raise UnsupportedModel(f"{whole}it attends to the keys and values of layer {net.kv_source(layer)}")
    if net.family.latent is not None:
        raise UnsupportedModel(f"{whole}keys and values are made of a latent, which is normed")
    if net.family.v_norm is not None or net.family.attn_gate:
        what = "values are normed" if net.family.v_norm is not None else "what heads mix passes a gate"
        raise UnsupportedModel(f"{whole}{what}, so that what a head writes is not linear in what it reads")


def _check_head(model: Model, head: int) -> None:
    if not 0 <= head < model.n_heads:
        raise CircuitError(f"no head {head}: {model.name} has heads 0 to {model.n_heads - 1}")
