"""Estimate of a collection before it is begun: rows, bytes and seconds, from a sample of its prompts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt
from mlx_interp.store.compute import computed
from mlx_interp.store.job import Item, Job, storable
from mlx_interp.store.positions import PositionRule, parse_rule
from mlx_interp.store.shards import check_dtype

T = TypeVar("T")
SAMPLE, TIMED = 256, 32
"""Prompts whose lengths are looked at, and prompts that are run to time them."""


@dataclass(frozen=True)
class Estimate:
    """Expected size and time of a collection; nothing is written for it."""

    n_prompts: int
    n_tokens: int
    """Tokens that the model reads, generated ones included."""
    n_rows: int
    n_bytes: int
    seconds: float

    def free(self, path: Path) -> int:
        """Bytes that are free where a store would go."""
        there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        return shutil.disk_usage(there).free


def estimate(
    model: Model,
    prompts: Sequence[AnyPrompt],
    sites: str | Sequence[str],
    *,
    positions: PositionRule = "all",
    dtype: str = "float32",
    max_new_tokens: int = 0,
    chat: bool = False,
    batch_size: int | None = None,
) -> Estimate:
    """Size and time of `collect` with these arguments: lengths of 256 prompts spread evenly, 32 of them run twice.

    Raises what `collect` raises for its arguments.
    """
    rule, kind = parse_rule(positions), check_dtype(dtype)
    job = Job(model, storable(model, sites), rule, kind, max_new_tokens, chat, batch_size)
    entries = [job.entry(Item(0, prompt, "", "")) for prompt in _spread(prompts, SAMPLE)]
    timed = _spread(entries, TIMED)
    shard = min((computed(job, timed) for _ in range(2)), key=lambda shard: shard.seconds)
    written = np.mean([len(sample.tokens) - sample.n_prompt for sample in shard.samples])
    read = sum(len(sample.tokens) for sample in shard.samples)
    rows = (np.mean([len(entry.rows) for entry in entries]) + written) * len(prompts)
    tokens = (np.mean([len(entry.prompt) for entry in entries]) + written) * len(prompts)
    return Estimate(
        n_prompts=len(prompts),
        n_tokens=round(tokens),
        n_rows=round(rows),
        n_bytes=round(rows * job.row_bytes),
        seconds=float(shard.seconds / read * tokens),
    )


def _spread(items: Sequence[T], n: int) -> list[T]:
    return [items[i * len(items) // n] for i in range(n)] if len(items) > n else list(items)
