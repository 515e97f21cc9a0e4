"""A model split over the processes of `mlx.launch`: started together, checked against each other.

Every process runs the same program on the same prompts. Before anything is computed they compare versions and weights;
after loading, what each of them has at every site on a probe: fast links have corrupted long prompts (mlx issue 4342),
and a difference stops all of them with rank, layer and site.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from typing import Any

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine import memory
from mlx_interp.errors import CheckpointError, ConfigError, RanksDiffer
from mlx_interp.model import Model

Group = Any
"""mx.distributed.Group."""
PACKAGES = ("mlx", "mlx-lm", "numpy", "transformers")
PROBE = 48
"""Tokens of the probe."""


def processes(name: str) -> Group:
    """The processes that were launched together. Raises ConfigError for one alone."""
    group = mx.distributed.init()
    if group.size() < 2:
        raise ConfigError(
            f"{name}: shard=True splits weights over processes, and this is one alone: start several with "
            "`mlx.launch -n 2 --backend ring python ...`, or leave shard out"
        )
    return group


def agree(group: Group, what: str, value: str) -> None:
    """Raises RanksDiffer on every process where `value` is not the same on all."""
    mine = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    every = _every(group, mine.astype(np.int32))
    if others := [rank for rank in range(group.size()) if (every[rank] != every[0]).any()]:
        raise RanksDiffer(f"rank {others[0]} has another {what} than rank 0 (rank {group.rank()} has {value})")


def agree_on_versions(group: Group) -> None:
    """Raises RanksDiffer where a process has another version of what computes."""
    for package in PACKAGES:
        agree(group, f"version of {package}", metadata.version(package))


def agree_on_memory(group: Group) -> None:
    """Batches are cut by free memory, and all processes must cut alike: the least that any of them may use."""
    here = memory.default_budget() // 2**10
    memory.agreed_budget = int(_every(group, np.array([here], np.int32)).min()) * 2**10


def check_ranks(model: Model, group: Group, *, length: int = PROBE) -> None:
    """Raises RanksDiffer where a site of a probe is not bitwise the same on all processes, naming the first.

    All sites, not the stream alone: what one process gets wrong and then works on comes to all of them alike. The probe
    is drawn from a fixed seed; a model of few positions gets a shorter one.
    """
    limit = model.network.max_positions or length
    tokens = np.random.default_rng(0).integers(0, model.d_vocab, min(length, limit)).tolist()
    out = model.run(tokens, capture=model.sites, logits="last")
    names = sorted(out, key=lambda name: int(name.rpartition(".")[2]) if "." in name else model.n_layers)
    sums = np.stack([checksum(out[name]) for name in names])
    every = _every(group, sums.reshape(-1)).reshape(group.size(), *sums.shape)
    for rank in range(group.size()):
        differ = (every[rank] != every[0]).any(axis=1)
        if differ.any():
            raise RanksDiffer(
                f"{model.name}: rank {rank} has another {names[int(differ.argmax())]} than rank 0: the link between "
                "them changes what it carries, or their weights differ"
            )


def checksum(values: mx.array) -> np.ndarray:
    """(8,) int32: the sha256 of an array's bytes, in float32."""
    raw = np.ascontiguousarray(np.asarray(values.astype(mx.float32))).tobytes()
    return np.frombuffer(hashlib.sha256(raw).digest(), np.int32)


def _every(group: Group, values: Any) -> np.ndarray:
    """(process, n): the numbers of all processes."""
    gathered = mx.distributed.all_gather(mx.array(values)[None], group=group)
    try:
        return np.asarray(gathered).reshape(group.size(), -1)
    except RuntimeError as error:
        raise CheckpointError(f"a process is gone, so rank {group.rank()} stops: {error}") from error
