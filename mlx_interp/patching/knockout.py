"""Attention knockout over windows of layers (Geva et al. 2023; Biran et al. 2024).

1. For each layer, forbid attention from one position to others in the layers around it, all heads.
2. What the model then writes differs where the information that was needed moved in those layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlx_interp.deferred import mx
from mlx_interp.interventions import Intervention, Knockout
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt

PAPERS_REACH, PAPERS_LAYERS = 3, 32
"""The paper's windows reach three layers to either side, on models of 32 layers."""


def reach_of(n_layers: int) -> int:
    """Reach of a window, layers to either side: the paper's three of 32 layers, in proportion."""
    return max(round(PAPERS_REACH * n_layers / PAPERS_LAYERS), 0)


def windows(n_layers: int, reach: int) -> list[list[int]]:
    """For each layer, itself and up to `reach` layers on either side of it."""
    return [list(range(max(centre - reach, 0), min(centre + reach, n_layers - 1) + 1)) for centre in range(n_layers)]


def knockouts(n_layers: int, reach: int, query: int, keys: Sequence[int]) -> list[list[Intervention]]:
    """One variant for each centre layer: attention from `query` to `keys` forbidden in its window."""
    return [[Knockout(window, query=query, keys=list(keys))] for window in windows(n_layers, reach)]


def attention_knockout(
    model: Model,
    prompt: AnyPrompt,
    keys: Sequence[int],
    *,
    query: int = -1,
    reach: int | None = None,
    metric: Callable[[mx.array], mx.array] | None = None,
    progress: bool = False,
) -> mx.array:
    """Attention knockout in a window around each layer: (n_layers, d_vocab), last logits; one sweep.

    Attention from position `query` to positions `keys` is forbidden in the layers up to `reach` away from the window's
    centre (by default the paper's three of 32, in proportion), all heads. metric: as in `Model.sweep`; (n_layers, ...).
    Raises PositionError for a position that the prompt does not have, NeverFired where `query` comes before all `keys`.
    """
    width = reach_of(model.n_layers) if reach is None else reach
    return model.sweep(prompt, knockouts(model.n_layers, width, query, keys), metric=metric, progress=progress)
