"""What an intervention is: a frozen dataclass that says where it acts and what it changes; the engine reads it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.shapes import ShapesShown
from mlx_interp.sites import Site

Positions: TypeAlias = int | slice | Sequence[int] | Literal["generated"] | None
Heads: TypeAlias = int | Sequence[int] | None
ArrayLike: TypeAlias = "mx.array | np.ndarray | float | Sequence[Any]"


@runtime_checkable
class SteeringVector(Protocol):
    """A vector that knows its site (`Direction`, `FunctionVector`): interventions take it in place of an array."""

    @property
    def site(self) -> str: ...

    @property
    def vector(self) -> mx.array: ...


@runtime_checkable
class Steers(Protocol):
    """What stands for interventions in a list of them: a `Direction` or a `FunctionVector` is added, once."""

    def interventions(self) -> Sequence[Intervention]: ...


class Planner(Protocol):
    """Who resolves interventions against a model and its prompts (`engine/plan.py`)."""

    @property
    def routing(self) -> tuple[int, int]:
        """Experts of an MLP, and how many of them a token takes."""
        ...

    def edit(self, intervention: Any, owner: tuple[int, int]) -> None:
        """A change of an activation: the intervention has `site` and `positions`, it may have `heads`."""
        ...

    def block(self, intervention: Any, owner: tuple[int, int]) -> None:
        """Edges of attention that are forbidden."""
        ...


class Intervention(ShapesShown):
    """What is changed where: a frozen dataclass with `site`, `positions`, perhaps `heads`, and the change itself.

    A new kind is a subclass that says in `changed` what it does; runs, sweeps, generation and gradients take it as it
    is. The class attributes say what the engine must know of its fields.
    """

    numbers: ClassVar[tuple[str, ...]] = ()
    """Fields that hold one finite number each."""
    array: ClassVar[str | None] = None
    """The field with an array that broadcasts to its site; None where it has none."""
    fills: ClassVar[bool] = False
    """Whether one number in the array's place fills the site."""
    across: ClassVar[bool] = False
    """Whether it looks at several positions at once: it is then given one row at a time, with all its positions."""

    @classmethod
    def changed(cls, edits: Sequence[Any], old: mx.array, value: mx.array | None) -> mx.array:
        """The new entries, in the shape of the old ones: (edit, position, [head], width), each edit's own.

        edits: interventions of this class, of equal `group`. value: their arrays, which broadcast to `old`; None for
        a class without. Arithmetic in float32 where a sum could overflow; the result is cast to the site's dtype.
        """
        raise NotImplementedError(f"{cls.__name__} does not say what it changes: define `changed`")

    def check(self) -> None:
        """Raises ShapeError for a field that makes no sense, whatever the model."""

    def plan(self, planner: Planner, owner: tuple[int, int]) -> None:
        """Says what kind of change it is."""
        planner.edit(self, owner)

    def at_site(self, site: str) -> Intervention:
        """The same change at another site; itself where that is its own."""
        return self if site == getattr(self, "site", site) else replace(self, site=site)  # type: ignore[type-var]

    @property
    def has_array(self) -> bool:
        return self.array is not None

    def group(self) -> Hashable:
        """Edits of one class are changed together only if they agree in this."""
        return None

    def met(self, site: Site, n_heads: int, width: int) -> tuple[int, int]:
        """What its array has to fit, (number of heads or 0, width), at a site of that shape. Raises what does not."""
        return n_heads, width

    def prepared(self, value: mx.array, nonzero: Callable[[mx.array], None]) -> mx.array:
        """Its array as `changed` gets it, by the array alone: interventions that share one share this as well.

        nonzero: is called with lengths that must be finite and not zero.
        """
        return value


Interventions: TypeAlias = "Intervention | Steers | Sequence[Interventions]"
"""What runs, variants of a sweep and generation take: one intervention, or lists of them, as deep as they come."""
Variants: TypeAlias = Interventions
"""What sweeps take: a list with an entry for each variant, one intervention or a list; [] is the clean prompt."""


def column(edits: Sequence[Any], name: str, ndim: int) -> mx.array:
    """One number of each edit, by its field's name: float32 (edit, 1, ...) that broadcasts to `ndim` axes."""
    numbers = [float(getattr(edit, name)) for edit in edits]
    return mx.array(numbers, dtype=mx.float32).reshape(-1, *(1,) * (ndim - 1))


def of_vector(given: object) -> Any:
    """The array of a vector that knows its site; anything else as it is."""
    return given.vector if isinstance(given, SteeringVector) else given


def set_fields(intervention: Intervention, **values: Any) -> None:
    """Fields as they are meant, set while a frozen intervention is made."""
    for name, value in values.items():
        object.__setattr__(intervention, name, value)


def unit_of(value: mx.array, nonzero: Callable[[mx.array], None]) -> mx.array:
    """An array of directions at length 1, in float32. nonzero: is called with their lengths (`prepared`)."""
    value = value.astype(mx.float32)
    norm = mx.linalg.norm(value, axis=-1, keepdims=True)
    nonzero(norm)
    return value / norm
