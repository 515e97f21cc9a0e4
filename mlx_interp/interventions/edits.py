"""Interventions on activations and on attention's edges, by what they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mlx_interp.deferred import mx
from mlx_interp.errors import ShapeError
from mlx_interp.interventions.intervention import (
    ArrayLike,
    Heads,
    Intervention,
    Planner,
    Positions,
    SteeringVector,
    column,
    of_vector,
    set_fields,
    unit_of,
)

ZERO: Literal["zero"] = "zero"
"""Ablation without a direction: the activation is set to 0."""


def _is_left_out(vector: object) -> bool:
    return isinstance(vector, tuple) and not vector


@dataclass(frozen=True, eq=False, repr=False)
class Patch(Intervention):
    """Replaces the activation: activation patching, back-patching, mean ablation; a number fills the site."""

    site: str
    value: ArrayLike | SteeringVector
    positions: Positions = None
    heads: Heads = None

    array = "value"
    fills = True

    def __post_init__(self) -> None:
        set_fields(self, value=of_vector(self.value))

    @classmethod
    def changed(cls, edits: Sequence[Patch], old: mx.array, value: mx.array | None) -> mx.array:
        assert value is not None
        return mx.broadcast_to(value.astype(old.dtype), old.shape)


@dataclass(frozen=True, eq=False, repr=False)
class Add(Intervention):
    """Adds `scale * vector`: activation addition, steering. Scale 0 is bitwise the identity.

    A Direction knows its site: `Add(direction, 2.0)` adds twice its vector there, `Add("resid_post.5", direction)` at
    another one.
    """

    site: str | SteeringVector
    vector: ArrayLike | SteeringVector = ()
    scale: float = 1.0
    positions: Positions = None
    heads: Heads = None

    numbers = ("scale",)
    array = "vector"

    def __post_init__(self) -> None:
        if isinstance(self.site, SteeringVector):
            scale = self.scale if _is_left_out(self.vector) else self.vector
            set_fields(self, site=self.site.site, vector=self.site.vector, scale=scale)
        set_fields(self, vector=of_vector(self.vector))

    def check(self) -> None:
        if _is_left_out(self.vector):
            raise ShapeError(f"Add({self.site!r}): there is no vector to add; give Add(site, vector) or Add(direction)")

    @classmethod
    def changed(cls, edits: Sequence[Add], old: mx.array, value: mx.array | None) -> mx.array:
        assert value is not None
        scales = column(edits, "scale", old.ndim)
        added = old + (scales * value.astype(mx.float32)).astype(old.dtype)
        # 0 * inf, of a product that float32 does not hold, is no identity
        return added if all(float(edit.scale) for edit in edits) else mx.where(scales == 0, old, added)


@dataclass(frozen=True, eq=False, repr=False)
class Ablate(Intervention):
    """Removes the component along a direction: x - (x . r) r with r of unit length (Arditi et al. 2024).

    direction: (d_model,), or (d_head,) at sites with heads; normalised here, computed in float32. Without one it is
    zero ablation: `Ablate("z.2", heads=[1])` sets the activation to 0. `Ablate(direction)` acts at the direction's own
    site. Mean ablation needs prompts to take the mean of: `mi.mean_ablation`.
    fraction: of the component, 1 for all of it; .5 leaves half, 2 turns it round. For zero ablation take `Scale`.
    """

    site: str | SteeringVector
    direction: ArrayLike | SteeringVector | Literal["zero"] = ZERO
    positions: Positions = None
    heads: Heads = None
    fraction: float = 1.0

    array = "direction"
    numbers = ("fraction",)

    def __post_init__(self) -> None:
        if isinstance(self.site, SteeringVector):
            set_fields(self, site=self.site.site, direction=self.site.vector)
        zero = isinstance(self.direction, (int, float)) and not isinstance(self.direction, bool) and self.direction == 0
        set_fields(self, direction=ZERO if zero else of_vector(self.direction))

    @property
    def has_array(self) -> bool:
        return not (isinstance(self.direction, str) and self.direction == ZERO)

    def check(self) -> None:
        if isinstance(self.direction, str) and self.direction == "mean":
            raise ShapeError(
                f"{self}: a mean is one over prompts; give mi.mean_ablation(model, {self.site!r}, prompts), or the "
                "mean itself as the value of a Patch"
            )
        if not self.has_array and self.fraction != 1:
            raise ShapeError(f"{self}: zero ablation has no fraction; Scale({self.site!r}, .5) halves an activation")

    def prepared(self, value: mx.array, nonzero: Callable[[mx.array], None]) -> mx.array:
        """The direction at length 1, in float32."""
        return unit_of(value, nonzero)

    @classmethod
    def changed(cls, edits: Sequence[Ablate], old: mx.array, value: mx.array | None) -> mx.array:
        if value is None:
            return mx.zeros_like(old)
        wide = old.astype(mx.float32)
        return wide - column(edits, "fraction", old.ndim) * mx.sum(wide * value, axis=-1, keepdims=True) * value


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Intervention):
    """Multiplies by a number."""

    site: str
    factor: float
    positions: Positions = None
    heads: Heads = None

    numbers = ("factor",)

    @classmethod
    def changed(cls, edits: Sequence[Scale], old: mx.array, value: mx.array | None) -> mx.array:
        return old * column(edits, "factor", old.ndim).astype(old.dtype)


@dataclass(frozen=True, eq=False, repr=False)
class Knockout(Intervention):
    """Forbids attention from query positions to key positions, before the softmax (Geva et al. 2023).

    layers: 7, "8-20", [3, 4] or "all". query, keys: positions. The rest of the pattern is renormalised.
    """

    layers: int | str | Sequence[int]
    query: Positions = None
    keys: Positions = None
    heads: Heads = None

    def plan(self, planner: Planner, owner: tuple[int, int]) -> None:
        planner.block(self, owner)


@dataclass(frozen=True, eq=False, repr=False)
class Apply(Intervention):
    """Any function array -> array of the same shape, for what the others cannot say.

    The function gets (n_rows, n_positions, ...) of its site; rows are prompts (one in a sweep). It must be pure.
    """

    site: str
    function: Callable[[mx.array], mx.array]
    positions: Positions = None

    across = True

    def check(self) -> None:
        if not callable(self.function):
            raise ShapeError(f"{self}: {self.function!r} is no function")

    @classmethod
    def changed(cls, edits: Sequence[Apply], old: mx.array, value: mx.array | None) -> mx.array:
        (only,) = edits
        return only.function(old)
