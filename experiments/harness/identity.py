"""What makes a run this run and no other, and what is recorded about the machine it ran on."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import importlib.metadata
import json
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.harness.code import code_digest
from experiments.harness.experiment import ConfigT, Experiment
from experiments.harness.options import as_values
from mlx_interp.deferred import mx

DECIDING = ("mlx-interp", "mlx", "mlx-lm")
"""Packages whose version can change a measured number."""
RECORDED = (*DECIDING, "numpy", "scipy", "transformers", "matplotlib", "pyarrow")


def identity_of(experiment: Experiment[ConfigT], config: ConfigT, model: Any, items: Sequence[Any]) -> dict[str, Any]:
    """Everything that two sessions must share for their records to be of one run. Its names are shown to users."""
    found = versions()
    return {
        "config": as_values(config),
        "weights": model.weights_hash,
        "quantization": model.quantization,
        "device": device(),
        "versions": {name: found[name] for name in DECIDING if name in found},
        "code": code_digest(experiment.source),
        "items": f"{len(items)}, {_digest(items)}",
    }


def model_facts(model: Any) -> dict[str, Any]:
    """The model, for run.json."""
    return {
        "name": model.name,
        "id": model.model_id,
        "weights_hash": model.weights_hash,
        "quantization": model.quantization,
        "family": getattr(model, "family", None),
        "layers": getattr(model, "n_layers", None),
        "parameters": getattr(model, "n_parameters", None),
        "ignored_config": list(getattr(model, "ignored_config", ())),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # run from a folder without installation, or a package that this set-up does without
    return found


def device() -> str:
    """Processor, and MLX's default device."""
    # Asked whether or not anything has brought MLX in: one run has one device, planned, looked up or measured.
    return f"{platform.system()} {platform.machine()}, {mx.default_device()}"


def peak_memory(earlier: Mapping[str, int]) -> dict[str, int]:
    """Peak memory in bytes, of the process and of MLX's allocator: the greater of now and an earlier session."""
    factor = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in kilobytes
    now = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor}
    mlx = sys.modules.get("mlx.core")
    if mlx is not None:
        now["mlx"] = mlx.get_peak_memory()
    return {name: max(size, earlier.get(name, 0)) for name, size in now.items()}


def release_memory() -> None:
    """Give back what the last model held, before the next one is loaded."""
    gc.collect()
    mlx = sys.modules.get("mlx.core")
    if mlx is not None:
        mlx.clear_cache()


def _digest(items: Sequence[Any]) -> str:
    """A hash over keys and contents: an edited data file of the same name is other data."""
    digest = hashlib.sha256()
    for item in items:
        content = dataclasses.asdict(item) if dataclasses.is_dataclass(item) and not isinstance(item, type) else {}
        digest.update(json.dumps([item.key, content], sort_keys=True, default=repr).encode())
    return digest.hexdigest()[:16]
