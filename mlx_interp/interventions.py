"""Interventions as data: what is changed, where, at which positions; the engine reads them, no hook hides them.

`site` is a selector (see `sites`); one that names several layers is applied at each. `positions` is an int, a slice, a
list of ints (negative ones count from the prompt's end), "generated" (generated tokens only), or None: every position,
generated ones too. `heads` is an int or a list of them, at sites that have heads. Arrays broadcast against
(batch, n_positions, ...) of their site: (d_model,), (n_positions, d_model), (batch, n_positions, d_model); at q k v z
(d_head,), (n_heads, d_head), (n_positions, n_heads, d_head), ... without the head axis when `heads` is an int.
The stream keeps its dtype. Several interventions at one site apply in the order given.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import SAEError, ShapeError
from mlx_interp.sites import Site

Positions: TypeAlias = int | slice | Sequence[int] | Literal["generated"] | None
Heads: TypeAlias = int | Sequence[int] | None
ArrayLike: TypeAlias = "mx.array | np.ndarray | float | Sequence[Any]"


class Planner(Protocol):
    """Who resolves interventions against a model and its prompts (`engine/plan.py`)."""

    def edit(self, intervention: Any, owner: tuple[int, int]) -> None:
        """A change of an activation: the intervention has `site` and `positions`, it may have `heads`."""
        ...

    def block(self, intervention: Any, owner: tuple[int, int]) -> None:
        """Edges of attention that are forbidden."""
        ...


class Intervention:
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

    def __repr__(self) -> str:
        """Arrays by shape: an intervention names itself in errors, and a vector of 3584 numbers names nothing."""
        shown = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is None:
                continue
            is_array = isinstance(value, (mx.array, np.ndarray))
            shown.append(f"{field.name}={f'array{tuple(value.shape)}' if is_array else repr(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


def column(edits: Sequence[Any], name: str, ndim: int) -> mx.array:
    """One number of each edit, by its field's name: float32 (edit, 1, ...) that broadcasts to `ndim` axes."""
    numbers = [float(getattr(edit, name)) for edit in edits]
    return mx.array(numbers, dtype=mx.float32).reshape(-1, *(1,) * (ndim - 1))


@dataclass(frozen=True, eq=False, repr=False)
class Patch(Intervention):
    """Replaces the activation: activation patching, back-patching, mean or zero ablation; a number fills the site."""

    site: str
    value: ArrayLike
    positions: Positions = None
    heads: Heads = None

    array = "value"
    fills = True

    @classmethod
    def changed(cls, edits: Sequence[Patch], old: mx.array, value: mx.array | None) -> mx.array:
        assert value is not None
        return mx.broadcast_to(value.astype(old.dtype), old.shape)


@dataclass(frozen=True, eq=False, repr=False)
class Add(Intervention):
    """Adds `scale * vector`: activation addition, steering. Scale 0 is bitwise the identity, whatever the vector."""

    site: str
    vector: ArrayLike
    scale: float = 1.0
    positions: Positions = None
    heads: Heads = None

    numbers = ("scale",)
    array = "vector"

    @classmethod
    def changed(cls, edits: Sequence[Add], old: mx.array, value: mx.array | None) -> mx.array:
        assert value is not None
        scales = column(edits, "scale", old.ndim)
        added = old + (scales * value.astype(mx.float32)).astype(old.dtype)
        # 0 * inf is no identity
        return added if all(float(edit.scale) for edit in edits) else mx.where(scales == 0, old, added)


@dataclass(frozen=True, eq=False, repr=False)
class Ablate(Intervention):
    """Removes the component along a direction: x - (x . r) r with r of unit length (Arditi et al. 2024).

    direction: (d_model,), or (d_head,) at sites with heads; normalised here, computed in float32.
    """

    site: str
    direction: ArrayLike
    positions: Positions = None
    heads: Heads = None

    array = "direction"

    def prepared(self, value: mx.array, nonzero: Callable[[mx.array], None]) -> mx.array:
        """The direction at length 1, in float32."""
        value = value.astype(mx.float32)
        norm = mx.linalg.norm(value, axis=-1, keepdims=True)
        nonzero(norm)
        return value / norm

    @classmethod
    def changed(cls, edits: Sequence[Ablate], old: mx.array, value: mx.array | None) -> mx.array:
        assert value is not None
        wide = old.astype(mx.float32)
        return wide - mx.sum(wide * value, axis=-1, keepdims=True) * value


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
