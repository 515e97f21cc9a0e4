"""Autoencoders of random weights for the tiny models, and the published definitions written out in numpy."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from mlx_interp.sae import SAE, Kind

D_SAE = 70


def random_sae(kind: Kind, d_model: int, site: str, seed: int = 0, **options: Any) -> SAE:
    """Every parameter random, no two sizes equal."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> mx.array:
        return mx.array((rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32))

    weights = {"W_enc": draw(d_model, D_SAE), "W_dec": draw(D_SAE, d_model), "b_dec": draw(d_model)}
    names = ("b_gate", "r_mag", "b_mag") if kind == "gated" else ("b_enc",)
    weights |= {name: draw(D_SAE) for name in names}
    if kind in ("jumprelu", "batchtopk"):
        weights["threshold"] = mx.abs(draw(D_SAE)) + 0.1
    return SAE(kind, site, weights, k=7 if kind == "topk" else None, **options)


def published_features(sae: SAE, x: np.ndarray) -> np.ndarray:
    """Features of x (n, d_model) one token and one feature at a time, as the papers define them."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in sae.weights.items()}
    found = np.zeros((len(x), sae.d_sae))
    for row, one in enumerate(x):
        centred = one - w["b_dec"] if sae.subtracts_bias else one
        for j in range(sae.d_sae):
            dot = float(centred @ w["W_enc"][:, j])
            if sae.kind == "gated":
                magnitude = max(0.0, np.exp(w["r_mag"][j]) * dot + w["b_mag"][j])
                found[row, j] = magnitude if dot + w["b_gate"][j] > 0 else 0.0
                continue
            z = dot + w["b_enc"][j]
            above = z > w["threshold"][j] if "threshold" in w else True
            found[row, j] = max(0.0, z) if above else 0.0
        if sae.kind == "topk":
            smallest = np.sort(found[row])[-(sae.k or 1)]
            found[row][found[row] < smallest] = 0.0
    return found


def published_reconstruction(sae: SAE, x: np.ndarray) -> np.ndarray:
    w_dec, b_dec = (np.asarray(sae.weights[name], dtype=np.float64) for name in ("W_dec", "b_dec"))
    return published_features(sae, x) @ w_dec + b_dec
