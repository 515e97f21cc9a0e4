"""What is measured of a collection: size and time against what was predicted, and whether what is stored is true.

1. Prompts: how many tokens each has.
2. Stores: `estimate` before, `collect` after; bytes, seconds of computing (as the manifest has them, so that a resumed
   collection counts whole), peak memory, and how fast rows of it are read, shuffled.
3. Check: some prompts run again, each alone in a fresh forward; the largest difference of their stored rows at every
   site, relative to the site's largest activation. Beside it the same for the rows of another prompt.
4. Norms: mean length of the stored rows at every residual site, apart for the first position of a prompt.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from experiments.harness.experiment import Records
from experiments.harness.frame import spread
from experiments.harness.schema import InBatch
from experiments.harness.state import Run
from experiments.shared.prompts.collected import CollectionFields, Row, kept, prompt_of, rows_of
from mlx_interp.deferred import mx
from mlx_interp.errors import ConfigError, nearest
from mlx_interp.reporting.folders import run_folder
from mlx_interp.sites import parse_all
from mlx_interp.store import ActivationStore, collect, estimate
from mlx_interp.store.config import check_layers
from mlx_interp.store.manifest import manifests, remove_store

STORED, CHECKED, NORMS = "stores", "checked", "norms"
PRESETS = ("sparse", "middle", "all")


@dataclass(frozen=True)
class Collection:
    """One store that is to be made."""

    key: str
    sites: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Looked:
    """One prompt that is compared with what is stored of it, in every store."""

    key: str
    number: int
    """Its number among the prompts."""
    other: int
    """Number of the prompt whose rows are the control."""
    row: Row


def layers_of(preset: str, n_layers: int) -> tuple[str, ...]:
    """A preset's layers in the grammar, scaled from 32 layers to the model's depth. Raises ConfigError."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}: {nearest(preset, PRESETS)}there are {', '.join(PRESETS)}")
    if preset == "sparse":
        return tuple(f"residuals_{layer}" for layer in range(0, n_layers, max(2, round(5 * n_layers / 32))))
    first, last = round(10 * n_layers / 32), round(21 * n_layers / 32)
    return ("residuals_all",) if preset == "all" else (f"residuals_{first}-{last}",)


def collections(run: Run[CollectionFields], earlier: Records = ()) -> list[Collection]:
    """The stores of a run, smallest first."""
    config = run.config
    rows = tuple(kept(run, earlier)) if earlier else tuple(rows_of(run))
    if config.activation_layers:
        check_layers(config.activation_layers, run.model.n_layers)
        named = [(config.name, tuple(map(str, config.activation_layers)))]
    else:
        named = [(preset, layers_of(preset, run.model.n_layers)) for preset in config.presets]
    return [Collection(name, layers, rows) for name, layers in named]


class Length(InBatch):
    """How long a prompt is."""

    category: str
    chat: bool
    """Whether it is put through the chat template."""
    tokens: int


def measure_lengths(run: Run[CollectionFields], batch: Sequence[Row]) -> Iterator[Length]:
    for row in batch:
        yield {"item": row.key, "category": row.category, "chat": row.chat, "tokens": len(prompt_of(run.model, row))}


def store_folder(run: Run[CollectionFields], name: str) -> Path:
    return run_folder(Path(run.config.result_dir), run.model.name, name)


def remove_stores(run: Run[CollectionFields]) -> None:
    """Removes the stores that a run of this configuration made, so that they are collected anew."""
    for item in collections(run):
        remove_store(store_folder(run, item.key))


class Stored(TypedDict):
    """One store, against what was predicted for it."""

    layers: list[str]
    """As they were asked for."""
    sites: int
    prompts: int
    tokens: int
    rows: int
    shards: int
    bytes: int
    expected_bytes: int
    seconds: float
    """Of computing, over all runs that it took."""
    expected_seconds: float
    tokens_per_second: float
    peak_mlx_bytes: int | None
    """None where an earlier run had begun it."""
    rows_read_per_second: float
    """Of one site, shuffled."""
    dtype: str


def measure_store(run: Run[CollectionFields], item: Collection) -> Iterator[Stored]:
    """One store, made or gone on with, against what was predicted for it."""
    config = run.config
    folder = store_folder(run, item.key)
    prompts = [prompt_of(run.model, row) for row in item.rows]
    size = config.batch_size or None
    expected = estimate(
        run.model,
        prompts,
        item.sites,
        positions=config.positions,
        dtype=config.dtype,
        max_new_tokens=config.max_new_tokens,
        batch_size=size,
    )
    if expected.n_bytes > expected.free(folder):
        warnings.warn(
            f"{folder}: about {expected.n_bytes / 1e9:.3g} GB will be written, {expected.free(folder) / 1e9:.3g} GB "
            "are free: what is complete when the disk is full stays usable",
            RuntimeWarning,
            stacklevel=2,
        )
    begun_before = bool(manifests(folder))
    mx.reset_peak_memory()
    store = collect(
        run.model,
        prompts,
        item.sites,
        folder,
        positions=config.positions,
        dtype=config.dtype,
        labels=[row.category for row in item.rows],
        ids=[row.key for row in item.rows],
        max_new_tokens=config.max_new_tokens,
        batch_size=size,
        shard_bytes=config.shard_megabytes * 2**20,
    )
    seconds = sum(info.seconds for info in store.shards)
    tokens = sum(len(sample.tokens) for sample in store.samples)
    yield {
        "layers": list(item.sites),
        "sites": len(store.sites),
        "prompts": len(store.samples),
        "tokens": tokens,
        "rows": len(store),
        "shards": len(store.shards),
        "bytes": store.n_bytes,
        "expected_bytes": expected.n_bytes,
        "seconds": seconds,
        "expected_seconds": expected.seconds,
        "tokens_per_second": tokens / seconds,
        "peak_mlx_bytes": None if begun_before else mx.get_peak_memory(),
        "rows_read_per_second": _reading_speed(store),
        "dtype": config.dtype,
    }


def _reading_speed(store: ActivationStore) -> float:
    """Rows a second of one site, all of them, shuffled, as training reads them."""
    start = time.perf_counter()
    n = sum(len(batch) for batch in store.batches(store.sites[-1], 256))
    return n / (time.perf_counter() - start)


def looked_at(run: Run[CollectionFields], earlier: Records) -> list[Looked]:
    rows = kept(run, earlier)
    numbers = {row.key: number for number, row in enumerate(rows)}
    chosen = spread(rows, run.config.checked)
    others = [*chosen[1:], *chosen[:1]]
    return [
        Looked(row.key, numbers[row.key], numbers[other.key], row) for row, other in zip(chosen, others, strict=True)
    ]


class Compared(TypedDict):
    """Stored rows of one prompt against a fresh forward of it alone, in one store."""

    store: str
    sites: list[str]
    rows: int
    error: list[float]
    """By site: largest difference over the largest activation of its row."""
    control: list[float | None]
    """The same of another prompt's rows; None where there are none."""
    same_tokens: bool
    same_prompt: bool


def measure_check(run: Run[CollectionFields], item: Looked) -> Iterator[Compared]:
    """Stored rows of one prompt against a fresh forward of it alone, at every site of every store."""
    for collection in collections(run):
        store = ActivationStore(store_folder(run, collection.key))
        store.check_model(run.model)
        sample = store.samples[item.number]
        rows, control = (np.flatnonzero(store.sample_numbers == number) for number in (item.number, item.other))
        if not len(rows):
            continue
        out = run.model.run([sample.tokens], capture=store.sites, logits="none")
        at = store.positions[rows]
        pairs = [(np.asarray(store.array(site)[rows]), np.asarray(out[site])[0][at]) for site in store.sites]
        n = min(len(rows), len(control))
        yield {
            "store": collection.key,
            "sites": store.sites,
            "rows": len(rows),
            "error": [float(_differences(stored, fresh).max()) for stored, fresh in pairs],
            "control": [
                float(_differences(store.array(site)[control[-n:]], fresh[-n:]).max()) if n else None
                for site, (_, fresh) in zip(store.sites, pairs, strict=True)
            ],
            "same_tokens": store.tokens[rows].tolist() == [sample.tokens[position] for position in at],
            "same_prompt": sample.tokens[: sample.n_prompt] == prompt_of(run.model, item.row).tokens,
        }


def widest(run: Run[CollectionFields]) -> str:
    """The store with most residual sites: the one whose norms are drawn."""
    sizes = {
        item.key: sum(site.kind.axes == ("d_model",) for site in parse_all(item.sites, run.model.n_layers))
        for item in collections(run)
    }
    return max(sizes, key=lambda name: sizes[name])


class Lengths(InBatch):
    """Mean length of a prompt's stored rows, by site."""

    category: str
    sites: list[str]
    rows: int
    first: list[float | None]
    """Of the first position; None where it is not stored."""
    later: list[float | None]
    """Mean over the others."""


def measure_norms(run: Run[CollectionFields], batch: Sequence[Row]) -> Iterator[Lengths]:
    """Mean length of a prompt's stored rows at every site of one width; its first position apart."""
    store = ActivationStore(store_folder(run, widest(run)))
    numbers = {sample.id: sample.sample for sample in store.samples}
    sites = [site for site in store.sites if len(store.description["sites"][site]) == 1]
    for row in batch:
        rows = np.flatnonzero(store.sample_numbers == numbers[row.key])
        first = store.positions[rows] == 0
        lengths = [np.linalg.norm(store.array(site)[rows], axis=-1) for site in sites]
        yield {
            "item": row.key,
            "category": row.category,
            "sites": sites,
            "rows": len(rows),
            "first": [float(norms[first][0]) if first.any() else None for norms in lengths],
            "later": [float(norms[~first].mean()) if (~first).any() else None for norms in lengths],
        }


def _differences(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Largest difference of every row, relative to its own largest activation: in trained models that of the first
    position is a thousand times the others', and all prompts share it."""
    axes = tuple(range(1, expected.ndim))
    size = np.abs(expected).max(axes)
    return np.asarray(np.abs(found - expected).max(axes) / np.where(size == 0, 1, size))
