"""Remembered self-checks: one that passed is not repeated while nothing has changed."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

from mlx_interp.architectures import PACKAGED
from mlx_interp.deferred import mx
from mlx_interp.loading.cache_folder import read_cache, write_cache
from mlx_interp.model import Model

CACHE = "self_checks.json"
PACKAGE = Path(__file__).resolve().parents[1]


def check_once(model: Model) -> None:
    """`Model.self_check`, unless this very model passed it before. Raises CheckpointError."""
    if model.family not in PACKAGED:  # a registered description may change from one run to the next
        model.self_check()
        return
    key = _key(model)
    known = read_cache(CACHE)
    if key in known:
        return
    model.self_check()
    write_cache(CACHE, {**known, key: model.name})


def _key(model: Model) -> str:
    facts = [model.weights_hash, str(model.network.dtype), layer_classes(model), str(mx.default_device()), _code()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def layer_classes(model: Model) -> str:
    """The classes of the first layer's parts: quantised or dense."""
    return ",".join(sorted({type(module).__name__ for _, module in model.network.layers[0].named_modules()}))


@cache
def _code() -> str:
    """Versions of MLX and mlx-lm, and the engine's own source."""
    found = hashlib.sha256("".join(metadata.version(name) for name in ("mlx", "mlx-lm")).encode())
    for path in [*sorted((PACKAGE / "architectures").glob("*.py")), *sorted((PACKAGE / "engine").glob("*.py"))]:
        found.update(path.read_bytes())
    return found.hexdigest()
