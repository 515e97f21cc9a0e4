"""Interchange in a subspace: another run's component there, one's own everywhere else (Geiger et al. 2024)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from mlx_interp.deferred import mx
from mlx_interp.errors import ShapeError
from mlx_interp.interventions.intervention import ArrayLike, Heads, Intervention, Positions
from mlx_interp.sites import Site

TOLERANCE = 1e-3
"""How far the product of a basis with itself may be from the identity."""


@dataclass(frozen=True, eq=False, repr=False)
class Interchange(Intervention):
    """Sets the component in a subspace to that of `value`: x + (value - x) B B^T, computed in float32.

    basis: B, (width, size), orthonormal columns; of all the width it is a `Patch`. value: as of a `Patch`, the site's
    activation in another run. Interventions that share one basis (the same array) are applied together.
    """

    site: str
    value: ArrayLike
    basis: mx.array
    positions: Positions = None
    heads: Heads = None

    array = "value"

    def check(self) -> None:
        """Raises ShapeError for a basis without columns, or one whose columns are not orthonormal."""
        shape = tuple(getattr(self.basis, "shape", ()))
        if not isinstance(self.basis, mx.array) or len(shape) != 2 or not 1 <= shape[1] <= shape[0]:
            raise ShapeError(f"{self}: a basis is an mlx array (width, size) of one column or more, not {shape}")
        basis = self.basis.astype(mx.float32)
        apart = float(mx.abs(basis.T @ basis - mx.eye(shape[1])).max())
        if not apart < TOLERANCE:
            raise ShapeError(
                f"{self}: the basis's columns are not orthonormal (off by {apart:.3g}): take Q of a QR decomposition"
            )

    def group(self) -> Hashable:
        return id(self.basis)

    def met(self, site: Site, n_heads: int, width: int) -> tuple[int, int]:
        """Its value is of the site; so is the basis. Raises ShapeError for a basis of another width."""
        if self.basis.shape[0] != width:
            raise ShapeError(f"{self}: the basis is {tuple(self.basis.shape)}, {site} of this model is {width} wide")
        return n_heads, width

    @classmethod
    def changed(cls, edits: Sequence[Interchange], old: mx.array, value: mx.array | None) -> mx.array:
        assert value is not None
        basis, wide = edits[0].basis.astype(mx.float32), old.astype(mx.float32)
        return wide + ((value.astype(mx.float32) - wide) @ basis) @ basis.T
