"""Measures of a lens: bits per byte, bias, and transfer between layers (Belrose et al. 2023, sections 3 and 4).

1. Bits per byte: the lens's cross-entropy on the tokens that follow, by the bytes that they stand for, so that
   tokenizers compare.
2. Bias: the KL divergence of the lens's mean distribution over a corpus from the model's mean distribution. Errors of
   single predictions average out, a preference for some tokens does not.
3. Transfer: the translator of one layer at the streams of another; the penalty is the KL divergence that this adds to
   that of the layer's own translator.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mlx_interp.deferred import mx, nn
from mlx_interp.errors import DataError
from mlx_interp.lenses.tuned import TunedLens, kl_to_last
from mlx_interp.model import Model
from mlx_interp.stats import Estimate, jackknife_interval

NATS_PER_BIT = math.log(2)
LEAST = 1e-30
"""Below this a probability counts as this: float32 underflows to 0 where a logit lens is very sure."""


def next_token_nats(logits: mx.array, tokens: mx.array) -> mx.array:
    """Cross-entropy (..., n), in nats, of logits (..., n, d_vocab) on the tokens (n,) that follow."""
    logits = logits.astype(mx.float32)
    index = mx.broadcast_to(tokens[:, None], (*logits.shape[:-1], 1))
    chosen = mx.take_along_axis(logits, index, axis=-1)[..., 0]
    return mx.logsumexp(logits, axis=-1) - chosen


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Bits that a text's nats are for each of its bytes. Raises DataError for a text of no byte."""
    if n_bytes <= 0:
        raise DataError(f"bits per byte of a text of {n_bytes} bytes")
    return nats / (NATS_PER_BIT * n_bytes)


def mean_distributions(logits: mx.array) -> npt.NDArray[np.float64]:
    """(..., d_vocab): mean over positions of the probabilities of logits (..., n_positions, d_vocab), float64."""
    probabilities = nn.softmax(logits.astype(mx.float32), axis=-1)
    return np.asarray(probabilities.mean(axis=-2)).astype(np.float64)


def kl_bits(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """KL(p || q), in bits, of distributions (..., d_vocab) -> (...)."""
    p, q = (np.maximum(x, LEAST) for x in (p, q))
    return np.asarray((p * (np.log2(p) - np.log2(q))).sum(axis=-1))


def bias_bits(final: npt.NDArray[np.float64], lens: npt.NDArray[np.float64]) -> Estimate | None:
    """A lens's bias, KL(mean of the model || mean of the lens) in bits, with its interval over units.

    final, lens: (n_units, d_vocab), the mean distributions of each unit (a text, or a group of them). A divergence of
    means is too high on few units; the jackknife takes that out, and what falls below 0 counts as 0.
    Raises DataError where the shapes differ.
    """
    if final.shape != lens.shape or final.ndim != 2:
        raise DataError(f"bias needs (n_units, d_vocab) of model and lens alike; got {final.shape} and {lens.shape}")

    def of(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        counts = np.stack([np.bincount(row, minlength=len(final)) for row in drawn]) / drawn.shape[1]
        return kl_bits(counts @ final, counts @ lens)

    found = jackknife_interval(of, len(final))
    if found is None:
        return None
    return Estimate(max(0.0, found.value), max(0.0, found.low), max(0.0, found.high), found.n)


def transfer(model: Model, lens: TunedLens, states: mx.array) -> mx.array:
    """KL divergence from the model, in nats, of every translator at every layer: (translator, layer, n_positions).

    states: (n_layers, n_positions, d_model), as the lens wants them. The diagonal is the lens itself; what a row has
    beyond it, column by column, is the penalty of transfer. Raises DataError as `TunedLens.logits`.
    """
    rows = []
    for weight, bias in zip(lens.weight, lens.bias, strict=True):
        moved = TunedLens(
            mx.broadcast_to(weight, lens.weight.shape), mx.broadcast_to(bias, lens.bias.shape), lens.model
        )
        rows.append(kl_to_last(moved.logits(model, states)))
        mx.eval(rows[-1])
    return mx.stack(rows)
