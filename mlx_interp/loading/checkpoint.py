"""A checkpoint folder, read and checked before a weight is loaded: config, tokenizer, and the headers of its shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_interp.deferred import mx
from mlx_interp.errors import CheckpointError
from mlx_interp.loading.configs import normalised
from mlx_interp.loading.safetensors_header import TensorInfo, read_header

INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
OTHER_WEIGHTS = ("*.safetensors", "*.npz", "*.bin", "*.pt", "*.pth", "*.gguf")


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose files are all there and whole."""

    path: Path
    config: dict[str, Any]
    """config.json with RoPE settings and missing fields as mlx-lm reads them."""
    files: tuple[Path, ...]
    """The safetensors files, sorted."""
    tensors: dict[str, TensorInfo]
    """Every stored tensor, by the name it has in the files."""
    tokenizer: Path | None = None
    """The folder of the tokenizer, where it is not `path` itself."""
    arrays: Callable[[], dict[str, mx.array]] | None = None
    """Reads the weights, under the names of mlx-lm's model, where the files are no safetensors."""

    @property
    def tokenizer_folder(self) -> Path:
        return self.tokenizer or self.path

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(tensor.n_bytes for tensor in self.tensors.values())

    @property
    def quantization(self) -> str | None:
        """How the weights are stored, e.g. "4-bit, group 64", or None for plain numbers."""
        return describe_quantization(self.config.get("quantization") or self.config.get("quantization_config"))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a folder's config and headers. Raises CheckpointError naming the first file that is missing or broken."""
    stored = read_stored(path)
    return replace(stored, config=_as_read(path, stored.config, stored.tensors.keys()))


def read_stored(path: Path) -> Checkpoint:
    """What a folder holds, with the config as it is written: what it means takes transformers seconds to say."""
    config = _read_config(path)
    files = weight_files(path)
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        found = read_header(file)
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise CheckpointError(f"{file}: {twice[0]!r} is in another file too: remove the files of an older download")
        tensors.update(found)
    return Checkpoint(path, config, files, tensors)


def read_config_alone(path: Path) -> Checkpoint:
    """A folder with config and tokenizer, whose weights are not there, or not all. Raises what read_checkpoint does.

    Where neither config nor an index tells whether the head is its own, it is as transformers' class has it.
    """
    config = _read_config(path)
    names = read_json(path / INDEX).get("weight_map") if (path / INDEX).is_file() else None
    return Checkpoint(path, _as_read(path, config, list(names or ("lm_head.weight",))), (), {})


def _read_config(path: Path) -> dict[str, Any]:
    """config.json, in a folder that has a tokenizer as well."""
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder")
    config = untagged(read_json(path / "config.json", missing="a checkpoint folder has one beside its weights"))
    if config.get("model_file"):
        raise CheckpointError(
            f"{path}: config.json asks to run {config['model_file']!r}: code that comes with a checkpoint is never run"
        )
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(f"{path}: no tokenizer: one of {', '.join(TOKENIZER_FILES)} must be there")
    if (path / "tokenizer.json").is_file():
        read_json(path / "tokenizer.json")
    return dict(config)


def _as_read(path: Path, config: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The config as mlx-lm reads it, with the stop tokens of generation_config.json."""
    fields = normalised(config, names)
    if (stops := _stop_tokens(path)) is not None:
        fields["eos_token_id"] = stops
    return fields


def _stop_tokens(path: Path) -> list[int] | None:
    """The ids that end a text by generation_config.json, which count more than config.json's; None if it names none.

    Raises CheckpointError for a file that cannot be read, and for what is no token id.
    """
    if not (path / GENERATION).is_file():
        return None
    given = read_json(path / GENERATION).get("eos_token_id")
    if given is None:
        return None
    ids = given if isinstance(given, list) else [given]
    if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
        raise CheckpointError(f"{path / GENERATION}: 'eos_token_id' is {given!r}: token ids are needed")
    return ids or None


def read_json(path: Path, *, missing: str = "") -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError when it is missing, not JSON, or not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent}: no {path.name}{': ' if missing else ''}{missing}") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def untagged(value: Any) -> Any:
    """A config's value with the numbers that JSON has no form for: transformers 5 writes {"__float__": "Infinity"}."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity", "NaN"):
            return float(value["__float__"])
        return {key: untagged(one) for key, one in value.items()}
    return [untagged(one) for one in value] if isinstance(value, list) else value


def weight_files(path: Path) -> tuple[Path, ...]:
    """The shards an index lists, or every model*.safetensors. Raises CheckpointError when one is missing."""
    there = {file.name: file for file in sorted(path.glob("model*.safetensors"))}
    if (path / INDEX).is_file():
        weight_map = read_json(path / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{path / INDEX}: no 'weight_map'")
        listed = {str(name) for name in weight_map.values()}
        absent = sorted(name for name in listed if not (path / name).is_file())
        if absent:
            raise CheckpointError(
                f"{path}: {len(absent)} of {len(listed)} files listed in {INDEX} missing, first {absent[0]!r}: "
                "download or copy the folder again"
            )
        there.update({name: path / name for name in listed})
    gguf = [file.name for file in sorted(path.glob("*.gguf"))]
    if there and gguf:
        raise CheckpointError(
            f"{path}: holds {min(there)} and {gguf[0]}, two statements of the weights: give the path of the GGUF file, "
            "or take it out of the folder"
        )
    if gguf:
        raise CheckpointError(f"{path}: no model*.safetensors, but {gguf[0]}: give the path of that file instead")
    if not there:
        others = sorted({file.name for pattern in OTHER_WEIGHTS for file in path.glob(pattern)})
        found = f"found {', '.join(others[:3])}; only safetensors are read: convert with `mlx_lm.convert`"
        raise CheckpointError(f"{path}: no model*.safetensors: {found if others else 'there are no weights here'}")
    return tuple(there[name] for name in sorted(there))


def describe_quantization(settings: Any) -> str | None:
    """A config's quantisation in words: "4-bit, group 64", "mixed 4- and 6-bit, group 64"; None without one."""
    if not isinstance(settings, dict) or not settings:
        return None
    if "bits" not in settings:
        return str(settings.get("quant_method", "quantised"))
    layers = [layer for layer in settings.values() if isinstance(layer, dict) and "bits" in layer]
    bits = sorted({int(entry["bits"]) for entry in (settings, *layers)})
    width = f"{bits[0]}-bit" if len(bits) == 1 else f"mixed {'- and '.join(map(str, bits))}-bit"
    mode = settings.get("mode", "affine")
    return f"{width}{'' if mode == 'affine' else f' {mode}'}, group {settings.get('group_size', 64)}"
