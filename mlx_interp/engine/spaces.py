"""Mamba 2 (Dao and Gu 2024), step by step as mlx-lm's modules compute it: a state space in attention's place.

1. One matrix gives values, keys (B) and queries (C) side by side, a gate, and a time step for each head.
2. A convolution over a few positions mixes all but gate and time step with those before them, channel by channel.
3. Each head's state forgets by exp(-time step x the head's pace), and a position adds its value under its key, times
   the time step. Its query reads the state; a share of the value itself is added to that (`mixed`).
4. What is read is gated, normed and projected.

A whole text is computed in chunks, as attention whose pattern decays: `scanned`, operation by operation as mlx-lm's
`ssm_attn`, which wants time steps before their softplus. One position is `Rule.step`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlx_interp.architectures.mixers import StateSizes
from mlx_interp.deferred import mlx_lm, mx, nn
from mlx_interp.engine.anatomy import Anatomy

CHUNK = 256
"""Positions that mlx-lm computes at once."""


@dataclass(frozen=True)
class Rule:
    """One position of a recurrence."""

    step: Callable[..., tuple[mx.array, mx.array]]
    """(what changes and reads the state (row, ...) each, state) -> what is read, new state."""
    read: Callable[[Sequence[mx.array], mx.array], mx.array]
    """What is read in a state that somebody has put in the new one's place."""


def read_by_queries(inputs: Sequence[mx.array], state: mx.array) -> mx.array:
    """What queries, the first of the inputs, read in a state."""
    return reading(inputs[0], state)


def reading(q: mx.array, state: mx.array) -> mx.array:
    """What queries read in a state."""
    return (state * q[..., None, :]).sum(axis=-1).astype(q.dtype)


@dataclass(frozen=True)
class StateSpaces(Anatomy):
    """The steps of layers whose mixer is a state space."""

    @cached_property
    def state_sizes(self) -> StateSizes:
        sizes = None if self.family.mixer is None else self.family.mixer.sizes
        assert sizes is not None
        return StateSizes(*(int(getattr(self.args, name)) for name in sizes))

    def ssm_in(self, layer: int, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """What the mixer reads (..., d_model) -> `conv_in`, `mixer_gate`, `time_step`."""
        mixer, d = self._mixer(layer), self.state_sizes
        inner = d.n_heads * d.d_value
        gate, conv_in, step = mx.split(mixer.in_proj(x), [inner, inner + d.d_conv], axis=-1)
        step = mlx_lm.models.ssm.compute_dt(step, mixer.dt_bias, mixer.time_step_limit)
        return conv_in, gate.reshape(*x.shape[:-1], d.n_heads, d.d_value), step

    def ssm_heads(self, layer: int, convolved: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """What the convolution gave (..., d_conv) -> queries, keys (..., key head, d_key), values."""
        d, rows = self.state_sizes, convolved.shape[:-1]
        inner = d.n_heads * d.d_value
        v, k, q = mx.split(nn.silu(convolved), [inner, inner + d.n_key_heads * d.d_key], axis=-1)
        q, k = (a.reshape(*rows, d.n_key_heads, d.d_key) for a in (q, k))
        return q, k, v.reshape(*rows, d.n_heads, d.d_value)

    def ssm_out(self, layer: int, mixed: mx.array, gate: mx.array) -> mx.array:
        """What was read, and the gate -> what the mixer adds to the stream (..., d_model)."""
        mixer = self._mixer(layer)
        normed = mixer.norm(*(a.reshape(*a.shape[:-2], -1) for a in (mixed, gate)))
        return self._after(layer, None, mixer.out_proj(normed))

    def scanned(
        self, layer: int, inputs: Sequence[mx.array], state: mx.array | None, real: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        """Queries, keys, values, time steps (row, pos, ...) -> what is read, and the last state.

        state: before the first position; None at a text's beginning. real: bool (row, pos); others leave no trace.
        """
        q, k, v, step = inputs
        if real is not None:
            step = mx.where(real[..., None], step, mx.zeros((), step.dtype))
        mixer = self._mixer(layer)
        logs = step * (-mx.exp(mixer.A_log).astype(step.dtype)).reshape(1, 1, -1)
        written = step[..., None] * v
        read = []
        for at in range(0, q.shape[1], CHUNK):
            part = slice(at, at + CHUNK)
            one, state = _chunk(q[:, part], k[:, part], written[:, part], logs[:, part], state)
            read.append(one.astype(v.dtype))
        assert state is not None
        return mx.concatenate(read, axis=1) + v * mixer.D.astype(v.dtype).reshape(1, 1, -1, 1), state

    def space(self, layer: int) -> Rule:
        """One position of a layer's state space."""
        mixer = self._mixer(layer)
        pace, share = -mx.exp(mixer.A_log.astype(mx.float32)), mixer.D[:, None]

        def read(inputs: Sequence[mx.array], state: mx.array) -> mx.array:
            q, _, v, _ = inputs
            found: mx.array = reading(q, state) + v * share.astype(v.dtype)
            return found

        def step(q: mx.array, k: mx.array, v: mx.array, step: mx.array, state: mx.array) -> tuple[mx.array, mx.array]:
            written = (step[..., None] * v)[..., None] * k[..., None, :]
            state = state * mx.exp(step * pace)[..., None, None] + written
            return read((q, k, v, step), state), state

        return Rule(step, read)

    def _mixer(self, layer: int) -> Any:
        assert self.family.mixer is not None
        return getattr(self.layers[layer], self.family.mixer.name)

    def _after(self, layer: int, norm: str | None, x: mx.array) -> mx.array:
        """What is added to the stream, behind a norm and a multiplier, where a family has them."""
        if norm is not None:
            x = getattr(self.layers[layer], norm)(x)
        if self.family.residual_scale:
            x = x * getattr(self.args, self.family.residual_scale)
        return x


def _chunk(
    q: mx.array, k: mx.array, written: mx.array, logs: mx.array, state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """Some positions at once: what queries read, and the state behind them."""
    rows, n, n_heads, d_value = written.shape
    n_key_heads, d_key = k.shape[2:]
    repeats = n_heads // n_key_heads
    k = mx.transpose(k, (0, 2, 3, 1))
    scores = mx.repeat(mx.swapaxes(q, 1, 2) @ k, repeats, axis=1)
    decay = mx.exp(mlx_lm.models.ssm.segsum(logs.swapaxes(1, 2)))
    read = mx.swapaxes(mx.tril(scores * decay, 0) @ written.swapaxes(1, 2), 1, 2)
    last = decay[:, :, -1:, :].transpose(0, 3, 1, 2)
    keys = mx.repeat(k, repeats, axis=1).swapaxes(2, 3)
    after = (written * last).swapaxes(1, 2).swapaxes(2, 3) @ keys
    if state is not None:
        kept = mx.exp(mx.cumsum(logs, axis=-2))
        after = after + kept[:, -1, :, None, None] * state
        before = state.reshape(rows, 1, n_key_heads, repeats, d_value, d_key) @ q.reshape(
            rows, n, n_key_heads, 1, d_key, 1
        )
        read = read + kept[..., None] * before.squeeze(-1).flatten(2, 3)
    return read, after
