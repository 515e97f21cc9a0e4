"""Rows of one shard: its prompts run in batches, and the positions asked for copied out of them.

Padding never enters: only positions that a prompt has are copied.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import StoreError
from mlx_interp.prompts import Prompt
from mlx_interp.store.job import Entry, Item, Job
from mlx_interp.store.manifest import Sample
from mlx_interp.store.shards import ROWS, float16_scale

BATCH_TOKENS = {"cpu": 512, "gpu": 4096}
"""Tokens of one pass, padding included: fixed, not a share of what is free, so that a resumed run makes the same
batches. On two CPU cores larger ones are slower; a shard bounds them as well."""


@dataclass(frozen=True)
class Shard:
    """A window's rows, ready to be written."""

    tensors: dict[str, tuple[str, np.ndarray]]
    metadata: dict[str, str]
    samples: list[Sample]
    seconds: float


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
    most = BATCH_TOKENS["cpu" if mx.default_device().type == mx.cpu else "gpu"]
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
