"""Transcoders of random weights for the tiny models."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from mlx_interp.engine.held_stream import Reads
from mlx_interp.sae import Transcoder, TranscoderSet

FEATURES = 17


def random_set(
    n_layers: int,
    d_model: int,
    *,
    cross: bool = False,
    skip: bool = False,
    kind: str = "jumprelu",
    reads: Reads = "mlp_in",
    layers: tuple[int, ...] | None = None,
    seed: int = 0,
) -> TranscoderSet:
    """One transcoder of each layer, about a third of its features active on what the tiny models' MLPs read."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int, size: float = 1.0) -> mx.array:
        return mx.array((size * rng.standard_normal(shape)).astype(np.float32))

    made = []
    for layer in range(n_layers) if layers is None else layers:
        weights: dict[str, Any] = {
            "W_enc": draw(d_model, FEATURES, size=d_model**-0.5),
            "b_enc": draw(FEATURES, size=0.1),
            "W_dec": draw(FEATURES, n_layers - layer if cross else 1, d_model, size=0.1),
            "b_dec": draw(d_model, size=0.1),
        }
        if kind == "jumprelu":
            weights["threshold"] = mx.abs(draw(FEATURES, size=0.1)) + 0.2
        if skip:
            weights["W_skip"] = draw(d_model, d_model, size=0.2 / d_model**0.5)
        made.append(Transcoder(layer, weights, kind, k=5 if kind == "topk" else None, reads=reads))
    return TranscoderSet(tuple(made), "random")
