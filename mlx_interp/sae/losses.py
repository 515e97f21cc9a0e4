"""What each kind of autoencoder minimises, in units in which E ||x||^2 = 1 (as in Gemma Scope, 2408.05147).

all         squared error ||x - x^||^2, summed over d_model, mean over the batch; with nested prefixes (Matryoshka,
            2503.17547) the mean of the errors of the first n features, for each n
relu        + sparsity * sum f                     decoder columns have norm 1, so that the norm's factor is gone
gated       + sparsity * sum ReLU(z_gate) + squared error from ReLU(z_gate) through the decoder held fixed
jumprelu    + sparsity * L0, or sparsity * (L0 / target - 1)^2; straight-through with a rectangle of one bandwidth
topk, batchtopk   + 1/32 * error of the dead features' k_aux largest at explaining x - x^ (AuxK, 2406.04093)
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from mlx_interp.sae.sae import Kind, Weights, features_of, largest, pre_activations


@dataclass(frozen=True)
class Objective:
    """The loss of one kind; `k` of topk and batchtopk, `sparsity` the weight of the others' penalty."""

    kind: Kind
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
        z = pre_activations(self.kind, weights, x)
        f, penalty = self.features(weights, z)
        error = x - (f @ weights["W_dec"] + weights["b_dec"])
        squared = mx.mean(mx.sum(error * error, axis=-1))
        loss = squared if not self.nested else self._nested(weights, x, f, squared)
        loss = loss + sparsity * penalty
        if self.kind == "gated":
            loss = loss + _gate_error(weights, x, z[0])
        if dead is not None:
            loss = loss + self.aux_weight * self._aux(weights, z, mx.stop_gradient(error), dead)
        kept = {"squared": squared, "l0": mx.mean(mx.sum(f > 0, axis=-1)), "fired": mx.any(f > 0, axis=0)}
        if self.kind == "batchtopk":
            kept["smallest"] = mx.min(mx.where(f > 0, f, mx.array(float("inf"))))
        return loss, kept

    def features(self, weights: Weights, z: mx.array) -> tuple[mx.array, mx.array]:
        """(features as in training, penalty before its weight)."""
        if self.kind == "jumprelu":
            return self._jumprelu(z, weights["log_threshold"])
        if self.kind == "batchtopk":
            f = mx.maximum(z, 0)
            return largest(f.reshape(1, -1), self.k * f.shape[0]).reshape(f.shape), mx.zeros(())
        f = features_of(self.kind, weights, z, self.k)
        if self.kind == "topk":
            return f, mx.zeros(())
        over = f if self.kind == "relu" else mx.maximum(z[0], 0)
        return f, mx.mean(mx.sum(over, axis=-1))

    def _jumprelu(self, z: mx.array, log_threshold: mx.array) -> tuple[mx.array, mx.array]:
        threshold = mx.exp(log_threshold)
        open_ = mx.stop_gradient((z > threshold).astype(mx.float32))
        near = mx.stop_gradient((mx.abs(z - threshold) < self.bandwidth / 2).astype(mx.float32)) / self.bandwidth
        # Straight-through: the value is that of a step, the gradient with respect to the threshold that of a ramp.
        ramp = near * (threshold - mx.stop_gradient(threshold))
        f = mx.maximum(z, 0) * open_ - mx.stop_gradient(threshold) * ramp
        l0 = mx.mean(mx.sum(open_ - ramp, axis=-1))
        return f, l0 if self.target_l0 is None else (l0 / self.target_l0 - 1) ** 2

    def _nested(self, weights: Weights, x: mx.array, f: mx.array, whole: mx.array) -> mx.array:
        total = whole
        for share in self.nested:
            n = max(1, round(share * f.shape[-1]))
            error = x - (f[:, :n] @ weights["W_dec"][:n] + weights["b_dec"])
            total = total + mx.mean(mx.sum(error * error, axis=-1))
        return total / (1 + len(self.nested))

    def _aux(self, weights: Weights, z: mx.array, error: mx.array, dead: mx.array) -> mx.array:
        """How badly the dead features explain what the living ones leave, as a share of it."""
        gate = z[0] if self.kind == "gated" else z
        f = largest(mx.where(dead, mx.maximum(gate, 0), 0.0), self.aux_k)
        missed = error - f @ weights["W_dec"]
        return mx.mean(mx.sum(missed * missed, axis=-1)) / mx.mean(mx.sum(error * error, axis=-1))


def _gate_error(weights: Weights, x: mx.array, gate: mx.array) -> mx.array:
    decoder, bias = mx.stop_gradient(weights["W_dec"]), mx.stop_gradient(weights["b_dec"])
    error = x - (mx.maximum(gate, 0) @ decoder + bias)
    return mx.mean(mx.sum(error * error, axis=-1))


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
