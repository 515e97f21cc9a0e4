"""Patching grid: activation patching read as a share of what was lost, with what the model then says in each cell.

1. Run the clean and the corrupted prompt; read the logit difference of the right answer over the wrong one in both.
2. Patch the clean activation into the corrupted run, layer by layer and position by position, in one sweep.
3. A cell is the share of the difference that comes back: 0 is the corrupted run, 1 the clean one (Wang et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mlx_interp import pages
from mlx_interp.deferred import mx
from mlx_interp.errors import DataError
from mlx_interp.model import Model
from mlx_interp.patching.activation_patches import activation_patching, equal_lengths
from mlx_interp.prompts import AnyPrompt, Prompt
from mlx_interp.shapes import ShapesShown

SMALL = 1e-3
"""A logit difference between the two runs that rounding could make: nothing can be a share of it."""


@dataclass(frozen=True, eq=False, repr=False)
class PatchingGrid(ShapesShown, pages.AsPage):
    """Activation patching by layer and position; `to_html` writes a page: a cell says what the model says."""

    clean: Prompt
    corrupted: Prompt
    site: str
    right: str
    wrong: str
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    differences: npt.NDArray[np.float64]
    """Logit difference of right over wrong (n_layers, n_positions)."""
    of_clean: float
    """The difference of the clean run."""
    of_corrupted: float
    top: Sequence[Sequence[Sequence[tuple[str, float]]]] = field(repr=False)
    """By layer and position, the likeliest tokens with their probabilities."""

    @property
    def recovered(self) -> npt.NDArray[np.float64]:
        """Share of the lost difference that each cell recovers (n_layers, n_positions)."""
        return (self.differences - self.of_corrupted) / (self.of_clean - self.of_corrupted)

    def page(self) -> pages.Page:
        """The shares in colours; a cell shows its logit difference and likeliest tokens."""
        details = [
            [
                pages.Details({"logit difference": float(difference)}, tokens=tokens)
                for difference, tokens in zip(*row, strict=True)
            ]
            for row in zip(self.differences, self.top, strict=True)
        ]
        return pages.grid(
            self.recovered,
            details=[details],
            texts={
                f"clean: logit difference {self.of_clean:.3g}": self.clean.text,
                f"corrupted: logit difference {self.of_corrupted:.3g}": self.corrupted.text,
            },
            title=f"Activation patching at {self.site}",
            about=f"Share of the logit difference of {self.right!r} over {self.wrong!r} that the clean prompt's "
            "activation recovers in the corrupted prompt.",
            x_label="position",
            y_label="layer",
            value_label="recovered",
            x_ticks=[f"{position} {self.corrupted.pieces[position].strip()}" for position in self.positions],
            y_ticks=self.layers,
            percent=True,
        )


def patching_grid(
    model: Model,
    clean: AnyPrompt,
    corrupted: AnyPrompt,
    site: str = "resid_pre",
    *,
    right: str,
    wrong: str,
    positions: Sequence[int] | None = None,
    k: int = 5,
) -> PatchingGrid:
    """Patching grid: by layer and position, the share of the logit difference that the clean activation recovers.

    right, wrong: words of one token each, as they continue the clean prompt. site, positions: as in
    `activation_patching`. k: how many of the likeliest tokens are kept for each cell.
    Raises what `activation_patching` and `Model.token_id` raise, and DataError where both prompts have the same
    difference.
    """
    one, two = equal_lengths(model, clean, corrupted)
    ids = model.token_id(right, after=one), model.token_id(wrong, after=one)
    out = model.run([one, two])
    assert out.logits is not None
    of_clean, of_corrupted = (float(row[ids[0]] - row[ids[1]]) for row in out.logits.astype(mx.float32))
    if abs(of_clean - of_corrupted) < SMALL:
        raise DataError(
            f"{right!r} over {wrong!r} has the same logit difference ({of_clean:.3f}) after both prompts: nothing was "
            "lost that patching could bring back; choose answers on which the prompts differ"
        )
    found = np.asarray(activation_patching(model, one, two, site, positions=positions, metric=_read(*ids, k)))
    top = [[_named(model, cell[1:]) for cell in row] for row in found]
    layers = tuple(place.layer for place in model.sites_of(site))
    at = range(len(two)) if positions is None else [position % len(two) for position in positions]
    differences = found[..., 0].astype(np.float64)
    return PatchingGrid(one, two, site, right, wrong, layers, tuple(at), differences, of_clean, of_corrupted, top)


def _named(model: Model, read: npt.NDArray[np.float32]) -> list[tuple[str, float]]:
    tokens, shares = np.split(read, 2)
    return [(model.text_of_token(int(token)), float(share)) for token, share in zip(tokens, shares, strict=True)]


def _read(right: int, wrong: int, k: int) -> Callable[[mx.array], mx.array]:
    """Logits (n, d_vocab) -> (n, 1 + 2 k): the logit difference, the top k tokens, their probabilities.

    One array of float32, which holds every id of a vocabulary exactly: a grid never keeps its logits.
    """

    def metric(logits: mx.array) -> mx.array:
        logits = logits.astype(mx.float32)
        best = mx.argsort(-logits, axis=-1)[:, :k]
        shares = mx.take_along_axis(mx.softmax(logits, axis=-1), best, axis=-1)
        difference = logits[:, right] - logits[:, wrong]
        return mx.concatenate([difference[:, None], best.astype(mx.float32), shares], axis=-1)

    return metric
