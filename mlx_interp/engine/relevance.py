"""A network whose backward pass follows rules of relevance propagation; its forward pass is the network's, bit for bit.

Each rule replaces a function by a linear one of the same value: f(x) becomes stop(f(x)) + g(x) - stop(g(x)), where g
is linear in x with factors that no gradient enters. Then what `gradients` gives are propagation coefficients.

norm        a norm's divisor is a factor (LN-rule, Ali et al. 2022)
activation  act(x) is x times the factor act(x) / x (identity rule)
half        of a product of two activations each gets half of the slope, so that it is not counted twice
attention   patterns are factors: values alone are followed (AH-rule)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from mlx_interp.deferred import mx
from mlx_interp.engine.frozen import centred, divisor, gain
from mlx_interp.engine.network import Mask, Network

Rule = Literal["norm", "activation", "half", "attention"]
RULES: tuple[Rule, ...] = get_args(Rule)
SMALLEST = 1e-6
"""Where x is smaller in size, act(x) / x is taken here instead."""


@dataclass(frozen=True)
class RelevanceNetwork(Network):
    """A network under rules of relevance propagation."""

    rules: frozenset[Rule] = frozenset(RULES)

    def final(self, x: mx.array) -> mx.array:
        return self._ruled_norm(getattr(self.decoder, self.family.norm), x, super().final(x))

    def attend(self, layer: int, q: mx.array, k: mx.array, v: mx.array, mask: Mask) -> mx.array:
        if "attention" in self.rules:
            q, k = mx.stop_gradient(q), mx.stop_gradient(k)
        return super().attend(layer, q, k, v, mask)

    def combined(self, layer: int, *gate_up: mx.array) -> mx.array:
        exact = super().combined(layer, *gate_up)
        if not self.rules & {"activation", "half"}:
            return exact
        gate, *up = (one.astype(mx.float32) for one in gate_up)
        active = self._active(gate, gated=bool(up))
        if not up:
            return _of_value(exact, active)
        if "half" not in self.rules:
            return _of_value(exact, active * up[0])
        halves = active * mx.stop_gradient(up[0]) + mx.stop_gradient(active) * up[0]
        return _of_value(exact, halves / 2)

    def _active(self, gate: mx.array, *, gated: bool) -> mx.array:
        """What the activation makes of its input: itself, or linear in it."""
        form = self.family.form
        assert form is not None

        def act(x: mx.array) -> mx.array:
            return form.combine(x, mx.ones_like(x)) if gated else form.combine(x)

        if "activation" not in self.rules:
            return act(gate)
        safe = mx.where(mx.abs(gate) < SMALLEST, SMALLEST, gate)
        return gate * mx.stop_gradient(act(safe) / safe)

    def _before(self, layer: int, norm: str | None, x: mx.array) -> mx.array:
        made = super()._before(layer, norm, x)
        return made if norm is None else self._ruled_norm(getattr(self.layers[layer], norm), x, made)

    def _after(self, layer: int, norm: str | None, x: mx.array) -> mx.array:
        if norm is None:
            return super()._after(layer, None, x)
        module = getattr(self.layers[layer], norm)
        return super()._after(layer, None, self._ruled_norm(module, x, module(x)))

    def _normed(self, norm: Any, heads: mx.array) -> mx.array:
        made = super()._normed(norm, heads)
        if self.qk_norm != "all heads":
            return self._ruled_norm(norm, heads, made)
        flat = heads.reshape(*heads.shape[:-2], -1)
        return self._ruled_norm(norm, flat, made.reshape(flat.shape)).reshape(heads.shape)

    def _ruled_norm(self, norm: Any, x: mx.array, made: mx.array) -> mx.array:
        """What a norm made of x, with the slope of its linear part alone."""
        if "norm" not in self.rules:
            return made
        return _of_value(made, centred(norm, x) * gain(norm, x.shape[-1]) / mx.stop_gradient(divisor(norm, x)))


def _of_value(exact: mx.array, linear: mx.array) -> mx.array:
    """An array's value bitwise, with the slope of another one."""
    return mx.stop_gradient(exact) + (linear - mx.stop_gradient(linear)).astype(exact.dtype)
