"""A collection as a YAML file: model, inference, data, output. Every mistake is named with its line.

model:
  name: llama-2-7b
  activation_layers: [residuals_0, residuals_10-21]   # residuals_N is what goes into layer N; `all` is every layer
  torch_dtype: float16                                # what is stored; the model computes as its device does best
inference: {batch_size: 4, max_new_tokens: 20, positions: last}
data: {path: bench-llm/or-bench, subset: or-bench-toxic, categories: [], category_balance_strategy: equalize}
output: {result_dir: stores}
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from mlx_interp.errors import ConfigError, MlxInterpError, SiteError, nearest
from mlx_interp.loading.names import resolve
from mlx_interp.sites import parse
from mlx_interp.store.positions import parse_rule
from mlx_interp.store.rows import Balance
from mlx_interp.store.shards import check_dtype

REQUIRED = {"model": ("name", "activation_layers"), "inference": ("positions",), "data": ("path",)}
IGNORED = {
    "device": "MLX computes on its default device",
    "trust_remote_code": "no code of a repository is ever run",
    "cache_dir": "the Hub's own cache is used (HF_HOME)",
}
POSITION_NAMES = {"prompt_last": "last", "prompt_all": "all"}
ANY_DEPTH = 1000
"""Layers that a model may have whose depth is not known before it is loaded."""


class Placed(str):
    """A text that remembers where it stands."""

    place: str = ""


@dataclass(frozen=True)
class CollectionConfig:
    """What is collected, from which data, and where it goes: the fields of a file, and of exp16."""

    activation_layers: tuple[str, ...] = ()
    """Sites in the layer grammar: residuals_0, residuals_10-21, mlp_all, attention_5, z.3; from a file each knows its
    line (`Placed`)."""
    positions: str = "all"
    """Positions stored: all, last, no_bos, content, generated, numbers (-2,-1) or a slice (-4:)."""
    max_new_tokens: int = 0
    """Tokens to generate after each prompt, whose positions are stored as well."""
    dtype: str = "float32"
    """What is stored: float32, bfloat16, or float16 with a scale for every site and shard."""
    batch_size: int = 0
    """Prompts a pass; 0: 512 tokens on CPU, 4096 else."""
    path: str = ""
    """Data: a CSV, JSON Lines or parquet file, or a data set of the Hub (owner/name)."""
    subset: str = ""
    """Part of the names of the Hub's files that are meant, e.g. or-bench-toxic."""
    split: str = ""
    """The same for the split, e.g. train."""
    text_column: str = ""
    """Column of the prompts; found by its usual names."""
    category_column: str = ""
    """Column of the categories; found by its usual names."""
    chat: bool = True
    """Prompts of files are users' turns, for the chat template."""
    categories: tuple[str, ...] = ()
    """Categories to keep; none: all."""
    category_balance_strategy: Balance = "use_all"
    """use_all, or equalize: of each category as many as the rarest has, drawn by the seed."""
    result_dir: str = "stores"
    """Folder of the stores: <result_dir>/<model>/<preset>."""


@dataclass(frozen=True)
class CollectionFile:
    """A collection, as its file states it."""

    model: str
    config: CollectionConfig


SECTIONS: dict[str, tuple[str, ...]] = {
    "model": ("activation_layers",),
    "inference": ("batch_size", "max_new_tokens", "positions"),
    "data": (
        *("path", "subset", "split", "text_column", "category_column", "chat", "categories"),
        "category_balance_strategy",
    ),
    "output": ("result_dir",),
}
"""Where a file has each field of `CollectionConfig`; `dtype` is torch_dtype there."""
FILES_OWN: dict[str, dict[str, type]] = {
    "model": {"name": str, "torch_dtype": str, "device": str, "trust_remote_code": bool, "cache_dir": str},
    "inference": {"save_activations": bool},
}


def _types() -> dict[str, dict[str, type]]:
    """Type of every field of a file, by section."""
    hints = get_type_hints(CollectionConfig)
    plain: dict[str, type] = {
        name: list if get_origin(hint) is tuple else str if get_origin(hint) is Literal else hint
        for name, hint in hints.items()
    }
    return {
        section: {**FILES_OWN.get(section, {}), **{name: plain[name] for name in names}}
        for section, names in SECTIONS.items()
    }


FIELDS = _types()


@dataclass(frozen=True)
class Value:
    """A value of the file and its line."""

    value: Any
    line: int
    lines: tuple[int, ...] = field(default=())
    """Of a list's elements."""


def read_collection(path: Path) -> CollectionFile:
    """A collection from a file. Raises ConfigError with file and line for all that can be known without the model."""
    sections = read_sections(path)
    for section, names in REQUIRED.items():
        for name in names:
            if name not in sections.get(section, {}):
                raise ConfigError(f"{path}: {section}.{name} is missing{_why(name)}")
    for name, reason in IGNORED.items():
        if name in sections["model"]:
            at = f"{path}, line {sections['model'][name].line}"
            warnings.warn(f"{at}: model.{name} is not needed here: {reason}", UserWarning, stacklevel=2)
    inference, data, output = (sections.get(name, {}) for name in ("inference", "data", "output"))
    if "save_activations" in inference and not inference["save_activations"].value:
        line = inference["save_activations"].line
        raise ConfigError(
            f"{path}, line {line}: save_activations: false leaves nothing to collect; --dry-run saves nothing"
        )
    plain: dict[str, Any] = {
        name: value.value
        for name, value in {**inference, **data, **output}.items()
        if name not in ("save_activations", "categories", "positions")
    }
    model = sections["model"]
    name = str(model["name"].value)
    config = CollectionConfig(
        **_checked(plain, path, {**inference, **data}),
        dtype=_stored(model.get("torch_dtype"), path),
        positions=_positions(inference["positions"], path),
        activation_layers=_layers(model["activation_layers"], path, depth_of(name)),
        categories=tuple(map(str, data["categories"].value)) if "categories" in data else (),
    )
    return CollectionFile(name, config)


def read_sections(path: Path) -> dict[str, dict[str, Value]]:
    """Sections and fields of a file, types checked. Raises ConfigError."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    found: dict[str, dict[str, Value]] = {}
    for section, node in _pairs(root, f"{path}"):
        at = f"{path}, line {section.start_mark.line + 1}"
        if section.value not in FIELDS:
            hint = nearest(section.value, FIELDS)
            raise ConfigError(f"{at}: no section {section.value!r}: {hint}sections are {', '.join(FIELDS)}")
        fields = FIELDS[section.value]
        found[section.value] = {}
        for name, value in _pairs(node, at):
            line = name.start_mark.line + 1
            if name.value not in fields:
                hint = nearest(name.value, fields)
                raise ConfigError(
                    f"{path}, line {line}: {section.value} has no field {name.value!r}: {hint}"
                    f"fields are {', '.join(fields)}"
                )
            read = loader.construct_object(value, deep=True)
            if fields[name.value] is list and isinstance(read, str):
                read = [read]
            if type(read) is not fields[name.value]:
                words = {list: "a list", str: "text", int: "a whole number", bool: "true or false"}
                raise ConfigError(
                    f"{path}, line {line}: {section.value}.{name.value} is {words[fields[name.value]]}, not {read!r}"
                )
            inside = value.value if isinstance(value, yaml.SequenceNode) else [value]
            lines = tuple(part.start_mark.line + 1 for part in inside) if isinstance(read, list) else ()
            found[section.value][name.value] = Value(read, line, lines)
    return found


def check_layers(layers: Sequence[str], n_layers: int) -> None:
    """Raises ConfigError, with the place where there is one, for a selector that names no site of such a model."""
    for selector in layers:
        try:
            parse(selector, n_layers)
        except SiteError as error:
            place = getattr(selector, "place", "")
            raise ConfigError(f"{place}: {error}" if place else str(error)) from error


def depth_of(model: str) -> int:
    """Layers of a model, as far as its name tells; ANY_DEPTH for one that has yet to be downloaded."""
    try:
        source = resolve(model)
        if source.known is not None:
            return source.known.n_layers
        config = json.loads((source.path / "config.json").read_text(encoding="utf-8")) if source.path else {}
    except (MlxInterpError, OSError, ValueError):
        return ANY_DEPTH
    return int(config.get("num_hidden_layers") or config.get("n_layer") or ANY_DEPTH)


def _layers(value: Value, path: Path, n_layers: int) -> tuple[str, ...]:
    if not value.value:
        raise ConfigError(f"{path}, line {value.line}: activation_layers is empty: give 'all', or residuals_0, ...")
    placed = []
    for text, line in zip(value.value, value.lines, strict=True):
        selector = Placed(text)
        selector.place = f"{path}, line {line}"
        placed.append(selector)
    check_layers(placed, n_layers)
    return tuple(placed)


def _positions(value: Value, path: Path) -> str:
    name = POSITION_NAMES.get(value.value, value.value)
    try:
        parse_rule(name)
    except ConfigError as error:
        raise ConfigError(f"{path}, line {value.line}: {error}") from error
    return str(name)


def _stored(value: Value | None, path: Path) -> str:
    if value is None or value.value == "auto":
        return "float32"
    try:
        return check_dtype(value.value.removeprefix("torch."))
    except ConfigError as error:
        raise ConfigError(f"{path}, line {value.line}: torch_dtype: {error}") from error


def _checked(values: dict[str, Any], path: Path, places: Mapping[str, Value]) -> dict[str, Any]:
    strategy = values.get("category_balance_strategy", "use_all")
    if strategy not in get_args(Balance):
        line = places["category_balance_strategy"].line
        raise ConfigError(
            f"{path}, line {line}: category_balance_strategy {strategy!r}: {nearest(strategy, get_args(Balance))}"
            "give use_all or equalize"
        )
    for name, least in (("batch_size", 1), ("max_new_tokens", 0)):
        if name in values and values[name] < least:
            raise ConfigError(f"{path}, line {places[name].line}: {name} is {least} or more, not {values[name]}")
    return values


def _pairs(node: yaml.Node | None, where: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{where}: expected `name: value` lines of the sections {', '.join(FIELDS)}")
    return list(node.value)


def _why(name: str) -> str:
    if name == "positions":
        return ": say which are stored: last (of the prompt), all, no_bos, content, generated, numbers or a slice"
    return ""
