"""The state of a training run as one file, whole or absent: arrays as safetensors, numbers as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mlx_interp.deferred import mx, trees
from mlx_interp.errors import SAEError
from mlx_interp.reporting.files import make_folder, write_atomically


def write_state(path: Path, arrays: dict[str, Any], numbers: dict[str, Any]) -> None:
    """Replace the file in one step. arrays: nested dicts of mlx arrays; numbers: JSON values."""
    make_folder(path.parent)
    # ascontiguousarray: safetensors writes the buffer as it lies, and a transposed one lies the other way round.
    plain = {name: np.ascontiguousarray(np.asarray(value)) for name, value in trees.tree_flatten(arrays)}
    write_atomically(path, save(plain, metadata={"numbers": json.dumps(numbers)}))


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, numbers) as written. Raises SAEError, naming the file, for one that cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            numbers = json.loads(file.metadata()["numbers"])
            arrays = trees.tree_unflatten([(name, mx.array(file.get_tensor(name))) for name in file.keys()])  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise SAEError(f"{path}: no checkpoint of a training run: {error}; delete it to start over") from error
    return dict(arrays), numbers
