"""Losses of autoencoders (`kinds` has what is of one kind), in units in which E ||x||^2 = 1 (Gemma Scope, 2408.05147).

all         squared error ||x - x^||^2, summed over d_model, mean over the batch; with nested prefixes (Matryoshka,
            2503.17547) the mean of the errors of the first n features, for each n
relu        + sparsity * sum f                     decoder columns have norm 1, so that the norm's factor is gone
gated       + sparsity * sum ReLU(z_gate) + squared error from ReLU(z_gate) through the decoder held fixed
jumprelu    + sparsity * L0, or sparsity * (L0 / target - 1)^2; straight-through with a rectangle of one bandwidth
topk, batchtopk   + 1/32 * error of the dead features' k_aux largest at explaining x - x^ (AuxK, 2406.04093)
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_interp.deferred import mx
from mlx_interp.sae.kinds import Weights, largest
from mlx_interp.sae.sae import kind_of


@dataclass(frozen=True)
class Objective:
    """The loss of one kind; `k` of topk and batchtopk, `sparsity` the weight of the others' penalty."""

    kind: str
    k: int
    target_l0: float | None
    bandwidth: float
    aux_k: int
    aux_weight: float
    nested: tuple[float, ...]

    def __call__(
        self, weights: Weights, x: mx.array, sparsity: mx.array, dead: mx.array | None
    ) -> tuple[mx.array, dict[str, mx.array]]:
        """(loss, what the trainer keeps of the forward pass); x (batch, d_model), dead (d_sae,) of bool or None."""
        kind = kind_of(self.kind)
        y = self.target(x)
        z = kind.pre_activations(weights, self.read(weights, x))
        f, penalty = kind.trained(weights, z, self)
        error = y - (f @ weights["W_dec"] + weights["b_dec"])
        squared = mx.mean(mx.sum(error * error, axis=-1))
        loss = squared if not self.nested else self._nested(weights, y, f, squared)
        loss = loss + sparsity * penalty
        further = kind.further_loss(weights, y, z)
        if further is not None:
            loss = loss + further
        if dead is not None:
            loss = loss + self.aux_weight * self._aux(weights, kind.gate(z), mx.stop_gradient(error), dead)
        kept = {"squared": squared, "l0": mx.mean(mx.sum(f > 0, axis=-1)), "fired": mx.any(f > 0, axis=0)}
        return loss, kept | kind.kept(f)

    def features(self, weights: Weights, x: mx.array) -> mx.array:
        """Features (batch, d_sae) of x as in training."""
        kind = kind_of(self.kind)
        return kind.trained(weights, kind.pre_activations(weights, self.read(weights, x)), self)[0]

    def read(self, weights: Weights, x: mx.array) -> mx.array:
        """h (batch, d_sae) of a row of training: what encoder rows see of it."""
        return (x - weights["b_dec"]) @ weights["W_enc"]

    def target(self, x: mx.array) -> mx.array:
        """What is to be reconstructed of a row of training."""
        return x

    def _nested(self, weights: Weights, x: mx.array, f: mx.array, whole: mx.array) -> mx.array:
        total = whole
        for share in self.nested:
            n = max(1, round(share * f.shape[-1]))
            error = x - (f[:, :n] @ weights["W_dec"][:n] + weights["b_dec"])
            total = total + mx.mean(mx.sum(error * error, axis=-1))
        return total / (1 + len(self.nested))

    def _aux(self, weights: Weights, gate: mx.array, error: mx.array, dead: mx.array) -> mx.array:
        """How badly the dead features explain what the living ones leave, as a share of it."""
        f = largest(mx.where(dead, mx.maximum(gate, 0), 0.0), self.aux_k)
        missed = error - f @ weights["W_dec"]
        return mx.mean(mx.sum(missed * missed, axis=-1)) / mx.mean(mx.sum(error * error, axis=-1))


def without_parallel(gradient: mx.array, decoder: mx.array) -> mx.array:
    """The decoder's gradient without its part along each feature's unit direction: that would change lengths only."""
    return gradient - mx.sum(gradient * decoder, axis=-1, keepdims=True) * decoder


def with_unit_rows(decoder: mx.array) -> mx.array:
    return decoder / mx.maximum(mx.linalg.norm(decoder, axis=-1, keepdims=True), 1e-12)


def geometric_median(x: mx.array, steps: int = 30) -> mx.array:
    """The point (d_model,) with the least sum of distances to the rows of x, by Weiszfeld's iteration."""
    centre = mx.mean(x, axis=0)
    for _ in range(steps):
        weight = 1 / mx.maximum(mx.linalg.norm(x - centre, axis=-1, keepdims=True), 1e-8)
        centre = mx.sum(weight * x, axis=0) / mx.sum(weight)
    return centre
