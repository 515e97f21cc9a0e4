"""The logit lens: what would the model say if it stopped at a layer? (nostalgebraist 2020)

1. Take the residual stream after a layer, at any position.
2. Apply the model's own last norm, unembedding, scale and soft-cap: at the last layer this is the model's prediction.
3. Read the rank of a token, 0 being the top; or the first layer at which it is among the top k.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt


def lens_logits(model: Model, prompt: AnyPrompt, position: int = -1) -> mx.array:
    """Logits (n_layers, d_vocab) of every layer's `resid_post` at one position; the last row is the model's own."""
    states = model.run(prompt, capture="resid_post", logits="none").stack("resid_post")
    return model.unembed(states[:, 0, position])


def lens_ranks(logits: mx.array, tokens: Sequence[int]) -> list[int]:
    """Rank of the best of some tokens in each row of logits (n, d_vocab); 0 is the top."""
    best = mx.max(logits[:, mx.array(list(tokens))], axis=-1, keepdims=True)
    return [int(rank) for rank in np.asarray(mx.sum(logits > best, axis=-1))]


def first_layer(ranks: Sequence[int], k: int) -> int | None:
    """The first layer whose rank is among the top k; None if there is none."""
    return next((layer for layer, rank in enumerate(ranks) if rank < k), None)
