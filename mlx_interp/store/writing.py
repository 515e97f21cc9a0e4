"""Shard writing: which shards are still to be made, and how each is put on disk while the next one is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mlx_interp.errors import CheckpointError, ConfigError, StoreError
from mlx_interp.reporting.records import RecordFile
from mlx_interp.store.compute import Shard
from mlx_interp.store.job import Entry, Item, Job, bytes_of, first
from mlx_interp.store.manifest import ShardInfo, append_checksum, append_shard, read_shards
from mlx_interp.store.shards import check_bytes, map_shard, write_shard


@dataclass(frozen=True)
class Window:
    """The prompts of one shard. `info` is there where its file is damaged and made anew."""

    name: str
    entries: list[Entry]
    digest: str
    info: ShardInfo | None = None


def check_writer(writer: tuple[int, int] | None) -> None:
    """Raises ConfigError for (k, n) unless 0 <= k < n."""
    if writer is not None and not 0 <= writer[0] < writer[1]:
        raise ConfigError(f"writer={writer}: of n writers, k is one from 0 to n - 1, e.g. (0, {max(writer[1], 1)})")


def windows(
    job: Job, items: Iterator[Item], folder: Path, shard_bytes: int, writer: tuple[int, int] | None = None
) -> Iterator[Window]:
    """Shards that are still to be made: damaged ones anew, and new ones. Raises StoreError for other prompts.

    writer: (k, n), every n-th of all shards from the k-th, done or not, so that all writers share them out alike.
    """
    k, n = writer or (0, 1)
    done = {info.first: info for info in read_shards(folder)}
    names = {info.shard for info in done.values()}
    digest = hashlib.sha256()
    for number, (info, taken) in enumerate(_cut(job, items, done, shard_bytes)):
        for item, _ in taken:
            digest.update(bytes_of(item))
        if info is not None and (len(taken) < info.n_samples or digest.hexdigest() != info.digest):
            raise StoreError(_others(folder, info))
        if number % n == k and (info is None or is_damaged(folder / info.shard, info.checksum)):
            name = info.shard if info else _name(taken[0][0], number, names, writer)
            yield Window(name, [entry or job.entry(item) for item, entry in taken], digest.hexdigest(), info)
    for info in done.values():  # of prompts that were not given
        raise StoreError(_others(folder, info))


def _cut(
    job: Job, items: Iterator[Item], done: dict[int, ShardInfo], shard_bytes: int
) -> Iterator[tuple[ShardInfo | None, list[tuple[Item, Entry | None]]]]:
    """All prompts by their shards: those that are done as they are, the others as many together as fit.

    Takes what is done out of `done`. Prompts of shards that are done come without their entries.
    """
    taken: list[tuple[Item, Entry | None]] = []
    n_rows = 0
    for item in items:
        if (info := done.pop(item.number, None)) is not None:
            if taken:
                yield None, taken
            yield info, [(one, None) for one in (item, *first(items, info.n_samples - 1))]
            taken, n_rows = [], 0
            continue
        entry = job.entry(item)
        more = len(entry.rows) + job.max_new_tokens
        if taken and (n_rows + more) * job.row_bytes > shard_bytes:
            yield None, taken
            taken, n_rows = [], 0
        taken.append((item, entry))
        n_rows += more
    if taken:
        yield None, taken


def _name(item: Item, number: int, names: set[str], writer: tuple[int, int] | None) -> str:
    """Of several writers' shards by their first prompt, which no two have; else in a row, past what is there."""
    if writer is not None:
        return f"shard-{item.number:09d}.safetensors"
    while (name := f"shard-{number:05d}.safetensors") in names:
        number += 1
    names.add(name)
    return name


def _others(folder: Path, info: ShardInfo) -> str:
    return (
        f"{folder}: prompts {info.first} to {info.first + info.n_samples - 1} of the store are others than "
        "those given: give the same prompts, labels and ids in the same order (more may follow), or another "
        "folder"
    )


def is_damaged(path: Path, checksum: str) -> bool:
    """Whether a shard's file is missing, truncated, or has other bytes than were written."""
    try:
        map_shard(path)
        check_bytes(path, checksum)
    except CheckpointError:
        return True
    return False


class Writer:
    """Writes one shard at a time on a thread of its own; an error of it comes up at the next one, or at the end."""

    def __init__(self, folder: Path, manifest: RecordFile) -> None:
        self._folder, self._manifest = folder, manifest
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown(wait=True)

    def write(self, window: Window, shard: Shard) -> None:
        """Hands a shard over, once the one before is on disk. Raises RunError where that one could not be written."""
        self._wait()
        self._pending = self._pool.submit(self._write, window, shard)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _write(self, window: Window, shard: Shard) -> None:
        n_bytes, checksum = write_shard(self._folder / window.name, shard.tensors, shard.metadata)
        if window.info is not None:  # made anew: the manifest has it
            if checksum != window.info.checksum:
                append_checksum(self._manifest, window.name, checksum)
            return
        n_rows = sum(sample.n_rows for sample in shard.samples)
        first = shard.samples[0].sample
        info = ShardInfo(
            window.name, n_rows, n_bytes, first, len(shard.samples), window.digest, shard.seconds, checksum
        )
        append_shard(self._manifest, info, shard.samples)
