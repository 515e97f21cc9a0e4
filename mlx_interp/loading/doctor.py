"""Diagnosis of this machine: what it computes with, how fast, and what would make it faster."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_interp.architectures import ignored_keys
from mlx_interp.deferred import huggingface_hub, mx
from mlx_interp.engine.memory import free_memory
from mlx_interp.errors import CheckpointError
from mlx_interp.loading.blas import blas_status, install_hint
from mlx_interp.loading.checkpoint import Checkpoint, read_stored
from mlx_interp.loading.hub import cached_folder
from mlx_interp.loading.names import EMBEDDED, MODELS, Source, resolve
from mlx_interp.loading.open import open_checkpoint
from mlx_interp.loading.packaged import PACKAGED_MODELS
from mlx_interp.loading.profile import SHARE_OF_FREE_MEMORY, gigabytes, on_cpu
from mlx_interp.loading.speed import MATMUL, READING, Speed, measured_speeds

PACKAGES = ("mlx", "mlx-lm", "mlx-interp", "numpy", "transformers", "huggingface_hub", "torch")
SLOW_GFLOPS = 20
"""Float32 matmul below this means MLX's reference BLAS; any tuned one reaches more on a single core."""
DENSE_BITS = 32
"""Bits per weight of a model that computes dequantised in float32, as on CPU."""


@dataclass(frozen=True)
class Need:
    """A model, and what running it here takes."""

    name: str
    n_layers: int | None
    cached: bool
    stored_bytes: float | None
    """Weights as stored; what a GPU computes with."""
    dense_bytes: float | None
    """Weights in float32; what a CPU computes with when they fit."""
    quantized: bool = True
    where: str = ""
    """The Hub id, or what kind of name it is."""
    config: Mapping[str, Any] | None = None
    """Its config.json, where that is here."""

    @property
    def ignored(self) -> tuple[str, ...]:
        """Keys of its config.json that mean nothing to transformers' class of its type, and nothing here."""
        return ignored_keys(dict(self.config)) if self.config is not None else ()

    def fits(self) -> str:
        """ "yes", "slowly" (on CPU with `memory="low"`), "no", or "?" when the size is not known."""
        room = free_memory() * SHARE_OF_FREE_MEMORY
        if self.stored_bytes is None:
            return "?"
        if not on_cpu():
            return "yes" if self.stored_bytes <= room else "no"
        if self.dense_bytes is not None and self.dense_bytes <= room:
            return "yes"
        return "slowly" if self.quantized and self.stored_bytes <= room else "no"


def facts() -> list[tuple[str, str]]:
    """What the machine is and what is installed."""
    status = blas_status()
    blas = status.library or ("Accelerate" if sys.platform == "darwin" else "MLX's own")
    return [
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        ("platform", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        *((name, version) for name, version in versions(PACKAGES)),
        ("device", device_name()),
        ("BLAS", f"{blas}{f': {status.note}' if status.note else ''}"),
        ("free memory", gigabytes(free_memory())),
        ("free disk, for downloads", gigabytes(free_disk())),
    ]


def free_disk() -> int:
    """Bytes that are left where the Hub's cache is, or will be."""
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def versions(packages: Iterable[str]) -> list[tuple[str, str]]:
    """Installed versions; packages that are not installed are left out."""
    found = []
    for name in packages:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device_name() -> str:
    """Where MLX computes, e.g. "CPU" or "GPU (Apple M3 Max)"."""
    if on_cpu():
        return "CPU"
    return f"GPU ({mx.device_info().get('device_name', 'unnamed')})"


def advice(speeds: Iterable[Speed]) -> list[str]:
    """What would make this machine faster, each with its command; empty when nothing is known to."""
    found = []
    hint, status = install_hint(), blas_status()
    if hint and on_cpu():
        found.append(f"MLX uses its own, slow BLAS; a faster one is to be had: {hint}")
    elif on_cpu() and status.note and status.library:
        found.append(status.note)
    elif on_cpu() and any(s.what == MATMUL and s.rate < SLOW_GFLOPS for s in speeds):
        found.append(
            f"float32 matmuls are slow although {status.library or 'Accelerate'} is there: is the machine busy?"
        )
    builds = [name for name, _ in versions(("mlx-cpu", "mlx-cuda-12", "mlx-cuda-13"))]
    if len(builds) > 1:
        found.append(
            f"{' and '.join(builds)} overwrite each other's files: {sys.executable} -m pip uninstall -y {builds[0]}; "
            f"{sys.executable} -m pip install --force-reinstall --no-deps {builds[-1]}"
        )
    return found


def need_of(name: str) -> Need:
    """What a model takes, from its files where they are here, else from the table. Raises UnknownModel."""
    source = resolve(name)
    if source.kind == "package":
        return _need_of_package(source)
    folder = source.path if source.kind != "hub" else cached_folder(source)
    if folder is not None and folder.exists():
        return _need_of_folder(source, folder)
    known, bits = source.known, source.bits
    return Need(
        name=name,
        n_layers=known.n_layers if known else None,
        cached=False,
        stored_bytes=known.gigabytes(bits) * 1e9 if known else None,
        dense_bytes=known.gigabytes(DENSE_BITS) * 1e9 if known else None,
        quantized=bits is not None and bits < 16,
        where=source.model_id if source.kind == "hub" else source.kind,
    )


def _need_of_package(source: Source) -> Need:
    known, packaged = source.known, PACKAGED_MODELS[source.name]
    return Need(
        name=source.name,
        n_layers=known.n_layers if known else None,
        cached=True,
        stored_bytes=float(sum(part.stat().st_size for part in packaged.installed() or ())),
        dense_bytes=known.gigabytes(DENSE_BITS) * 1e9 if known else None,
        where=packaged.file,
    )


def _need_of_folder(source: Source, folder: Path) -> Need:
    where = source.model_id if source.kind == "hub" else source.kind
    try:
        checkpoint = read_stored(folder) if folder.is_dir() else open_checkpoint(folder)
        layers = _n_layers(checkpoint) or _n_layers(open_checkpoint(folder))  # what is left out, transformers knows
    except CheckpointError:
        return Need(source.name, None, cached=False, stored_bytes=None, dense_bytes=None, where=where)
    words = {name: tensor for name, tensor in checkpoint.tensors.items() if tensor.dtype == "U32"}
    bits = (checkpoint.config.get("quantization") or checkpoint.config.get("quantization_config") or {}).get("bits", 4)
    absorbed = {name.removesuffix("weight") + part for name in words for part in ("scales", "biases")}
    floats = [t for name, t in checkpoint.tensors.items() if name not in words and name not in absorbed]
    dense = sum(t.n_bytes * 32 / bits for t in words.values()) + sum(4 * math.prod(t.shape) for t in floats)
    return Need(
        source.name,
        layers,
        cached=True,
        stored_bytes=checkpoint.n_bytes,
        dense_bytes=dense,
        quantized=bool(words),
        where=where,
        config=checkpoint.config,
    )


def _n_layers(checkpoint: Checkpoint) -> int | None:
    config = checkpoint.config.get("text_config") or checkpoint.config  # multimodal configs hold the text model inside
    return config.get("num_hidden_layers") or config.get("n_layer")


def estimated_speed(need: Need, speeds: Iterable[Speed]) -> tuple[float, float] | None:
    """Tokens a second that a model would read of long prompts and write of one text here; None where nothing is known.

    A bound, from the measured speeds alone: two operations a weight for every token read; every weight read from
    memory once, as it is held here, for every token written. Attention and everything small come on top.
    """
    rate = {speed.what: speed.rate * 1e9 for speed in speeds}
    if not need.dense_bytes or need.fits() in ("no", "?"):
        return None
    held = need.dense_bytes if on_cpu() else need.stored_bytes or need.dense_bytes
    return rate[MATMUL] / (2 * need.dense_bytes / 4), rate[READING] / held


def all_needs() -> list[Need]:
    """Every embedded and short name."""
    return [need_of(name) for name in (*EMBEDDED, *MODELS)]


def diagnosis() -> tuple[list[tuple[str, str]], list[Speed], list[str]]:
    """Facts, speeds and advice: what `doctor` prints."""
    speeds = measured_speeds()
    return facts(), speeds, advice(speeds)
