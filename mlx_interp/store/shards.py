"""One shard: a safetensors file, whole or absent, and its tensors mapped into memory.

Beside one tensor for each site, (rows, ...), a shard holds what its rows are: `tokens`, `positions` and `samples`.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from mlx_interp.errors import CheckpointError, ConfigError, nearest
from mlx_interp.loading.safetensors_header import read_header
from mlx_interp.reporting.files import writing

CODES: dict[str, tuple[str, Any]] = {
    "float32": ("F32", np.float32),
    "bfloat16": ("BF16", np.uint16),  # numpy has no bfloat16: its bits
    "float16": ("F16", np.float16),
    "int32": ("I32", np.int32),
    "int64": ("I64", np.int64),
}
DTYPES = ("float32", "bfloat16", "float16")
"""What activations can be stored in."""
CHUNK = 2**23
"""Bytes read at once to check a file."""
ROWS = {"samples": "int64", "tokens": "int32", "positions": "int32"}
"""What every row says of itself: number of its sample, its token, its position in the sample."""


def check_dtype(dtype: str) -> str:
    """Raises ConfigError for a dtype that activations are not stored in."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r}: {nearest(dtype, DTYPES)}stores hold {', '.join(DTYPES)}")
    return dtype


def item_bytes(dtype: str) -> int:
    return int(np.dtype(CODES[dtype][1]).itemsize)


def write_shard(
    path: Path, tensors: Mapping[str, tuple[str, np.ndarray]], metadata: Mapping[str, str]
) -> tuple[int, str]:
    """Write (dtype, array) by name; returns bytes and checksum. The file is there whole, on disk, or not at all.

    Raises RunError where it cannot be written or the disk is full; nothing is left behind then.
    """
    # Wide items first, so that every tensor begins at a multiple of its item's size and can be mapped as it is.
    ordered = sorted(tensors.items(), key=lambda item: -item_bytes(item[1][0]))
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, array) in ordered:
        begin, end = end, end + array.nbytes
        entries[name] = {"dtype": CODES[dtype][0], "shape": list(array.shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        try:
            with open(partial, "wb") as file:
                crc = _written(file, len(header).to_bytes(8, "little") + header, 0)
                for _, (_, array) in ordered:
                    crc = _written(file, np.ascontiguousarray(array).data.cast("B") if array.size else b"", crc)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            _sync_folder(path.parent)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    return 8 + len(header) + end, _named(crc)


def checksum_of(path: Path) -> str:
    """What `write_shard` returned for a file, from its bytes as they are now. Raises CheckpointError if unreadable."""
    crc = 0
    try:
        with path.open("rb") as file:
            while part := file.read(CHUNK):
                crc = zlib.crc32(part, crc)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return _named(crc)


def check_bytes(path: Path, checksum: str) -> None:
    """Raises CheckpointError unless a file's bytes are those that were written; "" is a store from before checksums."""
    if checksum and (found := checksum_of(path)) != checksum:
        raise CheckpointError(
            f"{path}: its bytes are not those that were written ({found} now, {checksum} then): the disk or a copy "
            "changed it"
        )


def _written(file: IO[bytes], data: bytes | memoryview, crc: int) -> int:
    file.write(data)
    return zlib.crc32(data, crc)


def _named(crc: int) -> str:
    return f"crc32:{crc:08x}"


def map_shard(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors of a shard as views of one memory map, as they are stored, and its metadata.

    Raises CheckpointError when the file is missing, truncated or corrupted.
    """
    tensors = read_header(path)
    dtypes = dict(CODES.values())
    with path.open("rb") as file:
        metadata = json.loads(file.read(int.from_bytes(file.read(8), "little"))).get("__metadata__", {})
    mapped = np.memmap(path, mode="r", dtype=np.uint8)
    views = {
        name: mapped[info.start : info.start + info.n_bytes].view(dtypes[info.dtype]).reshape(info.shape)
        for name, info in tensors.items()
    }
    return views, metadata


def decoded(stored: np.ndarray, scale: float) -> np.ndarray:
    """Stored rows as float32: of float32 a view, of bfloat16 its exact values, of float16 times the site's scale."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if stored.dtype == np.float16:
        return stored.astype(np.float32) * np.float32(scale)
    return stored


def float16_scale(largest: float) -> float:
    """A power of two that brings the largest magnitude below 2^15: no overflow, and small values keep their bits."""
    return float(2.0 ** np.ceil(np.log2(largest / 2**15))) if largest > 0 else 1.0


def _sync_folder(folder: Path) -> None:
    """A renamed file survives a power cut once its folder is on disk as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
