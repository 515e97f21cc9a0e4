"""Interventions on features of a sparse autoencoder."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import SAEError
from mlx_interp.interventions.intervention import ArrayLike, Intervention, Positions, column
from mlx_interp.sites import Site


class Dictionary(Protocol):
    """What an intervention on features needs of a sparse autoencoder (`sae.SAE` is one)."""

    @property
    def site(self) -> str: ...

    @property
    def d_model(self) -> int: ...

    @property
    def d_sae(self) -> int: ...

    def edited(
        self, x: mx.array, features: mx.array, factor: mx.array, value: mx.array | None, *, error: bool = True
    ) -> mx.array: ...


@dataclass(frozen=True, eq=False, repr=False)
class Features(Intervention):
    """Sets features of a sparse autoencoder, at its site, to factor * f + value; all else of the activation stays.

    features: an int or a list of them; none leaves all as they are. factor 0 with a value patches (0: ablates), factor
    1 with a value steers. value: a number, (n_features,), (n_positions, n_features), (batch, n_positions, n_features).
    error: keep what the autoencoder does not reconstruct; without it the reconstruction replaces the activation.
    """

    sae: Dictionary
    features: int | Sequence[int]
    value: ArrayLike = 0.0
    factor: float = 0.0
    error: bool = True
    positions: Positions = None

    numbers = ("factor",)
    array = "value"
    fills = True

    @property
    def site(self) -> str:
        return self.sae.site

    @property
    def chosen(self) -> tuple[int, ...]:
        """The features as a tuple."""
        one = isinstance(self.features, (int, np.integer))
        return (int(self.features),) if one else tuple(int(i) for i in self.features)  # type: ignore[arg-type, union-attr]

    @property
    def has_array(self) -> bool:
        return bool(self.chosen)

    def group(self) -> Hashable:
        return (id(self.sae), self.error, len(self.chosen))

    def met(self, site: Site, n_heads: int, width: int) -> tuple[int, int]:
        """Its values are of features. Raises SAEError for an autoencoder of another width, or features it has not."""
        sae, width = self.sae, max(n_heads, 1) * width
        if sae.d_model != width or site.kind.axes[-1] == "key" or not site.kind.writable:
            raise SAEError(f"{sae} reads activations of width {sae.d_model}; {site} of this model is {width} wide")
        if wrong := [i for i in self.chosen if not 0 <= i < sae.d_sae]:
            raise SAEError(f"{sae} has features 0 to {sae.d_sae - 1}, not {', '.join(map(str, wrong))}")
        if len(set(self.chosen)) < len(self.chosen):
            raise SAEError(f"{self}: a feature is named twice")
        return 0, len(self.chosen)

    @classmethod
    def changed(cls, edits: Sequence[Features], old: mx.array, value: mx.array | None) -> mx.array:
        """At sites with heads an autoencoder reads all heads side by side."""
        chosen = mx.array(np.array([edit.chosen for edit in edits], dtype=np.int32).reshape(len(edits), -1))
        flat, factors = old.reshape(*old.shape[:2], -1), column(edits, "factor", 3)
        return edits[0].sae.edited(flat, chosen, factors, value, error=edits[0].error).reshape(old.shape)
