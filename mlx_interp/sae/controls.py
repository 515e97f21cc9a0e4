"""Control dictionaries that learnt nothing: what a trained autoencoder has to beat at the same number of features.

untrained   random unit directions, the encoder their transpose
PCA         both signs of the principal components
neurons     both signs of the site's own dimensions
shuffled    is trained, but on activations whose dimensions were shuffled apart: each has its values, none belong
            together (`shuffled_apart` makes them)
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import SAEError
from mlx_interp.sae.sae import SAE
from mlx_interp.sae.streams import Floats

Control = Literal["untrained", "PCA", "neurons"]


def control_dictionary(control: Control, x: Floats, site: str, *, k: int, d_sae: int, seed: int = 0) -> SAE:
    """A topk autoencoder that keeps the k largest of a fixed set of directions around the mean of x (n, d_model).

    d_sae: of untrained; the others have 2 d_model. The encoder's length is the one that reconstructs x best.
    Raises SAEError for another name.
    """
    centre = x.mean(0)
    if control == "untrained":
        directions = np.random.default_rng(seed).standard_normal((d_sae, x.shape[1]))
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    elif control == "PCA":
        half = np.linalg.svd(x - centre, full_matrices=False)[2]
        directions = np.concatenate([half, -half])
    elif control == "neurons":
        directions = np.concatenate([np.eye(x.shape[1]), -np.eye(x.shape[1])])
    else:
        raise SAEError(f"no control {control!r}: there are untrained, PCA and neurons")
    decoder = mx.array(directions.astype(np.float32))
    weights = {"W_dec": decoder, "b_dec": mx.array(centre), "b_enc": mx.zeros((len(directions),))}
    plain = SAE("topk", site, {**weights, "W_enc": decoder.T}, k=min(k, len(directions)), meta={"control": control})
    some = x[: min(len(x), 4096)]
    out, centred = np.asarray(plain(some)) - centre, some - centre
    best = float(np.sum(out * centred) / max(float(np.sum(out * out)), 1e-12))
    return SAE("topk", site, {**weights, "W_enc": best * decoder.T}, k=plain.k, meta=plain.meta)


def shuffled_apart(x: Floats, seed: int = 0) -> Floats:
    """x (n, d_model) with every dimension shuffled over tokens by itself."""
    rng = np.random.default_rng(seed)
    return rng.permuted(x, axis=0)
