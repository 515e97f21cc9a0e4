"""Attention knockout over windows of layers (Geva et al. 2023; Biran et al. 2024).

1. For each layer, forbid attention from one position to others in the layers around it, all heads.
2. What the model then writes differs where the information that was needed moved in those layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlx_interp.interventions import Intervention, Knockout

PAPERS_REACH, PAPERS_LAYERS = 3, 32
"""The paper's windows reach three layers to either side, on models of 32 layers."""


def reach_of(n_layers: int) -> int:
    """How many layers a window reaches to either side: the paper's three of 32 layers, in proportion."""
    return max(round(PAPERS_REACH * n_layers / PAPERS_LAYERS), 0)


def windows(n_layers: int, reach: int) -> list[list[int]]:
    """For each layer, itself and up to `reach` layers on either side of it."""
    return [list(range(max(centre - reach, 0), min(centre + reach, n_layers - 1) + 1)) for centre in range(n_layers)]


def knockouts(n_layers: int, reach: int, query: int, keys: Sequence[int]) -> list[list[Intervention]]:
    """One variant for each centre layer: attention from `query` to `keys` forbidden in its window."""
    return [[Knockout(window, query=query, keys=list(keys))] for window in windows(n_layers, reach)]
