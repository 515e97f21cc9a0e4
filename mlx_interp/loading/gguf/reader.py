"""Header of a GGUF file: metadata and where each tensor lies, checked against the size of the file.

Types, block sizes and dequantisation are those of the `gguf` package (ggml-org). Its own reader takes a quarter of a
minute for a vocabulary of 262,144 tokens, since it keeps each string as an array, so the header is read here; a test
compares both.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from mlx_interp.errors import CheckpointError

MAGIC, VERSIONS = b"GGUF", (2, 3)
AGAIN = "copy or download the file again"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type numbers of metadata values, as struct spells them; 8 is a string, 9 an array."""
STRING, ARRAY = 8, 9
MAX_DIMENSIONS = 4
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: where its blocks are, not what they hold."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    """Rows first, as numpy and MLX have it; GGUF itself writes the fastest axis first."""
    n_bytes: int
    start: int
    """Where in the file its blocks begin."""


@dataclass(frozen=True)
class GGUFFile:
    """A file whose header makes sense and whose tensors lie inside it."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def blocks(self, name: str) -> npt.NDArray[Any]:
        """The bytes of a tensor, (rows, bytes of a row), mapped from the file and read when they are touched."""
        tensor = self.tensors[name]
        raw = np.memmap(self.path, np.uint8, "r", tensor.start, (tensor.n_bytes,))
        return raw.reshape(math.prod(tensor.shape[:-1]), -1)


def read_file(path: Path) -> GGUFFile:
    """Metadata and tensors of a GGUF file. Raises CheckpointError for one that is foreign, split or not whole."""
    refuse_part(path, 0)
    try:
        size = path.stat().st_size
        if size < 24:
            raise CheckpointError(f"{path}: no GGUF file: {size} bytes: {AGAIN}")
        data = np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    cursor = Cursor(path, data)
    n_tensors, n_values = read_start(cursor)
    metadata: dict[str, Any] = {}
    for _ in range(n_values):
        key = cursor.string("a metadata key")
        if key in metadata:
            raise CheckpointError(f"{path}: metadata key {key!r} is there twice: the file was badly written")
        metadata[key] = cursor.value(cursor.number("I", key), key)
    refuse_part(path, metadata.get("split.count", 0))
    found = [read_tensor(cursor) for _ in range(n_tensors)]
    return GGUFFile(path, metadata, place(found, cursor, metadata))


def refuse_part(path: Path, n_parts: int) -> None:
    """Raises CheckpointError for one of several files that make up a model."""
    part = PART.search(path.name)
    n_parts = max(int(n_parts), int(part[2]) if part else 0)
    if n_parts > 1:
        raise CheckpointError(
            f"{path}: one of {n_parts} parts of a split model: join them with `llama-gguf-split --merge` and load that"
        )


def read_start(cursor: Cursor) -> tuple[int, int]:
    """Number of tensors and of metadata values, behind magic and version."""
    magic = bytes(cursor.take(4, "its first bytes"))
    if magic != MAGIC:
        raise CheckpointError(f"{cursor.path}: no GGUF file: begins with {magic!r}, not with {MAGIC!r}")
    version = cursor.number("I", "version")
    if version and version & 0xFFFF == 0:
        raise CheckpointError(f"{cursor.path}: written big-endian, for other processors: take the little-endian file")
    if version not in VERSIONS:
        raise CheckpointError(
            f"{cursor.path}: GGUF version {version}: versions {VERSIONS[0]} and {VERSIONS[1]} are read"
        )
    return cursor.number("Q", "number of tensors"), cursor.number("Q", "number of metadata values")


Found = tuple[str, tuple[int, ...], int, int]
"""Name, dimensions (fastest first), type number and offset of a tensor, as its header has them."""


def read_tensor(cursor: Cursor) -> Found:
    name = cursor.string("a tensor's name")
    n_dimensions = cursor.number("I", name)
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise CheckpointError(f"{cursor.path}: {name} has {n_dimensions} dimensions, 1 to {MAX_DIMENSIONS} are known")
    dimensions = tuple(cursor.number("Q", name) for _ in range(n_dimensions))
    return name, dimensions, cursor.number("I", name), cursor.number("Q", name)


def place(found: list[Found], cursor: Cursor, metadata: dict[str, Any]) -> dict[str, StoredTensor]:
    """Tensors by name, with the bytes they take. Raises CheckpointError for a type or a place that cannot be."""
    path, alignment = cursor.path, metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(f"{path}: general.alignment {alignment!r} is no power of two")
    begin = -(-cursor.at // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    for name, dimensions, number, offset in found:
        if name in tensors:
            raise CheckpointError(f"{path}: tensor {name!r} is there twice: the file was badly written")
        kind = kind_of(path, name, number)
        n_weights, n_bytes = GGML_QUANT_SIZES[kind]
        if dimensions[0] % n_weights:
            raise CheckpointError(
                f"{path}: {name}: rows of {dimensions[0]} are no whole blocks of {n_weights} ({kind.name})"
            )
        size = math.prod(dimensions) // n_weights * n_bytes
        if begin + offset + size > len(cursor.data):
            raise CheckpointError(
                f"{path}: truncated: {name} ends at byte {begin + offset + size:,} of {len(cursor.data):,}: {AGAIN}"
            )
        tensors[name] = StoredTensor(name, kind, dimensions[::-1], size, begin + offset)
    return tensors


def kind_of(path: Path, name: str, number: int) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(number)
    except ValueError as error:
        raise CheckpointError(
            f"{path}: {name} is of type {number}, which the installed gguf package does not know: a newer one may"
        ) from error


@dataclass
class Cursor:
    """A place in a file's bytes that moves as values are read. Reading beyond the end raises CheckpointError."""

    path: Path
    data: npt.NDArray[Any]
    at: int = 0

    def take(self, n_bytes: int, what: str) -> memoryview:
        end = self.at + n_bytes
        if end > len(self.data):
            raise CheckpointError(
                f"{self.path}: truncated inside its header, at {what} ({len(self.data):,} bytes): {AGAIN}"
            )
        part = self.data[self.at : end].data
        self.at = end
        return part

    def number(self, code: str, what: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}"), what))[0]

    def string(self, what: str) -> str:
        raw = bytes(self.take(self.number("Q", what), what))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path}: {what}: {raw[:40]!r} is no UTF-8: the file is damaged") from error

    def value(self, kind: int, key: str) -> Any:
        """A metadata value: a number, a string, or a list of either."""
        if kind != ARRAY:
            return self._reader(kind, key)()
        kind, count = self.number("I", key), self.number("Q", key)
        if kind in SCALARS:
            code = SCALARS[kind]
            raw = self.take(count * struct.calcsize(f"<{code}"), key)
            return list(struct.unpack(f"<{count}{code}", raw))
        read = self._reader(kind, key)
        self._refuse_count(count, key)
        return [read() for _ in range(count)]

    def _reader(self, kind: int, key: str) -> Callable[[], Any]:
        if kind == STRING:
            return lambda: self.string(key)
        if kind not in SCALARS:
            raise CheckpointError(f"{self.path}: metadata key {key!r} is of type {kind}, which GGUF does not have")
        return lambda: self.number(SCALARS[kind], key)

    def _refuse_count(self, count: int, key: str) -> None:
        if count * 8 > len(self.data) - self.at:  # a string takes eight bytes at least
            raise CheckpointError(f"{self.path}: truncated inside its header, at {key} ({count:,} entries): {AGAIN}")
