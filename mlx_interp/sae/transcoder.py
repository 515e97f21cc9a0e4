"""Transcoders: sparse dictionaries that read an MLP's input and write its output (Dunefsky et al. 2024, 2406.11944).

x (..., d_model) at one layer -> features f (..., d_features), as a kind of `kinds` has them -> vectors added to the
outputs of MLPs. A per-layer transcoder writes at its own layer; a cross-layer one at its own and all later ones
(Ameisen et al. 2025, transformer-circuits.pub/2025/attribution-graphs). A `TranscoderSet` stands in for a model's MLPs:
at layer t it writes b_dec_t, what features of layers up to t write there, and, where it has one, W_skip x_t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.held_stream import Reads
from mlx_interp.errors import SAEError
from mlx_interp.interventions import ArrayLike
from mlx_interp.model import Model
from mlx_interp.sae.sae import kind_of
from mlx_interp.shapes import ShapesShown

REQUIRED = ("W_enc", "W_dec", "b_enc", "b_dec")


@dataclass(frozen=True, eq=False)
class Transcoder:
    """A transcoder that reads one layer. Raises SAEError for weights that are missing or do not fit each other."""

    layer: int
    weights: Mapping[str, mx.array] = field(repr=False)
    """W_enc (d_model, d_features), b_enc (d_features,), W_dec (d_features, n_written, d_model) for the layer itself and
    those after it, b_dec (d_model,) of the layer itself; threshold (d_features,) of jumprelu; any W_skip (d_model,
    d_model), by which x is multiplied from the right."""
    kind: str = "relu"
    """A name of `kinds.BY_NAME` but gated."""
    k: int | None = None
    reads: Reads = "mlp_in"
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        what = f"transcoder of layer {self.layer}"
        kind = kind_of(self.kind)
        if "b_enc" not in kind.shapes:
            raise SAEError(f"{what}: a {self.kind} one has no single encoder; take relu, topk, batchtopk or jumprelu")
        if self.reads not in get_args(Reads):
            raise SAEError(f"{what}: it cannot read {self.reads!r}; known: {', '.join(get_args(Reads))}")
        needed = {*REQUIRED, *(name for name in kind.shapes if name not in ("W_enc", "W_dec", "b_dec"))}
        if missing := needed - self.weights.keys():
            raise SAEError(f"{what}: it needs {', '.join(sorted(missing))}; it has {', '.join(sorted(self.weights))}")
        if self.weights["W_dec"].ndim != 3:
            shape = tuple(self.weights["W_dec"].shape)
            raise SAEError(f"{what}: W_dec is {shape}; (d_features, layers written, d_model) is needed")
        m, _, d = self.weights["W_dec"].shape
        shapes = {"W_enc": (d, m), "b_enc": (m,), "b_dec": (d,), "threshold": (m,), "W_skip": (d, d)}
        for name, shape in shapes.items():
            if name in self.weights and tuple(self.weights[name].shape) != shape:
                given = tuple(self.weights[name].shape)
                raise SAEError(f"{what}: {name} is {given}, {shape} fits W_dec {tuple(self.weights['W_dec'].shape)}")
        if kind.needs_k and not 1 <= (self.k or 0) <= m:
            raise SAEError(f"{what}: a {self.kind} one needs k between 1 and {m}, not {self.k}")

    def __repr__(self) -> str:
        size = f"{self.d_model} -> {self.d_features}"
        return f"Transcoder({self.kind!r}, {self.reads}.{self.layer}, {size}, writes at {self.n_written})"

    @property
    def d_model(self) -> int:
        return int(self.weights["W_dec"].shape[2])

    @property
    def d_features(self) -> int:
        return int(self.weights["W_dec"].shape[0])

    @property
    def n_written(self) -> int:
        """Layers whose MLPs it writes at: its own, and so many less one after it."""
        return int(self.weights["W_dec"].shape[1])

    def pre_activations(self, x: ArrayLike) -> mx.array:
        """What features are before their non-linearity, (..., d_features), float32."""
        array = x if isinstance(x, mx.array) else mx.array(np.asarray(x, dtype=np.float32))
        if array.shape[-1] != self.d_model:
            raise SAEError(f"{self}: it reads (..., {self.d_model}), not {tuple(array.shape)}")
        return array.astype(mx.float32) @ self.weights["W_enc"] + self.weights["b_enc"]

    def encode(self, x: ArrayLike) -> mx.array:
        """Features (..., d_features) of what it reads (..., d_model). Raises SAEError for another width."""
        return kind_of(self.kind).features(self.weights, self.pre_activations(x), self.k)


@dataclass(frozen=True, eq=False)
class TranscoderSet:
    """Transcoders of a model's layers, in order; layers without one are left to the MLP itself.

    Raises SAEError for none at all, two of a layer, different widths, or other things read.
    """

    transcoders: tuple[Transcoder, ...]
    name: str = "own"
    """By which a viewer finds what is known of its features."""

    def __post_init__(self) -> None:
        if not self.transcoders:
            raise SAEError("no transcoders: give those of at least one layer")
        layers = [one.layer for one in self.transcoders]
        if layers != sorted(set(layers)):
            raise SAEError(f"transcoders of layers {layers}: one for each layer is needed, from below")
        for what in ("d_model", "reads"):
            if len(found := {getattr(one, what) for one in self.transcoders}) > 1:
                raise SAEError(f"transcoders of one set differ in {what}: {', '.join(map(str, sorted(found)))}")

    def __repr__(self) -> str:
        kind = "cross-layer" if self.crosses else "per-layer"
        sizes = sorted({one.d_features for one in self.transcoders})
        where = f"layers {self.layers[0]}-{self.layers[-1]}"
        return f"TranscoderSet({self.name!r}, {kind}, {where}, {self.d_model} -> {', '.join(map(str, sizes))})"

    @property
    def d_model(self) -> int:
        return self.transcoders[0].d_model

    @property
    def reads(self) -> Reads:
        return self.transcoders[0].reads

    @property
    def layers(self) -> list[int]:
        return [one.layer for one in self.transcoders]

    @property
    def crosses(self) -> bool:
        """Whether some feature writes after its own layer."""
        return any(one.n_written > 1 for one in self.transcoders)

    def of(self, layer: int) -> Transcoder | None:
        """The transcoder that reads a layer; None where there is none."""
        return next((one for one in self.transcoders if one.layer == layer), None)

    def written(self, features: Mapping[int, mx.array], read: Mapping[int, mx.array]) -> dict[int, mx.array]:
        """What stands in for each MLP's output, of features and of what is read, both by layer: (..., d_model)."""
        found: dict[int, mx.array] = {}
        for one in self.transcoders:
            own = one.weights["b_dec"] + self.skipped(one.layer, read[one.layer])
            found[one.layer] = found.get(one.layer, mx.zeros((1,))) + own
            for step in range(one.n_written):
                made = features[one.layer] @ one.weights["W_dec"][:, step]
                found[one.layer + step] = found.get(one.layer + step, mx.zeros((1,))) + made
        return found

    def skipped(self, layer: int, read: mx.array) -> mx.array:
        """What passes a layer's skip connection: (..., d_model), or a 0."""
        one = self.of(layer)
        if one is None or "W_skip" not in one.weights:
            return mx.zeros((1,))
        return read.astype(mx.float32) @ one.weights["W_skip"]

    def check_fits(self, model: Model) -> None:
        """Raises SAEError for a width or layers that the model does not have."""
        if self.d_model != model.d_model:
            raise SAEError(
                f"{self} is of width {self.d_model}, {model.name} is {model.d_model} wide: it is of another model"
            )
        for one in self.transcoders:
            if not 0 <= one.layer < model.n_layers or one.layer + one.n_written > model.n_layers:
                last = one.layer + one.n_written - 1
                raise SAEError(
                    f"{one} reads layer {one.layer} and writes up to {last}; {model.name} has layers 0 to "
                    f"{model.n_layers - 1}: it is of another model"
                )
        if self.reads == "resid_mid" and model.network.parallel:
            raise SAEError(f"{self} reads resid_mid, {model.name} has none: attention and MLP both read resid_pre")


@dataclass(frozen=True, eq=False, repr=False)
class Transcoded(ShapesShown):
    """A set beside the MLPs that it stands in for, over all tokens; one number a layer that it reads."""

    layers: tuple[int, ...]
    n_tokens: int
    fve: np.ndarray
    """Share of the MLP output's variance explained."""
    l0: np.ndarray
    """Active features of a token, mean."""
    dead: np.ndarray
    """Share of features silent on all tokens."""


def transcoded(transcoders: TranscoderSet, read: Mapping[int, ArrayLike], out: Mapping[int, ArrayLike]) -> Transcoded:
    """Fidelity of transcoders: variance explained, active features, dead features (Dunefsky et al. 2024).

    read, out: by layer (n_tokens, d_model), what transcoders read and what MLPs gave. Raises SAEError for layers that
    are missing.
    """
    if missing := [layer for layer in transcoders.layers if layer not in read or layer not in out]:
        raise SAEError(f"{transcoders}: rows of layers {missing} are missing; there are {sorted(read)}")
    inputs = {layer: mx.array(np.asarray(read[layer], np.float32)) for layer in transcoders.layers}
    features = {one.layer: one.encode(inputs[one.layer]) for one in transcoders.transcoders}
    made = transcoders.written(features, inputs)
    fve = []
    for layer in transcoders.layers:
        y = np.asarray(out[layer], np.float64)
        missed = y - np.asarray(made[layer], np.float64)
        fve.append(1 - missed.var(0).sum() / y.var(0).sum())
    active = [np.asarray(features[layer]) > 0 for layer in transcoders.layers]
    l0, dead = ([float(how(one)) for one in active] for how in (_l0, _dead))
    return Transcoded(tuple(transcoders.layers), len(y), np.array(fve), np.array(l0), np.array(dead))


def _l0(active: np.ndarray) -> float:
    return float(active.sum(-1).mean())


def _dead(active: np.ndarray) -> float:
    return float((~active.any(0)).mean())


def of_layers(transcoders: Sequence[Transcoder], *, name: str = "own") -> TranscoderSet:
    """A set of transcoders, in whatever order they are given."""
    return TranscoderSet(tuple(sorted(transcoders, key=lambda one: one.layer)), name)
