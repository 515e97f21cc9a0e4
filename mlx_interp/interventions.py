"""Interventions as data: what is changed, where, at which positions; the engine reads them, no hook hides them.

`site` is a selector (see `sites`); one that names several layers is applied at each. `positions` is an int, a slice, a
list of ints (negative ones count from the prompt's end), "generated" (generated tokens only), or None: every position,
generated ones too. `heads` is an int or a list of them, at sites that have heads. Arrays broadcast against
(batch, n_positions, ...) of their site: (d_model,), (n_positions, d_model), (batch, n_positions, d_model); at q k v z
(d_head,), (n_heads, d_head), (n_positions, n_heads, d_head), ... without the head axis when `heads` is an int.
The stream keeps its dtype. Several interventions at one site apply in the order given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, TypeAlias

import mlx.core as mx
import numpy as np

Positions: TypeAlias = int | slice | Sequence[int] | Literal["generated"] | None
Heads: TypeAlias = int | Sequence[int] | None
ArrayLike: TypeAlias = mx.array | np.ndarray | float | Sequence[Any]


class _Printed:
    """Prints arrays by shape: an intervention names itself in errors, and a vector of 3584 numbers names nothing."""

    def __repr__(self) -> str:
        shown = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is None:
                continue
            is_array = isinstance(value, (mx.array, np.ndarray))
            shown.append(f"{field.name}={f'array{tuple(value.shape)}' if is_array else repr(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, eq=False, repr=False)
class Patch(_Printed):
    """Replaces the activation: activation patching, back-patching, mean or zero ablation; a number fills the site."""

    site: str
    value: ArrayLike
    positions: Positions = None
    heads: Heads = None


@dataclass(frozen=True, eq=False, repr=False)
class Add(_Printed):
    """Adds `scale * vector`: activation addition, steering. Scale 0 is bitwise the identity, whatever the vector."""

    site: str
    vector: ArrayLike
    scale: float = 1.0
    positions: Positions = None
    heads: Heads = None


@dataclass(frozen=True, eq=False, repr=False)
class Ablate(_Printed):
    """Removes the component along a direction: x - (x . r) r with r of unit length (Arditi et al. 2024).

    direction: (d_model,), or (d_head,) at sites with heads; normalised here, computed in float32.
    """

    site: str
    direction: ArrayLike
    positions: Positions = None
    heads: Heads = None


@dataclass(frozen=True, eq=False, repr=False)
class Scale(_Printed):
    """Multiplies by a number."""

    site: str
    factor: float
    positions: Positions = None
    heads: Heads = None


@dataclass(frozen=True, eq=False, repr=False)
class Knockout(_Printed):
    """Forbids attention from query positions to key positions, before the softmax (Geva et al. 2023).

    layers: 7, "8-20", [3, 4] or "all". query, keys: positions. The rest of the pattern is renormalised.
    """

    layers: int | str | Sequence[int]
    query: Positions = None
    keys: Positions = None
    heads: Heads = None


@dataclass(frozen=True, eq=False, repr=False)
class Apply(_Printed):
    """Any function array -> array of the same shape, for what the others cannot say.

    The function gets (n_rows, n_positions, ...) of its site; rows are prompts (one in a sweep). It must be pure.
    """

    site: str
    function: Callable[[mx.array], mx.array]
    positions: Positions = None


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
class Features(_Printed):
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

    @property
    def site(self) -> str:
        return self.sae.site

    @property
    def chosen(self) -> tuple[int, ...]:
        """The features as a tuple."""
        one = isinstance(self.features, (int, np.integer))
        return (int(self.features),) if one else tuple(int(i) for i in self.features)  # type: ignore[arg-type, union-attr]


Intervention: TypeAlias = Patch | Add | Ablate | Scale | Knockout | Apply | Features
