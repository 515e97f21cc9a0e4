"""Mixers that are no attention, step by step, as mlx-lm's modules compute them: Gated DeltaNet (Yang et al. 2024),
Mamba 2, whose state has another rule (`spaces.py`), and a short convolution between two gates (LFM2): step 2 alone.

1. One matrix gives queries, keys and values, others a gate, a decay and a strength of writing for each head.
2. A convolution over a few positions mixes queries, keys and values with those before them, channel by channel.
3. Each head holds a state, a matrix that maps keys to values. A position multiplies it by its decay, and then writes
   its value under its key: of what the state lacks of it, the share that the strength says.
4. Its query reads the state; the result is normed, gated and projected.

The state carries what is done at one position to all that follow, in this very layer; the convolution reaches a few
positions ahead. So a pass needs what was before its first position: the convolution's last inputs, and the state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from mlx_interp.architectures import mixers
from mlx_interp.deferred import mlx_lm, mx, nn
from mlx_interp.engine.spaces import Rule, StateSpaces, read_by_queries, reading

Visit: TypeAlias = "Callable[[int, mx.array], mx.array]"
"""(place of a position, state after it wrote) -> the state that goes on; state: (row, value head, d_value, d_key)."""


@dataclass(frozen=True)
class Mixers(StateSpaces):
    """The steps of layers without attention."""

    @property
    def _mixer_sizes(self) -> dict[str, int]:
        if self.family.mixer is None:
            return {}
        if not self.has_state:
            return {"d_conv": self.d_model}
        d = self.state_sizes
        return {
            "key_head": d.n_key_heads,
            "value_head": d.n_heads,
            "d_key": d.d_key,
            "d_value": d.d_value,
            "d_conv": d.d_conv,
            "d_state": d.d_state,
        }

    def delta_in(self, layer: int, x: mx.array) -> tuple[mx.array, ...]:
        """What the mixer reads (..., d_model) -> `conv_in`, `mixer_gate`, `decay` and `write`."""
        mixer = self._mixer(layer)
        gate = mixer.in_proj_z(x).reshape(*x.shape[:-1], self.state_sizes.n_heads, self.state_sizes.d_value)
        decay = mlx_lm.models.gated_delta.compute_g(mixer.A_log, mixer.in_proj_a(x), mixer.dt_bias)
        return mixer.in_proj_qkv(x), gate, decay, mx.sigmoid(mixer.in_proj_b(x))

    def convolved(self, layer: int, before: mx.array | None, x: mx.array) -> tuple[mx.array, mx.array]:
        """(row, pos, d_conv) -> the convolution of each with those before it, and the last inputs.

        before: what the row had before its first position, (row, kernel - 1, d_conv); None at a text's beginning.
        """
        assert self.family.mixer is not None
        if before is None:
            before = mx.zeros((x.shape[0], self.reach, x.shape[2]), dtype=x.dtype)
        inputs = mx.concatenate([before, x], axis=1)
        return getattr(self._mixer(layer), self.family.mixer.conv)(inputs), inputs

    @cached_property
    def reach(self) -> int:
        """How many positions back a convolution reads."""
        return 0 if self.family.mixer is None else int(getattr(self.args, self.family.mixer.kernel)) - 1

    def short_in(self, layer: int, x: mx.array) -> tuple[mx.array, mx.array]:
        """What the mixer reads (..., d_model) -> what its convolution reads, and the gate on what that gives."""
        gate, conv_gate, inner = mx.split(self._mixer(layer).in_proj(x), 3, axis=-1)
        return gate * inner, conv_gate

    def short_out(self, layer: int, conv_out: mx.array, gate: mx.array) -> mx.array:
        """What the convolution gave, and its gate -> what the mixer adds to the stream (..., d_model)."""
        out: mx.array = self._mixer(layer).out_proj(gate * conv_out)
        return out

    def delta_heads(self, layer: int, convolved: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """What the convolution gave (..., d_conv) -> queries, keys (..., key head, d_key), values."""
        d, rows = self.state_sizes, convolved.shape[:-1]
        ends = [d.n_key_heads * d.d_key, 2 * d.n_key_heads * d.d_key]
        q, k, v = mx.split(nn.silu(convolved), ends, axis=-1)
        q, k = (a.reshape(*rows, d.n_key_heads, d.d_key) for a in (q, k))
        q, k = mlx_lm.models.gated_delta.normalize_qk(q, k, inv_scale=d.d_key**-0.5, eps=1e-6)
        return q, k, v.reshape(*rows, d.n_heads, d.d_value)

    def recurred(
        self, layer: int, inputs: Sequence[mx.array], state: mx.array | None = None, real: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """What changes and reads the state (row, pos, ...) -> `mixed`, and the last state: as mlx-lm does.

        state: before the first position; None at a text's beginning. real: bool (row, pos); others leave no trace.
        """
        if self.family.mixer is mixers.MAMBA2:
            return self.scanned(layer, inputs, state, real)
        q, k, v, decay, write = inputs
        state = self.no_state(q.shape[0]) if state is None else state
        delta = mlx_lm.models.gated_delta
        on_gpu = mx.default_device() == mx.gpu and mx.metal.is_available() and self.state_sizes.d_key % 32 == 0
        rule = delta.gated_delta_kernel if on_gpu else delta.gated_delta_ops
        mixed, state = rule(q, k, v, decay, write, state, real)
        return mixed, state

    def no_state(self, n_rows: int) -> mx.array:
        """The state before a text; without numbers where there is none."""
        if not self.has_state:
            return mx.zeros((n_rows, 0), dtype=mx.float32)
        d = self.state_sizes
        return mx.zeros((n_rows, d.n_heads, d.d_value, d.d_key), dtype=mx.float32)

    def delta_out(self, layer: int, mixed: mx.array, gate: mx.array) -> mx.array:
        """What queries read, and the gate -> what the mixer adds to the stream (..., d_model)."""
        mixer = self._mixer(layer)
        normed = mixer.norm(mixed, gate)
        out: mx.array = mixer.out_proj(normed.reshape(*normed.shape[:-2], -1))
        return out

    def visited(
        self,
        layer: int,
        inputs: Sequence[mx.array],
        state: mx.array | None,
        visit: Visit,
        real: mx.array | None = None,
    ) -> tuple[mx.array, mx.array]:
        """As `recurred`, with the state shown to somebody after each position; what changes nothing changes no bit."""
        shown, shown_last = self._stepped(layer, inputs, state, visit, real)
        if self.family.mixer is not mixers.MAMBA2:  # its steps are mlx-lm's own
            return shown, shown_last
        mixed, last = self.recurred(layer, inputs, state, real)
        plain, plain_last = self._stepped(layer, inputs, state, lambda place, held: held, real)
        return mixed + (shown - plain), last + (shown_last - plain_last)

    def _stepped(
        self, layer: int, inputs: Sequence[mx.array], state: mx.array | None, visit: Visit, real: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        """The recurrence position by position."""
        n_rows, n_pos = inputs[0].shape[:2]
        scan = Scan(self.no_state(n_rows) if state is None else state, self.rule(layer, exact=True))
        wide = self.wide(inputs)
        for place in range(n_pos):
            before = scan.state
            scan.step([a[:, place] for a in wide], lambda held, place=place: visit(place, held))  # type: ignore[misc]
            if real is not None:
                scan.state = mx.where(real[:, place, None, None, None], scan.state, before)
        return mx.stack(scan.read, axis=1), scan.state

    def rule(self, layer: int, *, exact: bool = False) -> Rule:
        """How a position changes a layer's state. exact: to the last bit as mlx-lm's, where that has such a step."""
        if self.family.mixer is mixers.MAMBA2:
            return self.space(layer)
        return Rule(mlx_lm.models.gated_delta._gated_delta_step_ops if exact else delta_rule, read_by_queries)

    def wide(self, inputs: Sequence[mx.array]) -> list[mx.array]:
        """The same with a query and a key for each head of values."""
        q, k, *others = inputs
        repeats = self.state_sizes.n_heads // self.state_sizes.n_key_heads
        return [*(mx.repeat(a, repeats, axis=-2) if repeats > 1 else a for a in (q, k)), *others]


def delta_rule(
    q: mx.array, k: mx.array, v: mx.array, decay: mx.array, write: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """One position: q, k (row, head, d_key), v (row, head, d_value), decay, write (row, head) -> read, new state."""
    state = state * decay[..., None, None]
    lacking = v - (state * k[..., None, :]).sum(axis=-1)
    state = state + k[..., None, :] * (lacking * write[..., None])[..., None]
    return reading(q, state), state


@dataclass
class Scan:
    """A recurrence under way: the state of some rows, which may become more, and what was read of it.

    rule: mlx-lm's delta rule is compiled by the system's compiler at its first use, for each layout of arrays anew: it
    is taken where a run must be mlx-lm's to the last bit.
    """

    state: mx.array
    rule: Rule
    read: list[mx.array] = field(default_factory=list)

    def step(self, inputs: Sequence[mx.array], visit: Callable[[mx.array], mx.array] | None = None) -> mx.array:
        """One position (row, ...) of all rows; returns what queries read (row, value head, d_value)."""
        mixed, held = self.rule.step(*inputs, self.state)
        self.state = held if visit is None else visit(held)
        if self.state is not held:
            mixed = self.rule.read(inputs, self.state)
        self.read.append(mixed)
        return mixed
