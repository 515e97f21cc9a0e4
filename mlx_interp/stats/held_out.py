"""Held-out choice: one of many (a cell, a layer, a strength) chosen on some prompts and reported on the others.

1. The prompts are split into two halves by seed.
2. The best choice on each half is scored on the other one, so that every prompt counts once.
3. An oracle, which picks the best choice for each prompt, is only ever shown beside the same oracle of a control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp.stats import split_halves


@dataclass(frozen=True)
class Held:
    """Held-out choices, one for each key: the best one on the half that the key is not in."""

    choice: Mapping[str, int]

    @property
    def chosen(self) -> list[int]:
        """The one or two choices, in order."""
        return sorted(set(self.choice.values()))

    def scores(self, grid: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Each key's value at its choice, in any grid over the same choices (a control's, say)."""
        return {key: float(grid[key][choice]) for key, choice in self.choice.items()}


def held_out_choice(grid: Mapping[str, Sequence[float]], seed: int) -> Held:
    """The best choice (highest mean, the first of equals) on each half, for the keys of the other.

    grid: for each key (a prompt) its value at every choice. Raises ValueError for fewer than two keys.
    """
    if len(grid) < 2:
        raise ValueError(f"choosing on one half and scoring on the other needs two prompts or more, found {len(grid)}")
    first, second = split_halves(list(grid), seed)
    best_on = {
        half: int(np.argmax(np.mean([grid[key] for key in keys], axis=0))) for half, keys in enumerate((first, second))
    }
    return Held({**dict.fromkeys(first, best_on[1]), **dict.fromkeys(second, best_on[0])})


def oracle(grid: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Each key's best value over all choices: an upper bound that luck inflates, never a rate to be had."""
    return {key: float(np.max(values)) for key, values in grid.items()}
