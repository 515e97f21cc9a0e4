"""Kinds of sparse autoencoders: each is a class with its parameters, its forward pass, its loss and its file format.

With h = (x - b_dec) W_enc and z = h + b_enc, features f (..., d_sae) are

    relu        f = ReLU(z)                                     Bricken et al. 2023; Cunningham et al. 2023 (2309.08600)
    gated       f = 1[z_gate > 0] ReLU(z_mag), shared W_enc     Rajamanoharan et al. 2024 (2404.16014)
    topk        f = the k largest of ReLU(z)                    Gao et al. 2024 (2406.04093)
    jumprelu    f = z 1[z > threshold], one for each feature    Rajamanoharan et al. 2024 (2407.14435)
    batchtopk   as jumprelu once trained: a fixed threshold     Bussmann et al. 2024 (2412.06410)

Another kind is one more class and its entry in `BY_NAME`: training, files and interventions take it from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol, TypeAlias, get_args

from mlx_interp.deferred import mx

Kind: TypeAlias = Literal["relu", "gated", "topk", "batchtopk", "jumprelu"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Weights: TypeAlias = "dict[str, mx.array]"
SHARED = {"W_enc": "dm", "W_dec": "md", "b_dec": "d"}
"""Parameters that every kind has."""


class Settings(Protocol):
    """What a kind's loss may depend on; `TrainConfig` says what each is."""

    @property
    def k(self) -> int: ...
    @property
    def target_l0(self) -> float | None: ...
    @property
    def bandwidth(self) -> float: ...


class ReLU:
    """The plain kind, with an L1 penalty; what others do otherwise, they override."""

    own: ClassVar[Mapping[str, str]] = {"b_enc": "m"}
    """Parameters beside the shared ones, by their axes: m is d_sae, d is d_model."""
    scale_free: ClassVar[frozenset[str]] = frozenset()
    """Own parameters that do not change when inputs are scaled."""
    needs_k: ClassVar[bool] = False
    """Whether the number of active features is part of the autoencoder."""
    architecture: ClassVar[str] = "standard"
    """SAELens's name of what it is at inference."""
    shares_architecture: ClassVar[bool] = False
    """Whether a file of that architecture is of another kind unless it says so itself."""

    @property
    def shapes(self) -> dict[str, str]:
        """All parameters by their axes."""
        return {**SHARED, **self.own}

    def pre_activations(self, weights: Mapping[str, mx.array], h: mx.array) -> mx.array:
        """z of h = (x - b_dec) W_enc, (..., d_sae)."""
        return h + weights["b_enc"]

    def features(self, weights: Mapping[str, mx.array], z: mx.array, k: int | None) -> mx.array:
        """Features (..., d_sae) from pre-activations, at inference."""
        return mx.maximum(z, 0)

    def first(self, d_sae: int, threshold: float) -> Weights:
        """Own parameters as training starts. threshold: where thresholds start, of kinds that train one."""
        return {name: mx.zeros((d_sae,)) for name in self.own}

    def trained(self, weights: Weights, z: mx.array, settings: Settings) -> tuple[mx.array, mx.array]:
        """(features as in training, penalty before its weight)."""
        f = self.features(weights, z, settings.k)
        return f, mx.mean(mx.sum(f, axis=-1))

    def gate(self, z: mx.array) -> mx.array:
        """What decides whether a feature is active, (..., d_sae): dead ones are revived by it."""
        return z

    def further_loss(self, weights: Weights, x: mx.array, z: mx.array) -> mx.array | None:
        """What the kind adds to error and penalty."""
        return None

    def kept(self, f: mx.array) -> Weights:
        """What the trainer keeps of a batch's features (batch, d_sae): "smallest", a number averaged over batches."""
        return {}

    def finished(self, weights: Weights, scale: float, smallest: float) -> Weights:
        """Trained parameters for inputs that are not scaled. smallest: the mean of what `kept` gave."""
        free = {"W_dec", "W_enc"} | self.scale_free
        return {name: value if name in free else value / scale for name, value in weights.items()}

    def read(self, weights: Weights) -> Weights:
        """Parameters as others' files have them -> of the shapes above."""
        return weights


class Gated(ReLU):
    own: ClassVar[Mapping[str, str]] = {"b_gate": "m", "r_mag": "m", "b_mag": "m"}
    scale_free = frozenset({"r_mag"})
    architecture = "gated"

    def pre_activations(self, weights: Mapping[str, mx.array], h: mx.array) -> mx.array:
        """Both, gate and magnitude: (2, ..., d_sae)."""
        return mx.stack([h + weights["b_gate"], h * mx.exp(weights["r_mag"]) + weights["b_mag"]])

    def features(self, weights: Mapping[str, mx.array], z: mx.array, k: int | None) -> mx.array:
        return mx.where(z[0] > 0, mx.maximum(z[1], 0), 0.0)

    def trained(self, weights: Weights, z: mx.array, settings: Settings) -> tuple[mx.array, mx.array]:
        return self.features(weights, z, None), mx.mean(mx.sum(mx.maximum(z[0], 0), axis=-1))

    def gate(self, z: mx.array) -> mx.array:
        return z[0]

    def further_loss(self, weights: Weights, x: mx.array, z: mx.array) -> mx.array:
        """Squared error of the gate's own reconstruction, through the decoder held fixed."""
        decoder, bias = mx.stop_gradient(weights["W_dec"]), mx.stop_gradient(weights["b_dec"])
        error = x - (mx.maximum(z[0], 0) @ decoder + bias)
        return mx.mean(mx.sum(error * error, axis=-1))


class TopK(ReLU):
    needs_k = True
    architecture = "topk"

    def features(self, weights: Mapping[str, mx.array], z: mx.array, k: int | None) -> mx.array:
        assert k is not None
        return largest(mx.maximum(z, 0), k)

    def trained(self, weights: Weights, z: mx.array, settings: Settings) -> tuple[mx.array, mx.array]:
        return self.features(weights, z, settings.k), mx.zeros(())


class JumpReLU(ReLU):
    """Trains log_threshold, by the straight-through gradient of a ramp; keeps threshold."""

    own: ClassVar[Mapping[str, str]] = {"b_enc": "m", "threshold": "m"}
    architecture = "jumprelu"

    def features(self, weights: Mapping[str, mx.array], z: mx.array, k: int | None) -> mx.array:
        return mx.where(z > weights["threshold"], mx.maximum(z, 0), 0.0)

    def first(self, d_sae: int, threshold: float) -> Weights:
        return {"b_enc": mx.zeros((d_sae,)), "log_threshold": mx.full((d_sae,), math.log(threshold))}

    def trained(self, weights: Weights, z: mx.array, settings: Settings) -> tuple[mx.array, mx.array]:
        threshold = mx.exp(weights["log_threshold"])
        open_ = mx.stop_gradient((z > threshold).astype(mx.float32))
        near = mx.stop_gradient((mx.abs(z - threshold) < settings.bandwidth / 2).astype(mx.float32))
        near = near / settings.bandwidth
        # Straight-through: the value is that of a step, the gradient with respect to the threshold that of a ramp.
        ramp = near * (threshold - mx.stop_gradient(threshold))
        f = mx.maximum(z, 0) * open_ - mx.stop_gradient(threshold) * ramp
        l0 = mx.mean(mx.sum(open_ - ramp, axis=-1))
        return f, l0 if settings.target_l0 is None else (l0 / settings.target_l0 - 1) ** 2

    def finished(self, weights: Weights, scale: float, smallest: float) -> Weights:
        rest = {name: value for name, value in weights.items() if name != "log_threshold"}
        return {**super().finished(rest, scale, smallest), "threshold": mx.exp(weights["log_threshold"]) / scale}

    def read(self, weights: Weights) -> Weights:
        """One threshold for all features, as some files have it, becomes one for each."""
        if "threshold" in weights and weights["threshold"].size == 1:
            shape = weights["b_enc"].shape
            return {**weights, "threshold": mx.broadcast_to(weights["threshold"].reshape(1), shape)}
        return weights


class BatchTopK(JumpReLU):
    """Trains by the largest features of a whole batch; its threshold is the mean of the smallest that were kept."""

    shares_architecture = True

    def first(self, d_sae: int, threshold: float) -> Weights:
        return {"b_enc": mx.zeros((d_sae,))}

    def trained(self, weights: Weights, z: mx.array, settings: Settings) -> tuple[mx.array, mx.array]:
        f = mx.maximum(z, 0)
        return largest(f.reshape(1, -1), settings.k * f.shape[0]).reshape(f.shape), mx.zeros(())

    def kept(self, f: mx.array) -> Weights:
        return {"smallest": mx.min(mx.where(f > 0, f, mx.array(float("inf"))))}

    def finished(self, weights: Weights, scale: float, smallest: float) -> Weights:
        threshold = mx.full((weights["W_dec"].shape[0],), smallest / scale)
        return {**ReLU.finished(self, weights, scale, smallest), "threshold": threshold}


BY_NAME: dict[str, ReLU] = {
    "relu": ReLU(),
    "gated": Gated(),
    "topk": TopK(),
    "batchtopk": BatchTopK(),
    "jumprelu": JumpReLU(),
}


def architectures() -> dict[str, str]:
    """SAELens's name of an architecture -> the kind that a file of it is of, unless it says otherwise."""
    return {kind.architecture: name for name, kind in BY_NAME.items() if not kind.shares_architecture}


def largest(f: mx.array, k: int) -> mx.array:
    """f (..., m) with all but the k largest of each row set to 0 (ties at the k-th are kept)."""
    if k >= f.shape[-1]:
        return f
    place = f.shape[-1] - k
    kth = mx.stop_gradient(mx.partition(f, place, axis=-1)[..., place : place + 1])
    return mx.where(f >= kth, f, 0.0)
