"""Exponentials in NumPy where MLX computes on the CPU: passes without a gradient spend their time there.

MLX's exponential takes some 25 ns a number on Linux (as long as the matrix product before it), NumPy's .6 ns. Both
round to float32, so that logits differ in the last bits, as they do between batches of different size. A run keeps
MLX's own, and is mlx-lm's bit for bit; on a GPU, on a Mac and in other dtypes so does everything.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.layout import on_linux_cpu
from mlx_interp.engine.network import Mask, Network, seen

WORTH = 2**12
"""Numbers from which on NumPy is taken: before, waiting for the array costs more than MLX's exponential."""
PART = 2**15
"""Numbers that are worked on at a time, so that they stay in a core's cache."""
MADE = "made_on_host"


@dataclass(frozen=True)
class HostNetwork(Network):
    """A network that takes exponentials in NumPy. Nothing can be differentiated through it."""

    def combined(self, layer: int, *gate_up: mx.array) -> mx.array:
        form = self.family.form
        assert form is not None
        if form.host is None or gate_up[0].size < WORTH or (self.relay is not None and self.relay.absent):
            return super().combined(layer, *gate_up)
        whole = [np.asarray(x).reshape(-1) for x in gate_up]
        out = np.empty_like(whole[0])
        for start in range(0, out.size, PART):
            out[start : start + PART] = form.host(*(x[start : start + PART] for x in whole))
        return mx.array(out.reshape(gate_up[0].shape))

    def softmax_of_rows(self, scores: mx.array) -> mx.array:
        absent = self.relay is not None and self.relay.absent
        return super().softmax_of_rows(scores) if absent else softmax(scores)

    def attend(self, layer: int, q: mx.array, k: mx.array, v: mx.array, mask: Mask) -> mx.array:
        batch, n_heads, n_query, _ = q.shape
        if self.family.wide_scores or batch * n_heads * n_query * k.shape[2] < WORTH:
            return super().attend(layer, q, k, v, mask)
        return self.mix(self.softmax(layer, self.scores(layer, q, k), seen(mask, n_query)), v)


def softmax(logits: mx.array) -> mx.array:
    """Softmax over the last axis, in NumPy where that is faster. Nothing can be differentiated through it."""
    if not _worth(logits):
        return mx.softmax(logits, precise=True, axis=-1)
    rows = np.asarray(logits).reshape(-1, logits.shape[-1])
    out = np.empty_like(rows)
    step = max(1, PART // rows.shape[1])
    with np.errstate(all="ignore"):  # a row that is not finite is for the check of results to find, as MLX's is
        for start in range(0, len(rows), step):
            some, part = rows[start : start + step], out[start : start + step]
            np.subtract(some, some.max(axis=1, keepdims=True), out=part)
            np.exp(part, out=part)
            part /= part.sum(axis=1, keepdims=True)
    return mx.array(out.reshape(logits.shape))


def log_softmax(logits: mx.array) -> mx.array:
    """Log-softmax over the last axis, in NumPy where that is faster. Nothing can be differentiated through it."""
    if not _worth(logits):
        return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    rows = np.asarray(logits).reshape(-1, logits.shape[-1])
    out = np.empty_like(rows)
    with np.errstate(all="ignore"):
        for row, part in zip(rows, out, strict=True):
            np.subtract(row, row.max(), out=part)
            part -= np.log(np.exp(part).sum())
    return mx.array(out.reshape(logits.shape))


def _worth(x: mx.array) -> bool:
    return on_linux_cpu() and x.dtype == mx.float32 and x.size >= WORTH


def on_host(net: Network) -> Network:
    """The same network with exponentials in NumPy, where that is faster and equal."""
    form = net.family.form
    fits = form is not None and form.host is not None and net.dtype == mx.float32
    if not fits or type(net) is not Network or not on_linux_cpu():
        return net
    held = vars(net)  # beside its cached properties: small sweeps would notice one made anew
    if MADE not in held:
        held[MADE] = HostNetwork(*(getattr(net, field.name) for field in fields(net)))
    made: HostNetwork = held[MADE]
    return made
