"""The hash of a checkpoint: which weights a result or a saved direction belongs to, wherever the folder lies."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from mlx_interp.errors import CheckpointError
from mlx_interp.loading.cache_folder import read_cache, write_cache

CACHE = "file_hashes.json"
PUBLISHED_NAME = re.compile("[0-9a-f]{64}")


def weights_hash(folder: Path, files: Iterable[Path]) -> str:
    """sha256 (hex) over the bytes of config.json and of every tensor file, with their names but not their folder.

    folder: that of the files, or a GGUF file, which is all of a checkpoint: then the sha256 of its bytes.
    Files that have not changed (path, size, modification time) since they were last hashed are not read again.
    """
    known = read_cache(CACHE)
    before = len(known)
    found = file_hash(folder, known) if folder.is_file() else _hash_of_all([folder / "config.json", *files], known)
    if len(known) != before:
        write_cache(CACHE, known)
    return found


def _hash_of_all(files: Iterable[Path], known: dict[str, str]) -> str:
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path.name}\0{file_hash(path, known)}\n".encode())
    return total.hexdigest()


def check_published_hashes(files: Iterable[Path]) -> None:
    """Compare files of the Hub's cache with the hashes they were published under; other files pass.

    The cache stores a large file under its sha256, as the Hub gave it, and links to it. Raises CheckpointError.
    """
    known = read_cache(CACHE)
    before = len(known)
    for path in files:
        stored = path.resolve()
        if PUBLISHED_NAME.fullmatch(stored.name) and file_hash(path, known) != stored.name:
            raise CheckpointError(f"{path}: its hash is not the published one: remove {stored} and download again")
    if len(known) != before:
        write_cache(CACHE, known)


def file_hash(path: Path, known: dict[str, str]) -> str:
    """sha256 (hex) of one file's bytes; `known` is looked in first, and added to."""
    try:
        facts = path.stat()
        key = f"{os.path.realpath(path)}:{facts.st_size}:{facts.st_mtime_ns}"
        if key not in known:
            with path.open("rb") as file:
                known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    return known[key]
