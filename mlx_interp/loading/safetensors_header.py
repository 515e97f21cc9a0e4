"""Headers of safetensors files, read and checked without reading a tensor.

A file is eight bytes (length of the header, little-endian), the header (JSON: name, dtype, shape and byte range of
each tensor), then the tensors' bytes. A download that was cut shows here: the ranges end beyond the file.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_interp.errors import CheckpointError

MAX_HEADER = 100_000_000
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
AGAIN = "download or copy the file again"


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    start: int
    """Where in the file its bytes begin."""


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors of a file by name. Raises CheckpointError when the file is truncated or its header makes no sense."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= MAX_HEADER:
                raise CheckpointError(f"{path}: no safetensors header ({size} bytes): {AGAIN}")
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(raw) < length:
        raise CheckpointError(f"{path}: truncated inside its header ({size} bytes): {AGAIN}")
    try:
        entries = json.loads(raw)
        tensors = {name: _tensor(entry, 8 + length) for name, entry in entries.items() if name != "__metadata__"}
        ends = [entries[name]["data_offsets"][1] for name in tensors]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise CheckpointError(f"{path}: its header is corrupted: {AGAIN}") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        fault = "truncated" if size < expected else "longer than its header says"
        raise CheckpointError(f"{path}: {fault}: {size:,} bytes, {expected:,} expected: {AGAIN}")
    return tensors


def _tensor(entry: dict[str, Any], data_start: int) -> TensorInfo:
    """One entry of a header. Raises ValueError when its byte range does not fit its dtype and shape."""
    begin, end = entry["data_offsets"]
    shape = tuple(int(n) for n in entry["shape"])
    item = ITEM_BYTES.get(entry["dtype"])
    if begin < 0 or end < begin or (item is not None and end - begin != item * math.prod(shape)):
        raise ValueError("byte range does not fit dtype and shape")
    return TensorInfo(entry["dtype"], shape, end - begin, data_start + begin)
