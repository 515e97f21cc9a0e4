"""Estimate of a collection before it is begun: rows, bytes and seconds, from a sample of its prompts.

`size` reads lengths alone, so that it needs no weights; `estimate` runs a few of the prompts to time them.
"""

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
from mlx_interp.store.job import Entry, Item, Job, storable
from mlx_interp.store.positions import PositionRule, parse_rule
from mlx_interp.store.shards import check_dtype

T = TypeVar("T")
SAMPLE, TIMED = 256, 32
"""Prompts whose lengths are looked at, and prompts that are run to time them."""


@dataclass(frozen=True)
class Size:
    """Expected size of a collection; nothing is written for it."""

    n_prompts: int
    n_tokens: int
    """Tokens that the model reads, generated ones included."""
    n_rows: int
    n_bytes: int

    def free(self, path: Path) -> int:
        """Bytes that are free where a store would go."""
        there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        return shutil.disk_usage(there).free


@dataclass(frozen=True)
class Estimate(Size):
    """Expected size and time."""

    seconds: float


def size(
    model: Model,
    prompts: Sequence[AnyPrompt],
    sites: str | Sequence[str],
    *,
    positions: PositionRule = "all",
    dtype: str = "float32",
    max_new_tokens: int = 0,
    chat: bool = False,
) -> Size:
    """Size of `collect` with these arguments, at most: every text that is written is as long as it may be.

    Of a model or its outline: nothing is computed. Raises what `collect` raises for its arguments.
    """
    rule, kind = parse_rule(positions), check_dtype(dtype)
    job = Job(model, storable(model, sites), rule, kind, max_new_tokens, chat, None)
    return _size(job, _sampled(job, prompts), len(prompts), max_new_tokens)


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
    entries = _sampled(job, prompts)
    timed = _spread(entries, TIMED)
    shard = min((computed(job, timed) for _ in range(2)), key=lambda shard: shard.seconds)
    written = float(np.mean([len(sample.tokens) - sample.n_prompt for sample in shard.samples]))
    read = sum(len(sample.tokens) for sample in shard.samples)
    found = _size(job, entries, len(prompts), written)
    return Estimate(**vars(found), seconds=shard.seconds / read * found.n_tokens)


def _size(job: Job, entries: Sequence[Entry], n_prompts: int, written: float) -> Size:
    """written: tokens that follow each prompt."""
    rows = (float(np.mean([len(entry.rows) for entry in entries])) + written) * n_prompts
    tokens = (float(np.mean([len(entry.prompt) for entry in entries])) + written) * n_prompts
    return Size(n_prompts, round(tokens), round(rows), round(rows * job.row_bytes))


def _sampled(job: Job, prompts: Sequence[AnyPrompt]) -> list[Entry]:
    return [job.entry(Item(0, prompt, "", "")) for prompt in _spread(prompts, SAMPLE)]


def _spread(items: Sequence[T], n: int) -> list[T]:
    return [items[i * len(items) // n] for i in range(n)] if len(items) > n else list(items)
