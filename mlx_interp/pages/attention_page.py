"""Attention page: the pattern of every head of every layer in small, the chosen one in large, token by token."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlx_interp.errors import PageError
from mlx_interp.pages.page import Page, page

WHOLE = 65535
"""A share of 1, as it stands in the page: 16 bits for each pair of tokens, which is finer than a page shows."""


def attention(
    patterns: npt.ArrayLike,
    *,
    tokens: Sequence[str],
    layers: Sequence[int] | None = None,
    title: str = "Attention patterns",
    about: str = "",
) -> Page:
    """Attention page. patterns: probabilities (layer, head, query, key); of keys behind their query nothing is shown.

    tokens: of the prompt. layers: their numbers, from 0 where left out.
    Raises PageError for patterns of another shape or that are no shares, and for a page that would be too large.
    """
    shares = np.asarray(patterns, dtype=np.float32)
    if shares.ndim != 4 or shares.shape[2:] != (len(tokens),) * 2:
        raise PageError(f"patterns {shares.shape} over {len(tokens)} tokens: give (layer, head, query, key)")
    if not (shares >= 0).all() or not (shares <= 1.001).all():
        raise PageError("patterns are probabilities from 0 to 1: scores before the softmax have a page as `grid`")
    lower = shares[..., *np.tril_indices(len(tokens))]
    packed = np.rint(np.minimum(lower, 1) * WHOLE).astype("<u2").tobytes()
    return page(
        "attention",
        title=title,
        about=about,
        tokens=list(tokens),
        layers=list(layers if layers is not None else range(len(shares))),
        n_heads=shares.shape[1],
        patterns=base64.b64encode(packed).decode("ascii"),
    )
