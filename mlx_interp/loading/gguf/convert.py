"""`python -m mlx_interp convert model.gguf OUT`: a GGUF file as a folder that mlx-lm and this package load."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mlx_interp.deferred import mx
from mlx_interp.errors import CheckpointError
from mlx_interp.loading.checkpoint import INDEX
from mlx_interp.loading.gguf.checkpoint import read_gguf
from mlx_interp.loading.gguf.reader import read_file
from mlx_interp.loading.gguf.tensors import arrays

SHARD_BYTES = 4 * 10**9
"""Largest file of weights; a single tensor may exceed it."""


def convert(source: Path, target: Path, *, shard_bytes: int = SHARD_BYTES) -> Path:
    """Writes a new folder with the weights as MLX holds them, config and tokenizer. Nothing is rounded.

    The folder is seen whole or not at all. Raises CheckpointError for one that is there or cannot be written, and what
    reading the file raises.
    """
    if target.exists():
        raise CheckpointError(f"{target} is there already: give a folder that is not")
    checkpoint = read_gguf(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written: {error.strerror or error}") from error
    try:
        for file in checkpoint.tokenizer_folder.iterdir():
            shutil.copyfile(file, temporary / file.name)
        write_json(temporary / "config.json", checkpoint.config)
        write_weights(temporary, source, shard_bytes)
        temporary.chmod(0o755)  # mkdtemp's folders are for one user alone
        os.rename(temporary, target)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{target}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def write_weights(folder: Path, source: Path, shard_bytes: int) -> None:
    """model-*.safetensors and their index; no more than one file's tensors are in memory."""
    shards: list[list[str]] = []
    waiting: dict[str, mx.array] = {}
    held = 0
    for name, array in arrays(read_file(source)):
        if waiting and held + array.nbytes > shard_bytes:
            shards.append(write_shard(folder, len(shards), waiting))
            waiting, held = {}, 0
        waiting[name] = array
        held += array.nbytes
    shards.append(write_shard(folder, len(shards), waiting))
    weight_map = {}
    for number, names in enumerate(shards):
        final = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        os.rename(folder / shard_name(number), folder / final)
        weight_map.update(dict.fromkeys(names, final))
    write_json(folder / INDEX, {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))})


def shard_name(number: int) -> str:
    return f"model-{number}.safetensors"


def write_shard(folder: Path, number: int, weights: dict[str, mx.array]) -> list[str]:
    mx.save_safetensors(str(folder / shard_name(number)), weights, metadata={"format": "mlx"})
    return list(weights)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
