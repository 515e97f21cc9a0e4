"""Training transcoders, per-layer and cross-layer, by the machinery of autoencoders (`training`).

1. A row of training is what transcoders read beside what MLPs gave, over one layer or, cross-layer, over all of them;
   either half is scaled to E ||.||^2 = 1 a layer. The first position of each prompt is left out: its activations are
   of another size.
2. One dictionary reads the first half and reconstructs the second. Cross-layer, a feature reads one layer and writes at
   that layer and all later ones: its decoder row is 0 before, and of norm 1 over all layers together.
3. The loss is the mean squared error, with the kind's sparsity; batch top-k by default, so that a trained feature is
   active above a threshold of its own pre-activation. Cross-layer, k counts features of all layers together.
4. Scales are folded in at the end. Ameisen et al. (2025) train JumpReLU with a tanh penalty: `TrainConfig(kind=
   "jumprelu")` has the plain one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.held_stream import Reads, read_there
from mlx_interp.errors import SAEError
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.sae.kinds import Weights
from mlx_interp.sae.losses import Objective, geometric_median, with_unit_rows
from mlx_interp.sae.streams import Floats, InMemory
from mlx_interp.sae.training import Progress, TrainConfig, Trainer
from mlx_interp.sae.transcoder import Transcoder, TranscoderSet, of_layers

Rows = Mapping[int, Floats]
"""By layer (n_tokens, d_model)."""


def transcoder_rows(
    model: Model, prompts: Sequence[Prompt], layers: Sequence[int], *, reads: Reads = "mlp_in", per_run: int = 32
) -> tuple[dict[int, Floats], dict[int, Floats]]:
    """What transcoders read and what MLPs gave, both by layer (n_tokens, d_model): every position but the first.

    Raises SAEError for prompts of a single token only.
    """
    long = [prompt for prompt in prompts if len(prompt) > 1]
    if not long:
        raise SAEError(f"{len(prompts)} prompts, none of two tokens or more: transcoders are trained behind the first")
    before = "resid_pre" if model.network.parallel else "resid_mid"
    found: tuple[dict[int, list[Floats]], ...] = ({layer: [] for layer in layers}, {layer: [] for layer in layers})
    order = sorted(range(len(long)), key=lambda i: len(long[i]))
    for start in range(0, len(order), per_run):
        some = [long[i] for i in order[start : start + per_run]]
        names = [f"{name}.{layer}" for name in (before, "mlp_out") for layer in layers]
        out = model.run(some, capture=names, logits="none")
        for layer in layers:
            read = read_there(model.network, layer, out[f"{before}.{layer}"], reads)
            for part, x in zip(found, (read, out[f"mlp_out.{layer}"]), strict=True):
                rows = np.asarray(x.astype(mx.float32))
                part[layer].append(np.concatenate([rows[at, 1:length] for at, length in enumerate(out.lengths)]))
    read_rows, written = ({layer: np.concatenate(part[layer]) for layer in layers} for part in found)
    return read_rows, written


def train_transcoders(
    read: Rows,
    out: Rows,
    config: TrainConfig | None = None,
    *,
    cross_layer: bool = False,
    reads: Reads = "mlp_in",
    model: str = "",
    progress: Progress | None = None,
) -> TranscoderSet:
    """Transcoders of all layers that there are rows of, as `transcoder_rows` gives them.

    config: of each layer's transcoder; d_sae is its features, 16 for each of d_model by default. cross_layer: one
    dictionary, which writes from each layer to the last one of the rows; config.k counts active features a layer.
    model: its name, kept with them. Raises SAEError for rows that do not fit each other, or what `train` raises.
    """
    config = config or TrainConfig(kind="batchtopk")
    layers = sorted(read)
    if layers != sorted(out) or not layers:
        raise SAEError(f"read has rows of layers {layers}, out has those of {sorted(out)}: both of the same are needed")
    if cross_layer and layers != list(range(layers[0], layers[-1] + 1)):
        raise SAEError(f"layers {layers}: a cross-layer transcoder writes to all layers after one; leave none out")
    shapes = {rows[layer].shape for rows in (read, out) for layer in layers}
    if len(shapes) > 1:
        raise SAEError(f"rows of the same tokens and one width are needed, not {', '.join(map(str, sorted(shapes)))}")
    groups = [layers] if cross_layer else [[layer] for layer in layers]
    found: list[Transcoder] = []
    for group in groups:
        found += _Training(config, read, out, group, reads, model).transcoders(progress)
    return of_layers(found, name=f"{model}-transcoders" if model else "own")


@dataclass(frozen=True)
class _Transcoding(Objective):
    """The loss of a dictionary that reads one half of a row and reconstructs the other, layer by layer."""

    n_layers: int = 1

    def read(self, weights: Weights, x: mx.array) -> mx.array:
        half = x.shape[1] // 2
        by_layer = x[:, :half].reshape(len(x), self.n_layers, -1).swapaxes(0, 1)  # (layer, batch, d_model)
        return (by_layer @ weights["W_enc"]).swapaxes(0, 1).reshape(len(x), -1)

    def target(self, x: mx.array) -> mx.array:
        return x[:, x.shape[1] // 2 :]


class _Training(Trainer):
    """Training of one dictionary; W_enc is (layer, d_model, features a layer)."""

    def __init__(self, config: TrainConfig, read: Rows, out: Rows, layers: Sequence[int], reads: Reads, model: str):
        self.layers, self.reads, self.model_name = layers, reads, model
        self.width = read[layers[0]].shape[1]
        self.scales = [[_scale(rows[layer], layer) for layer in layers] for rows in (read, out)]
        parts = [
            rows[layer] * scale
            for rows, scales in zip((read, out), self.scales, strict=True)
            for layer, scale in zip(layers, scales, strict=True)
        ]
        n, each = len(layers), config.d_sae or 16 * self.width
        whole = replace(config, d_sae=n * each, k=n * config.k, nested=())
        if config.nested or config.dead == "resample":
            raise SAEError("transcoders are trained without nested shares, and dead features by dead='aux' or 'none'")
        self.each = each
        super().__init__(whole, InMemory(np.concatenate(parts, axis=1)), f"mlp_out.{layers[-1]}")
        self.given = config

    def _first_weights(self, x: mx.array) -> Weights:
        n = len(self.layers)
        x, self.scale = x / self.scale, 1.0  # each half and layer has a scale of its own
        self.objective = _Transcoding(**{**asdict(self.objective), "n_layers": n})
        after = np.repeat(np.triu(np.ones((n, n), np.float32)), self.each, axis=0)  # (feature, layer written)
        self.written = mx.array(np.repeat(after, self.width, axis=1))
        key = mx.random.key(self.config.seed)
        reads = with_unit_rows(mx.random.normal((self.d_sae, self.width), key=key))
        y = self.objective.target(x)
        centre = geometric_median(y) if self.config.centre == "median" else mx.mean(y, axis=0)
        weights = {"W_enc": reads.reshape(n, self.each, self.width).swapaxes(1, 2), "b_dec": centre}
        weights |= self.kind.first(self.d_sae, self.config.threshold)
        # Decoders start as the outputs that go with what a feature reads, so that none starts by writing at random.
        z = self.objective.read(weights, x[:4096])
        together = ((z - z.mean(0)).T @ (y[:4096] - centre)) * self.written
        noise = mx.random.normal(together.shape, key=mx.random.key(self.config.seed + 1)) * self.written
        weights["W_dec"] = with_unit_rows(with_unit_rows(together) + 0.1 * with_unit_rows(noise))
        f, wanted = self.objective.features(weights, x[:1024]), y[:1024] - centre
        made = f @ weights["W_dec"]
        length = mx.sum(wanted * made) / mx.maximum(mx.sum(made * made), 1e-12)
        weights["W_enc"] = weights["W_enc"] * mx.abs(length)
        mx.eval(weights)
        return weights

    def _mask(self) -> None:
        if len(self.layers) > 1:
            self.weights["W_dec"] = self.weights["W_dec"] * self.written

    def transcoders(self, progress: Progress | None) -> list[Transcoder]:
        """One for each layer, for activations as the model has them."""
        self.run(None, progress)
        weight, total = self.smallest
        weights = self.kind.finished(self.weights, 1.0, total / max(weight, 1e-12))
        meta: dict[str, Any] = {"training": {**asdict(self.given), "d_sae": self.each}, "model": self.model_name}
        meta |= {"tokens": self.config.steps * self.config.batch_size, "log": self.log}
        return [self._of(weights, place, layer, meta) for place, layer in enumerate(self.layers)]

    def _of(self, weights: Weights, place: int, layer: int, meta: dict[str, Any]) -> Transcoder:
        mine, n = slice(place * self.each, (place + 1) * self.each), len(self.layers)
        out = mx.array(self.scales[1])
        decoder = weights["W_dec"][mine].reshape(self.each, n, self.width)[:, place:] / out[place:, None]
        centre = weights["b_dec"].reshape(n, self.width)[place] / out[place]
        found = {"W_enc": weights["W_enc"][place] * self.scales[0][place], "W_dec": decoder, "b_dec": centre}
        own = self.kind.shapes.keys() - found.keys()
        # A feature's value scales what it writes, so that thresholds and biases stay as they were trained.
        found |= {name: weights[name][mine] for name in own}
        mx.eval(found)
        k = self.given.k if self.kind.needs_k else None
        return Transcoder(layer, found, self.config.kind, k=k, reads=self.reads, meta=meta)


def _scale(rows: Floats, layer: int) -> float:
    if not rows.any() or not np.isfinite(rows).all():
        raise SAEError(f"rows of layer {layer} are all zero or not all finite; float16 overflows there?")
    return float(1 / np.sqrt(np.mean(np.sum(rows.astype(np.float64) ** 2, axis=-1))))
