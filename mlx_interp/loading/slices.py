"""Rows of stored tensors, read from a safetensors file by themselves: a process of a split model reads no others.

MLX reads a tensor whole, and rows that are cut from it keep all of it in memory. A header says where in the file a
tensor begins and its rows lie behind each other, so that some of them are a range of bytes, one for each expert. That
holds for a tensor that mlx-lm's class takes as it is stored; one that it transposes, stacks or cuts is read whole, and
goes again once its rows are copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import CheckpointError
from mlx_interp.loading.safetensors_header import AGAIN, ITEM_BYTES, TensorInfo, read_header

READ_AS = {2: np.uint16, 4: np.uint32, 8: np.uint64, 1: np.uint8}
"""By bytes of a number: what it is read as, since NumPy has no bfloat16; the array's own dtype is put on afterwards."""


@dataclass
class Stored:
    """Tensors of files, by the arrays that MLX made of them without reading them."""

    files: Iterable[Path]
    arrays: dict[str, mx.array] = field(default_factory=dict)
    """By name in the files."""
    places: dict[int, tuple[Path, TensorInfo]] = field(default_factory=dict)
    """By the array's id, as long as it is in `arrays`."""

    def note(self, arrays: Mapping[str, mx.array]) -> None:
        """Arrays as mlx-lm's class is given them, by their names in the files."""
        self.arrays |= arrays

    def keep(self, used: Iterable[mx.array]) -> None:
        """Forgets all arrays but those that a model holds as they are stored: what is read of others goes again."""
        held = {id(array) for array in used}
        self.arrays = {name: array for name, array in self.arrays.items() if id(array) in held}
        found = {name: (file, info) for file in self.files for name, info in read_header(file).items()}
        self.places = {id(array): found[name] for name, array in self.arrays.items() if name in found}

    def rows(self, array: mx.array, rows: slice) -> mx.array:
        """Rows (..., row, column) of an array, in memory and without the others.

        Raises CheckpointError where the file cannot be read.
        """
        place = self.places.get(id(array))
        if place is None or place[1].shape != array.shape or place[1].n_bytes != array.nbytes:
            found = mx.contiguous(array[..., rows, :])  # a copy: what is cut out keeps the whole
            mx.eval(found)
            return found
        return _read(*place, rows).view(array.dtype)


def _read(file: Path, info: TensorInfo, rows: slice) -> mx.array:
    """(..., row, column) of a stored tensor as unsigned integers of its width."""
    item, (*before, n_rows, n_columns) = ITEM_BYTES[info.dtype], info.shape
    chosen = range(*rows.indices(n_rows))
    found = np.empty((math.prod(before), len(chosen), n_columns), READ_AS[item])
    try:
        with file.open("rb", buffering=0) as opened:
            for index, part in enumerate(found):
                opened.seek(info.start + item * n_columns * (index * n_rows + chosen.start))
                _fill(opened, memoryview(part.view(np.uint8).reshape(-1).data))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}: {AGAIN}") from error
    made = mx.array(found.reshape(*before, len(chosen), n_columns))
    mx.eval(made)
    return made


def _fill(opened: object, view: memoryview) -> None:
    """Reads as many bytes as a view holds: one call of the system gives 2 GB at most."""
    done = 0
    while done < len(view):
        n = opened.readinto(view[done:])  # type: ignore[attr-defined]
        if not n:
            raise OSError(f"it ends {len(view) - done} bytes too early")
        done += n
