"""`collect`: from prompts to a store of activations, in one pass, whatever the number of prompts.

1. Prompts are read as they come, a shard's worth at a time; within it they are sorted by length and run in batches.
   With `max_new_tokens` each first writes its continuation, which is then read like the prompt itself.
2. The rows asked for go into one array a site, in the order of the prompts. Padding is never among them: only
   positions that a prompt has are copied.
3. A thread writes the shard and then its mark in the manifest, while the next shard is computed. So memory holds two
   shards and a batch, and a store that was cut off goes on behind its last mark.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np

from mlx_interp import sites as site_names
from mlx_interp.engine.plan import site_shape
from mlx_interp.engine.variants import Progress
from mlx_interp.errors import CheckpointError, DataError, SiteError, StoreError
from mlx_interp.model import Model, reported
from mlx_interp.prompts import AnyPrompt, Prompt
from mlx_interp.reporting.folders import locked
from mlx_interp.reporting.records import RecordFile
from mlx_interp.sites import Site
from mlx_interp.store.manifest import Sample, ShardInfo, append_shard, description, open_manifest, read_shards
from mlx_interp.store.positions import PositionRule, parse_rule, positions_of, rule_name
from mlx_interp.store.reader import ActivationStore
from mlx_interp.store.shards import ROWS, check_dtype, float16_scale, item_bytes, map_shard, write_shard

END = object()
SHARD_BYTES = 256 * 2**20
"""Of one shard. A kill loses what is under way: at most this much."""
BATCH_TOKENS = {mx.cpu: 512, mx.gpu: 4096}
"""Tokens of one pass, padding included: fixed, not a share of what is free, so that a resumed run makes the same
batches. On two CPU cores larger ones are slower; a shard bounds them as well."""


@dataclass(frozen=True)
class Item:
    """A prompt as it was given."""

    number: int
    prompt: AnyPrompt
    id: str
    category: str


@dataclass(frozen=True)
class Entry:
    """A prompt as it is run: its tokens, and which of its positions are stored."""

    item: Item
    prompt: Prompt
    n_prompt: int
    rows: list[int]


@dataclass(frozen=True)
class Job:
    """What is collected from each prompt."""

    model: Model
    sites: tuple[Site, ...]
    rule: PositionRule
    dtype: str = "float32"
    max_new_tokens: int = 0
    chat: bool = False
    batch_size: int | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one row of each site."""
        return {str(site): row_shape(self.model, site) for site in self.sites}

    @property
    def row_bytes(self) -> int:
        """Of one position, all sites together."""
        numbers = sum(int(np.prod(shape)) for shape in self.shapes.values())
        return numbers * item_bytes(self.dtype) + sum(map(item_bytes, ROWS.values()))

    def entry(self, item: Item) -> Entry:
        raw = item.prompt
        prompt = self.model.prompt(raw, chat=True) if self.chat and isinstance(raw, str) else _one(self.model, raw)
        return Entry(item, prompt, len(prompt), positions_of(self.rule, prompt))


@dataclass(frozen=True)
class Window:
    """The prompts of one shard. `info` is there where its file is damaged and made anew."""

    name: str
    entries: list[Entry]
    digest: str
    info: ShardInfo | None = None


@dataclass(frozen=True)
class Shard:
    """A window's rows, ready to be written."""

    tensors: dict[str, tuple[str, np.ndarray]]
    metadata: dict[str, str]
    samples: list[Sample]
    seconds: float


def collect(
    model: Model,
    prompts: AnyPrompt | Iterable[AnyPrompt],
    sites: str | Sequence[str],
    path: Path | str,
    *,
    positions: PositionRule = "all",
    dtype: str = "float32",
    labels: Iterable[str] | None = None,
    ids: Iterable[str] | None = None,
    max_new_tokens: int = 0,
    chat: bool = False,
    batch_size: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | bool = False,
) -> ActivationStore:
    """Activations of prompts at sites, written to a folder as they are computed; goes on where an earlier call ended.

    prompts: a list, or any iterable, which is read once and never held. With `chat`, strings are users' turns.
    positions: "all", "last", "no_bos", "content" (no special tokens), "generated", ints, a slice, or a function of a
        Prompt that gives positions. With max_new_tokens, positions of greedily generated tokens are stored as well.
    dtype: "float32", "bfloat16", or "float16" with a scale for every site and shard.
    labels, ids: a category and a name for each prompt. batch_size: prompts a pass; None: 512 tokens on CPU, 4096 else.
    Raises StoreError for a folder with a store of another model, other prompts or another configuration and for
    activations that are not finite, RunError where it cannot be written (a full disk: what is complete is usable, and
    the same call goes on), SiteError, PositionError, ConfigError, DataError (labels that do not fit), PromptError.
    """
    rule = parse_rule(positions)
    chosen = storable(model, sites)
    job = Job(model, chosen, rule, check_dtype(dtype), _natural(max_new_tokens), chat, batch_size)
    about = description(
        model, job.shapes, positions=rule_name(rule), dtype=dtype, max_new_tokens=max_new_tokens, chat=chat
    )
    folder = Path(path)
    items = numbered(model, prompts, labels, ids)
    total = len(prompts) if isinstance(prompts, Sized) and not _is_one(prompts) else None
    with locked(folder), reported(progress, total, "prompts") as report:
        manifest = open_manifest(folder, about)
        with Writer(folder, manifest) as writer:
            for window in windows(job, items, folder, shard_bytes):
                writer.write(window, computed(job, window.entries))
                if report is not None:
                    report(window.entries[-1].item.number + 1, total or 0)
    return ActivationStore(folder)


def storable(model: Model, sites: str | Sequence[str]) -> tuple[Site, ...]:
    """Sites by selectors. Raises SiteError for those that have no fixed width a position, and for none at all."""
    chosen = tuple(site_names.parse_all(sites, model.n_layers))
    if not chosen:
        raise SiteError("a store needs a site or more: give sites=['resid_post.3'], or 'all'")
    for site in chosen:
        if site.name == "pattern":
            raise SiteError(f"{site} has a row as long as each prompt and cannot be stored: read it by `batches`")
    return chosen


def row_shape(model: Model, site: Site) -> tuple[int, ...]:
    """Shape of a site at one position: (d_model,), or (head, d_head)."""
    n_heads, width = site_shape(model.network, site, 1)
    return (n_heads, width) if n_heads else (width,)


def numbered(
    model: Model, prompts: AnyPrompt | Iterable[AnyPrompt], labels: Iterable[str] | None, ids: Iterable[str] | None
) -> Iterator[Item]:
    """Prompts with their labels and names, as they come. Raises DataError where there are not as many of each."""
    many = cast(Iterable[AnyPrompt], [prompts] if _is_one(prompts) else prompts)
    for name, given in (("labels", labels), ("ids", ids)):
        if isinstance(given, Sized) and isinstance(many, Sized) and len(given) != len(many):
            raise DataError(f"{len(given)} {name} for {len(many)} prompts: give one for each")
    return _zipped(many, labels, ids)


def _zipped(prompts: Iterable[AnyPrompt], labels: Iterable[str] | None, ids: Iterable[str] | None) -> Iterator[Item]:
    given = [iter(some) for some in (labels, ids) if some is not None]
    number = -1
    for number, prompt in enumerate(prompts):
        row = [next(some, END) for some in given]
        if END in row:
            raise DataError(f"labels or ids end before prompt {number}: give one for each prompt")
        texts = iter(map(str, row))
        category = next(texts) if labels is not None else ""
        yield Item(number, prompt, next(texts, str(number)), category)
    if any(next(some, END) is not END for some in given):
        raise DataError(f"more labels or ids than the {number + 1} prompts: give one for each")


def windows(job: Job, items: Iterator[Item], folder: Path, shard_bytes: int) -> Iterator[Window]:
    """Shards that are still to be made: damaged ones anew, then new ones. Raises StoreError for other prompts."""
    digest = hashlib.sha256()
    done = read_shards(folder)
    for info in done:
        taken = []
        for item in _first(items, info.n_samples):
            digest.update(_bytes_of(item))
            taken.append(item)
        if len(taken) < info.n_samples or digest.hexdigest() != info.digest:
            raise StoreError(
                f"{folder}: prompts {info.first} to {info.first + info.n_samples - 1} of the store are others than "
                "those given: give the same prompts, labels and ids in the same order (more may follow), or another "
                "folder"
            )
        if is_damaged(folder / info.shard):
            yield Window(info.shard, [job.entry(item) for item in taken], info.digest, info)
    entries: list[Entry] = []
    n_rows, number = 0, len(done)
    for item in items:
        entry = job.entry(item)
        more = len(entry.rows) + job.max_new_tokens
        if entries and (n_rows + more) * job.row_bytes > shard_bytes:
            yield Window(f"shard-{number:05d}.safetensors", entries, digest.hexdigest())
            entries, n_rows, number = [], 0, number + 1
        digest.update(_bytes_of(item))
        entries.append(entry)
        n_rows += more
    if entries:
        yield Window(f"shard-{number:05d}.safetensors", entries, digest.hexdigest())


def is_damaged(path: Path) -> bool:
    """Whether a shard's file is missing, truncated or corrupted."""
    try:
        map_shard(path)
    except CheckpointError:
        return True
    return False


def computed(job: Job, entries: Sequence[Entry]) -> Shard:
    """All rows of a window, in the order of its prompts."""
    start = time.perf_counter()
    order = sorted(range(len(entries)), key=lambda index: len(entries[index].prompt))
    written = list(entries)
    if job.max_new_tokens:
        for part in _batches(job, [entries[index] for index in order]):
            batch = [order[index] for index in part]
            for index, entry in zip(batch, continued(job, [entries[index] for index in batch]), strict=True):
                written[index] = entry
        order.sort(key=lambda index: len(written[index].prompt))
    ends = np.cumsum([len(entry.rows) for entry in written])
    arrays = {str(site): np.empty((int(ends[-1]), *shape), _held(job)) for site, shape in _shaped(job)}
    largest = dict.fromkeys(arrays, 0.0)
    for part in _batches(job, [written[index] for index in order]):
        batch = [order[index] for index in part]
        found = job.model.run([written[index].prompt for index in batch], capture=[*arrays], logits="none")
        for name, array in arrays.items():
            values, top = _ready(job, found[name], name, written[batch[0]].item)
            largest[name] = max(largest[name], top)
            for row, index in enumerate(batch):
                rows = written[index].rows
                array[ends[index] - len(rows) : ends[index]] = values[row][_as_slice(rows)]
    return _shard(job, written, arrays, largest, time.perf_counter() - start)


def continued(job: Job, entries: Sequence[Entry]) -> list[Entry]:
    """Entries with what the model writes after them, whose positions are stored as well."""
    completions = job.model.generate([entry.prompt for entry in entries], max_tokens=job.max_new_tokens)
    found = []
    for entry, completion in zip(entries, completions, strict=True):
        tokens = entry.prompt.tokens + completion.tokens
        prompt = Prompt(entry.prompt.text + completion.text, tokens, entry.prompt.spans, entry.prompt.tokenizer)
        found.append(replace(entry, prompt=prompt, rows=[*entry.rows, *range(entry.n_prompt, len(tokens))]))
    return found


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
        n_bytes = write_shard(self._folder / window.name, shard.tensors, shard.metadata)
        if window.info is not None:
            return  # made anew: the manifest has it
        n_rows = sum(sample.n_rows for sample in shard.samples)
        first = shard.samples[0].sample
        info = ShardInfo(window.name, n_rows, n_bytes, first, len(shard.samples), window.digest, shard.seconds)
        append_shard(self._manifest, info, shard.samples)


def _shard(
    job: Job, entries: Sequence[Entry], arrays: dict[str, np.ndarray], largest: dict[str, float], seconds: float
) -> Shard:
    metadata = {}
    if job.dtype == "float16":
        for name, array in arrays.items():
            scale = float16_scale(largest[name])
            arrays[name] = (array / np.float32(scale)).astype(np.float16)
            metadata[f"scale.{name}"] = repr(scale)
    about = {
        "samples": np.repeat([entry.item.number for entry in entries], [len(entry.rows) for entry in entries]),
        "tokens": np.array([entry.prompt.tokens[at] for entry in entries for at in entry.rows], np.int32),
        "positions": np.array([at for entry in entries for at in entry.rows], np.int32),
    }
    tensors = {name: (job.dtype, array) for name, array in arrays.items()}
    tensors |= {name: (ROWS[name], array) for name, array in about.items()}
    samples = [
        Sample(
            entry.item.number,
            entry.item.id,
            entry.item.category,
            entry.prompt.tokens,
            entry.n_prompt,
            len(entry.rows),
        )
        for entry in entries
    ]
    return Shard(tensors, metadata, samples, round(seconds, 3))


def _batches(job: Job, entries: Sequence[Entry]) -> Iterator[range]:
    """Entries, sorted by length, in batches: at least one, and then as many as their padded tokens allow."""
    most = BATCH_TOKENS[mx.default_device().type]
    start = 0
    for end in range(1, len(entries) + 1):
        size = end + 1 - start
        last = end == len(entries)
        if last or (size > job.batch_size if job.batch_size else size * len(entries[end].prompt) > most):
            yield range(start, end)
            start = end


def _ready(job: Job, values: mx.array, name: str, item: Item) -> tuple[np.ndarray, float]:
    """One site of a batch as it is held until its shard is written; for float16 with its largest magnitude, else 0."""
    held = values.astype(mx.bfloat16).view(mx.uint16) if job.dtype == "bfloat16" else values.astype(mx.float32)
    top = mx.max(mx.abs(values)) if job.dtype == "float16" else mx.array(0.0)
    finite = mx.all(mx.isfinite(values))
    mx.eval(top, held, finite)
    if not finite.item():
        raise StoreError(
            f"{name}: activations that are not finite in the batch of prompt {item.number} ({item.id}): the model "
            "overflows in its dtype; load it with dtype='bfloat16' or 'float32'"
        )
    return np.asarray(held), float(np.asarray(top))


def _held(job: Job) -> Any:
    return np.uint16 if job.dtype == "bfloat16" else np.float32


def _shaped(job: Job) -> Iterable[tuple[str, tuple[int, ...]]]:
    return job.shapes.items()


def _as_slice(rows: list[int]) -> slice | list[int]:
    """Positions in a row without gaps as a slice, which copies no index."""
    whole = rows and rows[-1] - rows[0] + 1 == len(rows)
    return slice(rows[0], rows[-1] + 1) if whole else rows


def _bytes_of(item: Item) -> bytes:
    raw = item.prompt
    content = raw if isinstance(raw, str) else raw.tokens if isinstance(raw, Prompt) else [int(token) for token in raw]
    return (json.dumps([content, item.id, item.category]) + "\n").encode()


def _first(items: Iterator[Item], n: int) -> Iterator[Item]:
    return (item for _, item in zip(range(n), items, strict=False))


def _one(model: Model, prompt: AnyPrompt) -> Prompt:
    return model.prompts([prompt])[0]


def _is_one(prompts: object) -> bool:
    """Whether what was given is a single prompt, not several."""
    if isinstance(prompts, (str, Prompt)):
        return True
    return isinstance(prompts, Sequence) and bool(prompts) and all(isinstance(token, int) for token in prompts)


def _natural(number: int) -> int:
    if number < 0:
        raise ValueError(f"max_new_tokens is 0 or more, not {number}")
    return number
