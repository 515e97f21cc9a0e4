"""Record types: the fields of a stage's records, checked when they are written and printed by --help.

A stage names a TypedDict. Each field may have a string below it, which is its text:

    class Screened(TypedDict):
        group: str
        \"\"\"failure, correct, shortcut or other.\"\"\"
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypedDict, Union

from experiments.harness.fields import docs_of
from mlx_interp.errors import RunError, nearest

OWN = ("stage", "item")
"""Fields that the runner adds."""


class InBatch(TypedDict):
    """What a record of a batch says: which of the batch's items it is of."""

    item: str


def check_record(record: Mapping[str, Any], schema: type, where: str) -> None:
    """Raises RunError, naming the field, that the schema does not have, that is missing, or of another type."""
    hints = typing.get_type_hints(schema)
    required = required_fields(schema)
    for name in record:
        if name not in hints and name not in OWN:
            raise RunError(
                f"{where}: no field {name!r} in {schema.__name__}: {nearest(name, hints)}fields are "
                f"{', '.join(hints)}; add it there with its type"
            )
    for name, kind in hints.items():
        if name not in record:
            if name in required:
                raise RunError(
                    f"{where}: the field {name!r} of {schema.__name__} is missing; write None if it has none"
                )
        elif not fits(record[name], kind):
            raise RunError(
                f"{where}: {name} = {record[name]!r} is not {shown(kind)}, as {schema.__name__} says; "
                "correct the one or the other"
            )


def required_fields(schema: type) -> frozenset[str]:
    """Fields that every record has: not those marked NotRequired, and none of a class with total=False."""
    # Annotations are strings here, in which __required_keys__ sees no NotRequired.
    hints = typing.get_type_hints(schema, include_extras=True)
    known: frozenset[str] = getattr(schema, "__required_keys__", frozenset(hints))
    return frozenset(name for name in known if typing.get_origin(hints[name]) is not typing.NotRequired)


def fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a type: bool, int, float (whole numbers too), str, list, dict, Literal, or None."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is list:
        return isinstance(value, list) and all(fits(part, parts[0]) for part in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(part, parts[1]) for part in value.values())
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if kind in (None, type(None)) else isinstance(value, kind)


def shown(kind: Any) -> str:
    """A type as --help prints it."""
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return "|".join(map(str, parts))
    if typing.get_origin(kind) in (Union, types.UnionType):
        return " or ".join("None" if part is type(None) else shown(part) for part in parts)
    if typing.get_origin(kind) is list:
        return f"list of {shown(parts[0])}"
    if typing.get_origin(kind) is dict:
        return f"dict of {shown(parts[1])}"
    return str(getattr(kind, "__name__", kind))


def field_lines(schema: type) -> Iterator[str]:
    """A line for each field but the runner's: name, type, text."""
    texts, required = docs_of(schema), required_fields(schema)
    for name, kind in typing.get_type_hints(schema).items():
        if name not in OWN:
            text = texts.get(name, "")
            yield f"    {name}: {shown(kind)}{'' if name in required else ' or absent'}" + (f"  {text}" if text else "")
