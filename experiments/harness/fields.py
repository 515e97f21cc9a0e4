"""Fields of a Config dataclass: their texts, read from the source, and values for them from text or YAML."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union

from mlx_interp.errors import ConfigError, nearest

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class ConfigField:
    """A field as options see it."""

    name: str
    kind: Any
    """Its type: Literal, int, float, str, bool, a tuple of one of these, or any of them or None."""
    default: Any
    doc: str

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def metavar(self) -> str:
        return expected(self.kind, brief=True)

    @property
    def default_text(self) -> str:
        """The default as one would give it on a command line."""
        return as_text(self.default)


def config_fields(config: type) -> dict[str, ConfigField]:
    """All fields by name, those of base classes first. Raises TypeError for a field without default, type or text."""
    hints = typing.get_type_hints(config)
    docs = {name: doc for cls in reversed(config.__mro__) if cls is not object for name, doc in _docs(cls)}
    fields = {}
    for field in dataclasses.fields(config):
        if field.default is dataclasses.MISSING:
            raise TypeError(f"{config.__qualname__}.{field.name}: a field needs a default that is not a factory")
        if field.name not in docs:
            raise TypeError(f"{config.__qualname__}.{field.name}: write a string below the field: it is its --help")
        _check_kind(hints[field.name], f"{config.__qualname__}.{field.name}")
        fields[field.name] = ConfigField(field.name, hints[field.name], field.default, docs[field.name])
    return fields


def docs_of(cls: type) -> dict[str, str]:
    """The text below each field of a class, and of the classes that its source names as its bases."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except OSError:
        return {}  # made by a call, as a TypedDict is whose names have spaces
    assert isinstance(body, ast.ClassDef)
    known = vars(sys.modules[cls.__module__])  # a TypedDict does not remember its bases
    bases = [known.get(base.id) for base in body.bases if isinstance(base, ast.Name) and base.id != "TypedDict"]
    texts = {name: text for base in bases if isinstance(base, type) for name, text in docs_of(base).items()}
    return texts | dict(_docs(cls))


def _docs(cls: type) -> Iterator[tuple[str, str]]:
    """The string literal that follows each annotated field in the source of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, text in zip(body.body, body.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                yield name, " ".join(doc.split())


def from_text(text: str, kind: Any, where: str) -> Any:
    """A value from a command line. Raises ConfigError that says what was expected."""
    inner, optional = _unwrapped(kind)
    if optional and text.lower() in ("none", "null"):
        return None
    if typing.get_origin(inner) is tuple:
        element = typing.get_args(inner)[0]
        return tuple(from_text(part.strip(), element, where) for part in text.split(",") if part.strip())
    if typing.get_origin(inner) is Literal:
        for choice in typing.get_args(inner):
            if text == str(choice):
                return choice
        choices = [str(choice) for choice in typing.get_args(inner)]
        raise ConfigError(f"{where}: {text!r} is none of {', '.join(choices)}. {nearest(text, choices)}".strip())
    if inner is bool and text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    try:
        if inner in (int, str) or (inner is float and math.isfinite(float(text))):
            return inner(text)
    except ValueError:
        pass
    raise ConfigError(f"{where}: {text!r} is not {expected(kind)}")


def from_value(value: Any, kind: Any, where: str) -> Any:
    """A value from YAML, which knows types already. Raises ConfigError that says what was expected."""
    inner, optional = _unwrapped(kind)
    if value is None and optional:
        return None
    if typing.get_origin(inner) is tuple and isinstance(value, list):
        return tuple(from_value(part, typing.get_args(inner)[0], where) for part in value)
    if typing.get_origin(inner) is Literal:
        for choice in typing.get_args(inner):
            if value == choice and type(value) is type(choice):
                return choice
    if inner is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if inner in (bool, int, str) and type(value) is inner:
        return value
    raise ConfigError(f"{where}: {value!r} is not {expected(kind)}")


def expected(kind: Any, *, brief: bool = False) -> str:
    """A type in words, or as a metavar."""
    inner, optional = _unwrapped(kind)
    if typing.get_origin(inner) is Literal:
        choices = [str(choice) for choice in typing.get_args(inner)]
        return "|".join(choices) if brief else f"one of {', '.join(choices)}"
    if typing.get_origin(inner) is tuple:
        element = typing.get_args(inner)[0]
        return f"{expected(element, brief=True)},..." if brief else f"a list (a,b,c) of {expected(element, brief=True)}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    text = {int: "N", float: "X", str: "TEXT", bool: "true|false"}[inner] if brief else names[inner]
    return text if brief or not optional else f"{text}, or none"


def _unwrapped(kind: Any) -> tuple[Any, bool]:
    """The type without None, and whether None is allowed."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        rest = [part for part in typing.get_args(kind) if part is not type(None)]
        return rest[0] if len(rest) == 1 else kind, True
    return kind, False


def _check_kind(kind: Any, where: str) -> None:
    inner, _ = _unwrapped(kind)
    if typing.get_origin(inner) is tuple:
        element, *rest = typing.get_args(inner)
        if rest != [Ellipsis]:
            raise TypeError(f"{where}: write tuple[{getattr(element, '__name__', element)}, ...], not {inner}")
        inner = element
    if inner not in (bool, int, float, str) and typing.get_origin(inner) is not Literal:
        raise TypeError(f"{where}: {kind} is not a type of a field; see experiments/README.md")


def as_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(as_text, value)) if isinstance(value, tuple) else str(value)
