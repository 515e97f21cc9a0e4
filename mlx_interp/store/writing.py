"""Shard writing: which shards are still to be made, and how each is put on disk while the next one is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mlx_interp.errors import CheckpointError, StoreError
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


def windows(job: Job, items: Iterator[Item], folder: Path, shard_bytes: int) -> Iterator[Window]:
    """Shards that are still to be made: damaged ones anew, then new ones. Raises StoreError for other prompts."""
    digest = hashlib.sha256()
    done = read_shards(folder)
    for info in done:
        taken = []
        for item in first(items, info.n_samples):
            digest.update(bytes_of(item))
            taken.append(item)
        if len(taken) < info.n_samples or digest.hexdigest() != info.digest:
            raise StoreError(
                f"{folder}: prompts {info.first} to {info.first + info.n_samples - 1} of the store are others than "
                "those given: give the same prompts, labels and ids in the same order (more may follow), or another "
                "folder"
            )
        if is_damaged(folder / info.shard, info.checksum):
            yield Window(info.shard, [job.entry(item) for item in taken], info.digest, info)
    entries: list[Entry] = []
    n_rows, number = 0, len(done)
    for item in items:
        entry = job.entry(item)
        more = len(entry.rows) + job.max_new_tokens
        if entries and (n_rows + more) * job.row_bytes > shard_bytes:
            yield Window(f"shard-{number:05d}.safetensors", entries, digest.hexdigest())
            entries, n_rows, number = [], 0, number + 1
        digest.update(bytes_of(item))
        entries.append(entry)
        n_rows += more
    if entries:
        yield Window(f"shard-{number:05d}.safetensors", entries, digest.hexdigest())


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
