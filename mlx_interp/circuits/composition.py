"""Composition of heads, and copying by them, from weights alone (Elhage et al. 2021).

1. An earlier head writes through its OV circuit; a later one reads queries, keys or values from the stream. Composition
   is the length of the product of both maps over the product of their lengths (Frobenius): between 0, where the one
   reads nothing of what the other writes, and 1. K-composition of a head that attends to the previous token with a
   later one is how induction heads are made.
2. All heads of two layers at once, in d_head dimensions: lengths survive where orthonormal factors are left out.
3. Random matrices of the same shapes compose too, by about the root of d_head / d_model: `chance_composition`.
4. Copying: eigenvalues of the full OV circuit, from embedding to logits through one head alone. Where they are
   positive, tokens that a head attends to make themselves likelier: their sum over the sum of their sizes, -1 to 1.

Composition of queries and keys is that at distance 0, without RoPE's turn. Circuits through MLPs, and the first MLP's
part in what an embedding means, are left out. Elhage et al. take their baseline off the scores; here it stands beside.
Cost: no forward pass; for each pair of layers (heads x d_head)^2 x d_model operations, and three arrays of that many
heads squared; copying multiplies embedding and unembedding once, d_vocab x d_model^2, and holds both in float32.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from mlx_interp.circuits.weights import head_weights
from mlx_interp.deferred import mx
from mlx_interp.engine.frozen import centred, gain
from mlx_interp.errors import CircuitError
from mlx_interp.model import Model

Reading = Literal["q", "k", "v"]
READINGS: tuple[Reading, ...] = get_args(Reading)
Floats = np.ndarray[Any, np.dtype[np.float64]]
CHUNK = 8192
"""Tokens whose embeddings are held at once."""


def composition_scores(model: Model, reading: Reading) -> Floats:
    """Composition of every head with every later one: (n_layers, n_heads, n_layers, n_heads), writer then reader.

    reading: "q", "k" or "v". nan where the reader does not come after the writer.
    Raises CircuitError for another reading.
    """
    if reading not in READINGS:
        raise CircuitError(f"no reading {reading!r}: heads read {', '.join(READINGS)}")
    n_layers, n_heads = model.n_layers, model.n_heads
    found = np.full((n_layers, n_heads, n_layers, n_heads), np.nan)
    writers = [_written(model, layer) for layer in range(n_layers - 1)]
    for layer in range(1, n_layers):
        read, left = _read(model, layer, reading)
        lengths = _length(read @ left)
        for earlier in range(layer):
            product = _length((writers[earlier][:, None] @ read[None]) @ left[None])
            found[earlier, :, layer] = product / (_length(writers[earlier])[:, None] * lengths[None])
    return found


def chance_composition(model: Model, *, draws: int = 64, seed: int = 0) -> Floats:
    """Composition of random Gaussian matrices of a model's shapes, whatever is read: (draws,)."""
    if draws < 1:
        raise CircuitError(f"draws={draws}: at least one is needed")
    rng = np.random.default_rng(seed)
    wide, narrow = model.d_model, model.d_head
    found = np.zeros(draws)
    for at in range(draws):
        first, second, third, fourth = (rng.standard_normal((wide, narrow)) for _ in range(4))
        product = np.linalg.norm(first @ (second.T @ third) @ fourth.T)
        found[at] = product / (np.linalg.norm(first @ second.T) * np.linalg.norm(third @ fourth.T))
    return found


def copying_scores(model: Model) -> Floats:
    """How far each head makes likelier what it attends to, by its eigenvalues: (n_layers, n_heads), from -1 to 1."""
    through = _unembedded_embeddings(model)
    found = np.zeros((model.n_layers, model.n_heads))
    for layer in range(model.n_layers):
        weights = head_weights(model, layer)
        name = model.network.family.norms.before_attn
        norm = None if name is None else getattr(model.network.layers[layer], name)
        read = through if norm is None else centred(norm, through)
        small = np.asarray(weights.output @ read @ weights.value, np.float64)  # (head, d_head, d_head)
        values = np.linalg.eigvals(small)
        found[layer] = values.sum(-1).real / np.maximum(np.abs(values).sum(-1), np.finfo(np.float64).tiny)
    return found


def _unembedded_embeddings(model: Model) -> mx.array:
    """Unembedding times embedding, summed over the vocabulary: (d_model at the end, d_model of the embedding).

    The last norm's gain and centring are in the unembedding.
    """
    net, norm = model.network, getattr(model.network.decoder, model.network.family.norm)
    table = getattr(net.decoder, net.family.embed)
    ends = gain(norm, net.d_model)
    unit = mx.eye(net.d_model, dtype=net.dtype)
    logits = None if net.tied else net.unembed(unit, capped=False) - net.unembed(mx.zeros_like(unit[:1]), capped=False)
    found = mx.zeros((net.d_model, net.d_model))
    for start in range(0, net.d_vocab, CHUNK):
        tokens = mx.arange(start, min(start + CHUNK, net.d_vocab))
        embedded = table(tokens).astype(mx.float32)
        read = embedded if logits is None else logits[:, start : start + CHUNK].T.astype(mx.float32)
        found = found + centred(norm, read * ends).T @ embedded
        mx.eval(found)
    return found


def _written(model: Model, layer: int) -> mx.array:
    """Each head's OV circuit but for an orthonormal factor in front: (head, d_head, d_model)."""
    weights = head_weights(model, layer)
    return _triangle(weights.value) @ weights.output


def _read(model: Model, layer: int, reading: Reading) -> tuple[mx.array, mx.array]:
    """How each head reads the stream (head, d_model, d_head), and what it does with that but for an orthonormal factor.

    Queries are read to be compared with keys, keys with queries, values to be written.
    """
    weights = head_weights(model, layer)
    if reading == "v":
        return weights.value, _triangle(weights.output.swapaxes(1, 2)).swapaxes(1, 2)
    here, there = (weights.query, weights.key) if reading == "q" else (weights.key, weights.query)
    return here, _triangle(there).swapaxes(1, 2)


def _triangle(matrices: mx.array) -> mx.array:
    """R of the QR decomposition of (head, d_model, d_head) matrices: (head, d_head, d_head)."""
    return mx.array(np.stack([np.linalg.qr(one, mode="r") for one in np.asarray(matrices)]))


def _length(matrices: mx.array) -> Floats:
    """Frobenius norms of (..., a, b)."""
    return np.asarray(mx.sqrt((matrices * matrices).sum(axis=(-2, -1))), np.float64)
