"""Activation capping: the component along a direction kept between two bounds (Lu et al. 2026, arXiv 2601.10387)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import ShapeError
from mlx_interp.interventions.intervention import (
    ArrayLike,
    Heads,
    Intervention,
    Positions,
    SteeringVector,
    of_vector,
    set_fields,
    unit_of,
)


@dataclass(frozen=True, eq=False, repr=False)
class Clamp(Intervention):
    """Keeps x . r between `low` and `high`: x + (bound - x . r) r where it is outside, x bitwise where it is not.

    direction: r, (d_model,), or (d_head,) at sites with heads; normalised here, computed in float32. low, high: in the
    units of the site; None: no bound on that side. The paper caps the assistant axis from below: `Clamp(axis, low=t)`,
    with t from `mi.directions.projection_quantile`. A Direction knows its site: `Clamp(direction, low=1.0)` acts there.
    """

    site: str | SteeringVector
    direction: ArrayLike | SteeringVector = ()
    low: float | None = None
    high: float | None = None
    positions: Positions = None
    heads: Heads = None

    array = "direction"

    def __post_init__(self) -> None:
        if isinstance(self.site, SteeringVector):
            set_fields(self, site=self.site.site, direction=self.site.vector)
        set_fields(self, direction=of_vector(self.direction))

    def check(self) -> None:
        """Raises ShapeError for no direction, no bound, a bound that is no number, and bounds in the wrong order."""
        if isinstance(self.direction, tuple) and not self.direction:
            raise ShapeError(f"{self}: there is no direction; give Clamp(site, direction, low=...) or Clamp(direction)")
        if self.low is None and self.high is None:
            raise ShapeError(f"{self}: no bound; give low=..., high=... or both")
        for name in ("low", "high"):
            bound = getattr(self, name)
            if bound is not None and not (_is_number(bound) and np.isfinite(bound)):
                raise ShapeError(f"{self}: {name} is one finite number or None, not {bound!r}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ShapeError(f"{self}: low={self.low} is above high={self.high}; nothing lies between them")

    def prepared(self, value: mx.array, nonzero: Callable[[mx.array], None]) -> mx.array:
        return unit_of(value, nonzero)

    @classmethod
    def changed(cls, edits: Sequence[Clamp], old: mx.array, value: mx.array | None) -> mx.array:
        assert value is not None
        wide = old.astype(mx.float32)
        along = mx.sum(wide * value, axis=-1, keepdims=True)
        low, high = (
            mx.array([open_end if (bound := getattr(edit, name)) is None else float(bound) for edit in edits])
            for name, open_end in (("low", -np.inf), ("high", np.inf))
        )
        shape = (-1, *(1,) * (old.ndim - 1))
        kept = mx.minimum(mx.maximum(along, low.reshape(shape)), high.reshape(shape))
        moved = (wide + (kept - along) * value).astype(old.dtype)
        return mx.where(kept == along, old, moved)  # 0 * r would turn -0.0 into 0.0, and what is not finite into nan


def _is_number(bound: object) -> bool:
    return isinstance(bound, (int, float, np.integer, np.floating)) and not isinstance(bound, bool)
