"""A GGUF file as a checkpoint: the same description that a folder has, with what the file keeps in one place."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mlx_interp.loading.cache_folder import cache_folder, read_cache, write_cache
from mlx_interp.loading.checkpoint import Checkpoint
from mlx_interp.loading.configs import normalised
from mlx_interp.loading.fingerprint import CACHE, file_hash
from mlx_interp.loading.gguf.config import config_of
from mlx_interp.loading.gguf.reader import GGUFFile, StoredTensor, read_file
from mlx_interp.loading.gguf.tensors import arrays, is_quantised, places, quantization_of, stored_bytes
from mlx_interp.loading.gguf.tokenizer import Vocabulary, tokenizer_files
from mlx_interp.loading.safetensors_header import TensorInfo


def read_gguf(path: Path) -> Checkpoint:
    """A GGUF file's config and tensors, checked against each other. Raises CheckpointError and UnsupportedModel."""
    file = read_file(path)
    published = published_config(file)
    found = places(file)
    tensors = {place: info_of(file.tensors[name]) for name, place in found.items()}
    return Checkpoint(
        path=path,
        config=normalised(published, tensors.keys()),
        files=(path,),
        tensors=tensors,
        tokenizer=tokenizer_folder(file),
        arrays=lambda: dict(arrays(file)),
    )


def published_config(file: GGUFFile) -> dict[str, Any]:
    """What config.json would say, with the quantisation and the special tokens."""
    config, vocabulary = config_of(file), Vocabulary(file)
    config["eos_token_id"] = vocabulary.ends or None
    for name, key in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        if vocabulary.key(key) is not None:
            config[name] = vocabulary.key(key)
    quantization = quantization_of(file)
    return {**config, "quantization": quantization} if quantization else config


def info_of(tensor: StoredTensor) -> TensorInfo:
    """A tensor as a safetensors header would have it; words of quantised ones count with their scales."""
    dtype = "U32" if is_quantised(tensor) else "F32"
    return TensorInfo(dtype, tensor.shape, stored_bytes(tensor), tensor.start)


def tokenizer_folder(file: GGUFFile) -> Path:
    """A folder with the file's tokenizer, as transformers reads it; made once, kept in the cache.

    Without config.json: by its model_type transformers takes a class that cuts text by a rule of its own, whatever
    tokenizer.json says.
    """
    known = read_cache(CACHE)
    before = len(known)
    folder = cache_folder() / "gguf" / f"{file_hash(file.path, known)[:32]}-{_code()}"
    if len(known) != before:
        write_cache(CACHE, known)
    if (folder / "tokenizer.json").is_file():
        return folder
    contents = tokenizer_files(file)
    with suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_folder(folder, contents)
        return folder
    own = Path(tempfile.mkdtemp(prefix="mlx_interp_gguf_"))  # a cache that cannot be written must not stop a load
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    for name, content in contents.items():
        (own / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return own


def write_folder(folder: Path, contents: dict[str, dict[str, Any]]) -> None:
    """Writes files into a new folder that is seen whole or not at all; one that is there by then is kept."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}"))
    try:
        for name, content in contents.items():
            (temporary / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        with suppress(OSError):
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@cache
def _code() -> str:
    """Which code made a folder: one that was made by other code is not read."""
    found = hashlib.sha256(metadata.version("gguf").encode())
    for path in sorted(Path(__file__).resolve().parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]
