"""Mixtures of experts: which attributes of mlx-lm's MLP are router and experts, and how a token chooses among them.

1. The router gives each expert a logit. Experts are chosen by it (or by the softmax of all logits, which has the same
   order), the largest ones.
2. The chosen ones' weights are the softmax over them alone, or their part of the softmax over all experts.
3. The MLP's output is the weighted sum of what the chosen experts give, and of one MLP more that every token passes
   where there are shared experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx_interp.deferred import mx


@dataclass(frozen=True)
class Experts:
    """An MLP made of experts."""

    router: str = "gate"
    """The router, by its name in the MLP."""
    experts: str = "switch_mlp"
    """mlx-lm's `SwitchGLU` of all experts."""
    count: str = "num_experts"
    """Config key of the number of experts."""
    chosen: str = "num_experts_per_tok"
    """Config key of how many a token takes."""
    softmax_first: bool = True
    """Weights are of the softmax over all experts; False: over the chosen ones."""
    renormalised: str | None = None
    """Config key that says whether the chosen ones' weights are made to sum to one."""
    factor: str | None = None
    """Config key of what all weights are multiplied by."""
    bare_router: bool = False
    """The router holds a matrix, and chooses by itself: its logits are that matrix's products."""
    shared: str | None = None
    """The MLP of the experts that every token takes."""
    largest_first: bool = False
    """How mlx-lm partitions: the largest at the beginning, of negated values; or at the end."""

    def choice(self, router: mx.array) -> mx.array:
        """Router logits (..., expert) -> the values by which experts are chosen."""
        return mx.softmax(router, axis=-1, precise=True) if self.softmax_first else router

    def picked(self, choice: mx.array, k: int) -> mx.array:
        """Numbers of the k experts with the largest values, in the order of mlx-lm's partition."""
        if self.largest_first:
            return mx.stop_gradient(mx.argpartition(-choice, kth=k - 1, axis=-1)[..., :k])
        return mx.stop_gradient(mx.argpartition(choice, kth=-k, axis=-1)[..., -k:])

    def weights(self, args: Any, router: mx.array, picked: mx.array) -> mx.array:
        """The weight of each of the picked experts, (..., slot)."""
        if not self.softmax_first:
            return mx.softmax(mx.take_along_axis(router, picked, axis=-1), axis=-1, precise=True)
        found = mx.take_along_axis(mx.softmax(router, axis=-1, precise=True), picked, axis=-1)
        if self.renormalised and getattr(args, self.renormalised):
            found = found / mx.sum(found, axis=-1, keepdims=True)
        return found * getattr(args, self.factor) if self.factor else found


def experts_in_full(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """gpt-oss's experts as transformers stores them unpacked: gate and up column by column, inputs first."""
    if not any(name.endswith(".experts.gate_up_proj") for name in weights):
        return weights
    found: dict[str, mx.array] = {}
    for name, array in weights.items():
        base, _, last = name.rpartition(".")
        part, kind = ("bias", last.removesuffix("_bias")) if last.endswith("_bias") else ("weight", last)
        if not base.endswith(".experts"):
            found[name] = array
            continue
        rows = array if part == "bias" else array.swapaxes(-1, -2)
        if kind == "down_proj":
            found[f"{base}.down_proj.{part}"] = rows
        else:
            found |= {f"{base}.gate_proj.{part}": rows[:, ::2], f"{base}.up_proj.{part}": rows[:, 1::2]}
    return found


def spread(weights: mx.array, picked: mx.array, n_experts: int) -> mx.array:
    """Weights by slot -> by expert (..., n_experts), 0 where one was not picked."""
    nothing = mx.zeros((*weights.shape[:-1], n_experts), dtype=weights.dtype)
    return mx.put_along_axis(nothing, picked, weights, axis=-1)


def computed(weights: mx.array, picked: mx.array) -> mx.array:
    """Numbers of the experts to compute: those picked, unless another has a weight: then the ones with the largest."""
    k = picked.shape[-1]
    size = mx.abs(weights)
    left_out = mx.put_along_axis(size, picked, mx.zeros(picked.shape, size.dtype), axis=-1).max(axis=-1, keepdims=True)
    largest = mx.argpartition(size, kth=-k, axis=-1)[..., -k:]
    return mx.stop_gradient(mx.where(left_out > 0, largest, picked))
