"""Values of an intervention: its numbers and arrays, checked, and brought into the shape in which they are applied.

What is no number (None, text, a mask of bools, complex numbers) is refused here, before anything is computed: mlx
would broadcast it, drop a part of it, or raise an error that names neither intervention nor site.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import ShapeError
from mlx_interp.interventions import Intervention, Steers
from mlx_interp.shapes import shown
from mlx_interp.sites import Site


@dataclass(frozen=True)
class Fit:
    """What an intervention's array meets at its site: `count` positions of one of `n_rows` rows."""

    site: Site | None
    row: int
    n_rows: int
    count: int
    n_chosen: int | None
    """How many heads are named; None for all."""
    n_heads: int
    """0 at sites without heads."""
    width: int

    @property
    def target(self) -> tuple[int, ...]:
        return (self.count, self.n_chosen or self.n_heads, self.width) if self.n_heads else (self.count, self.width)


def listed(interventions: Any) -> list[Intervention]:
    """Interventions as one list: one alone, a list, lists inside lists (`direction.ablated_everywhere()` is one).

    A Direction or a FunctionVector among them is added at its own site, once. Raises ShapeError for what is none.
    """
    if isinstance(interventions, Intervention):
        return [interventions]
    # A check against a protocol costs more than the rest of a variant's plan: lists, the common case, need none.
    if type(interventions) not in (list, tuple) and isinstance(interventions, Steers):
        return list(interventions.interventions())
    if not _holds_several(interventions):
        kinds = ", ".join(sorted({kind.__name__ for kind in Intervention.__subclasses__()}))
        raise ShapeError(f"{shown(interventions)} is no intervention; a list holds {kinds}, a Direction, or such lists")
    return [one for item in interventions for one in listed(item)]


def variants_of(variants: Any) -> list[list[Intervention]]:
    """Variants of a sweep, each as one list. Raises ShapeError for what is no intervention, and for no variant."""
    alone = isinstance(variants, (Intervention, Steers)) or not _holds_several(variants)
    found = [listed(variant) for variant in ([variants] if alone else variants)]
    if not found:
        raise ShapeError("a sweep needs at least one variant; [] is the clean prompt")
    return found


def _holds_several(given: Any) -> bool:
    """Lists, tuples, generators: not texts, arrays or mappings, whose parts are no interventions."""
    return isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping)) and not hasattr(given, "shape")


def check_values(intervention: Intervention) -> None:
    """Raises ShapeError for a number that is not one finite number, and for what the intervention itself refuses."""
    for name in intervention.numbers:
        _check_number(getattr(intervention, name), name, intervention)
    intervention.check()


def _check_number(value: Any, name: str, intervention: object) -> None:
    if _is_real(value) and np.ndim(value) == 0 and abs(float(value)) <= float(np.finfo(np.float32).max):
        return
    shown = f"an array {tuple(value.shape)}" if getattr(value, "shape", ()) else repr(value)
    raise ShapeError(
        f"{intervention}: {name} is one finite number, not {shown}; what differs by position or channel is a vector "
        "of Add, the value of a Patch, or a function of Apply"
    )


def _is_real(value: Any) -> bool:
    """Whether something is a real number or an array of them; truth values and complex numbers are none."""
    if isinstance(value, mx.array):
        return bool(mx.issubdtype(value.dtype, mx.floating) or mx.issubdtype(value.dtype, mx.integer))
    try:
        kind = np.asarray(value).dtype
    except (TypeError, ValueError, RuntimeError):
        return False
    return kind.kind in "iuf" or kind.name.startswith(("bfloat", "float"))  # ml_dtypes' are of no kind that numpy knows


def named_array(intervention: Any) -> Any:
    """The array of an intervention as it was given."""
    return getattr(intervention, intervention.array)


def array_of(intervention: Any) -> mx.array | None:
    """The array of an intervention for mlx; None where it has none. Raises ShapeError for what holds no numbers."""
    if not intervention.has_array:
        return None
    value = named_array(intervention)
    if not _is_real(value):
        what = f"an array of {value.dtype}" if hasattr(value, "dtype") else repr(value)
        raise ShapeError(
            f"{intervention}: {what} is no array of real numbers; give numbers, numpy or mlx arrays (of torch: "
            ".detach().float().cpu().numpy()), and a mask as .astype('float32')"
        )
    # A copy in C order: mlx takes no view that runs backwards.
    return value if isinstance(value, mx.array) else mx.array(np.array(value, dtype=np.float32, order="C"))


def fitted(array: mx.array, intervention: Any, fit: Fit) -> mx.array:
    """An intervention's array for one row, as something that broadcasts to (count, [heads], width)."""
    target = fit.target
    one_head = fit.n_heads > 0 and isinstance(intervention.heads, (int, np.integer))
    if array.ndim == 0 and intervention.fills:
        return array.reshape((1,) * len(target))
    value = _with_head_axis(array, one_head, is_pattern=fit.site is not None and fit.site.kind.of_edges)
    if value.ndim == len(target) + 1 and value.shape[0] in (1, fit.n_rows):
        value = value[fit.row if value.shape[0] == fit.n_rows else 0]
    value = value.reshape((1,) * (len(target) - value.ndim) + tuple(value.shape))
    fits = value.ndim == len(target) and value.shape[-1] == fit.width and value.shape[0] in (1, fit.count)
    if fit.n_heads:
        fits = fits and value.shape[-2] in (1, target[-2])
    if not fits:
        raise ShapeError(
            f"{intervention}: the array is {tuple(array.shape)}, the site at these positions and heads is "
            f"{(fit.n_rows, *target)}; give {_accepted(fit)}"
        )
    return value


def _with_head_axis(value: mx.array, one_head: bool, is_pattern: bool) -> mx.array:
    """Arrays for one head have no head axis yet; patterns come as (head, query, key) and are held query first."""
    if one_head or (is_pattern and value.ndim == 2):
        return mx.expand_dims(value, -2)
    return value.swapaxes(-2, -3) if is_pattern and value.ndim >= 3 else value


def _accepted(fit: Fit) -> str:
    count, *heads, width = fit.target
    if heads:
        return f"({width},), ({heads[0]}, {width}) or ({count}, {heads[0]}, {width})"
    return f"({width},) for one position or all, or ({count}, {width}) for these {count}"
