"""Activation difference lens: what a fine-tune has added to the first tokens of texts that it is not about.

Minder et al. 2025, "Narrow Finetuning Leaves Clearly Readable Traces in Activation Differences" (arXiv 2510.13900).
1. Both models read the first tokens of unrelated texts, five in the paper.
2. The difference of one site, fine-tuned less base, is averaged over texts, for each position by itself.
3. The mean is read through the logit lens or a patchscope, or added to the fine-tuned model: what it says then is what
   it was tuned on, where the tuning was narrow. The first position is often unlike the others.

`chance` is how long a mean of these differences would be if their signs were drawn at random.
Cost: one forward pass of each model for each text, over its first tokens alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp import sites
from mlx_interp.deferred import mx
from mlx_interp.directions.direction import Direction
from mlx_interp.directions.states import refuse_equal
from mlx_interp.errors import DataError, PositionError, ShapeError, SiteError
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt
from mlx_interp.shapes import ShapesShown

SAME = 1e-5
"""Two models whose activations differ by less, beside their length, are the same up to rounding."""
AT_ONCE = 256
"""Texts whose activations of both models are held at once."""


@dataclass(frozen=True, eq=False, repr=False)
class ActivationDifference(ShapesShown):
    """Mean differences of two models' activations at one site, position by position."""

    model: Model
    """The fine-tuned one."""
    site: str
    means: np.ndarray
    """(n_positions, d_model), float64."""
    chance: np.ndarray
    """(n_positions,): the length that differences with random signs would have on average (root mean square)."""
    floor: float
    """The length that rounding alone may give."""
    n_texts: int

    @property
    def lengths(self) -> np.ndarray:
        """(n_positions,): lengths of the means."""
        return np.asarray(np.linalg.norm(self.means, axis=-1))

    def logits(self) -> mx.array:
        """(n_positions, d_vocab): the means through the logit lens; `model.top_tokens` reads them."""
        return self.model.unembed(mx.array(self.means.astype(np.float32)))

    def direction(self, position: int = -1) -> Direction:
        """The mean at one position, to be added, ablated or saved.

        Raises PositionError for one that was not read, DirectionError where both models have the same there.
        """
        if not -len(self.means) <= position < len(self.means):
            raise PositionError(f"position {position}: {len(self.means)} were read")
        at = position % len(self.means)
        refuse_equal(float(self.lengths[at]), self.floor, f"{self.site}, position {at}")
        return Direction.of(
            self.model,
            self.means[at],
            self.site,
            position=at,
            method=f"activation difference of a fine-tune, {self.n_texts} texts",
            template="plain",
            floor=self.floor,
            p_value=None,
        )


def activation_difference(
    base: Model, tuned: Model, texts: Sequence[AnyPrompt], site: str, *, positions: int = 5
) -> ActivationDifference:
    """Mean activation differences at the first positions of texts, fine-tuned less base.

    site: one of the residual stream's width, e.g. "resid_post.5"; the paper takes the middle layer.
    Raises DataError without texts or for one of fewer tokens than positions, SiteError for another site, ShapeError for
    two models that read the texts as other tokens or have another width.
    """
    where = sites.parse_one(site, tuned.n_layers)
    if where.kind.axes != ("d_model",):
        raise SiteError(f"{where} is not of the stream's width: take resid_post, resid_mid, attn_out or mlp_out")
    if base.d_model != tuned.d_model or base.n_layers != tuned.n_layers:
        raise ShapeError(
            f"{base.name} has {base.n_layers} layers of width {base.d_model}, {tuned.name} {tuned.n_layers} of "
            f"{tuned.d_model}: a difference needs a model and a fine-tune of it"
        )
    read = [[prompt.tokens for prompt in model.prompts(texts)] if len(texts) else [] for model in (base, tuned)]
    if read[0] != read[1]:
        raise ShapeError(f"{base.name} and {tuned.name} read the texts as different tokens")
    shortest = min(map(len, read[0]), default=0)
    if not 1 <= positions <= shortest:
        raise DataError(
            f"{positions} positions of {len(read[0])} texts, the shortest of {shortest} tokens: give texts as long"
        )
    first = [tokens[:positions] for tokens in read[0]]  # later tokens change nothing at earlier ones
    total, squares, n = np.zeros((positions, tuned.d_model)), np.zeros(positions), 0
    longest = 0.0
    for start in range(0, len(first), AT_ONCE):
        ours, theirs = (_read(model, first[start : start + AT_ONCE], str(where)) for model in (tuned, base))
        total += (ours - theirs).sum(axis=0)
        squares += ((ours - theirs) ** 2).sum(axis=(0, 2))
        longest = max(longest, float(np.linalg.norm(theirs, axis=-1).max()))
        n += len(ours)
    return ActivationDifference(tuned, str(where), total / n, np.sqrt(squares) / n, SAME * longest, n)


def _read(model: Model, texts: Sequence[Sequence[int]], site: str) -> np.ndarray:
    """One site of texts of equal length: (n_texts, n_positions, d_model), float64."""
    read = [np.asarray(out[site].astype(mx.float32)) for out in model.batches(texts, capture=site)]
    return np.concatenate(read).astype(np.float64)
