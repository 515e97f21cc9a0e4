"""What a store says of itself: one description, and one record a sample, appended shard by shard.

store.json       model, weights, sites, positions, dtype: what two sessions must share to be of one store
samples.jsonl    for every shard a line of its own, a line for each of its samples, and a mark that makes them count;
                 samples-K-of-N.jsonl: the same of one of several writers
*.safetensors    the shards

A shard counts from the moment its mark is on disk, and it is marked only after its file is: so a store that was cut
off at any moment is whole up to its last mark, and goes on behind it. Where two manifests have a shard of the same
prompts, one counts.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_interp.deferred import mx, trees
from mlx_interp.errors import StoreError
from mlx_interp.model import Model
from mlx_interp.reporting.files import write_atomically, writing
from mlx_interp.reporting.folders import locked
from mlx_interp.reporting.records import RecordFile, open_records, read_records

FORMAT = 1
STORE_FILE, SAMPLES_FILE = "store.json", "samples.jsonl"
SHARD, AGAIN = "shard", "again"


@dataclass(frozen=True)
class Sample:
    """One prompt of a store, with what the model wrote after it."""

    sample: int
    """Its number in the order of the prompts."""
    id: str
    category: str
    tokens: list[int]
    """Of the prompt and, behind them, generated ones: context for rows of any position."""
    n_prompt: int
    """Tokens of the prompt."""
    n_rows: int
    """Rows that it has in the store."""


@dataclass(frozen=True)
class ShardInfo:
    """One shard as the manifest has it."""

    shard: str
    """Name of its file."""
    n_rows: int
    n_bytes: int
    first: int
    """Number of its first sample."""
    n_samples: int
    digest: str
    """Over all prompts up to its last one: whether a later session goes on with the same ones."""
    seconds: float
    """What it took to compute."""
    checksum: str = ""
    """Of its file's bytes; empty in stores from before checksums, which cannot be checked."""


def description(
    model: Model, sites: Mapping[str, Sequence[int]], *, positions: str, dtype: str, max_new_tokens: int, chat: bool
) -> dict[str, Any]:
    """Everything that decides what a row of the store is; `sites` with the shape of one row each."""
    template = getattr(model.tokenizer, "chat_template", None)
    return {
        "model": model.model_id,
        "weights_hash": weights_of(model),
        "quantization": model.quantization,
        "computed_in": str(model.network.dtype).rpartition(".")[2],
        "n_layers": model.n_layers,
        "template_hash": hashlib.sha256(str(template).encode()).hexdigest() if template else None,
        "sites": {site: list(shape) for site, shape in sites.items()},
        "positions": positions,
        "chat": chat,
        "max_new_tokens": max_new_tokens,
        "dtype": dtype,
    }


def weights_of(model: Model) -> str:
    """The checkpoint's hash; of a model that was wrapped by hand, one over its parameters."""
    if model.weights_hash:
        return model.weights_hash
    digest = hashlib.sha256()
    for name, value in trees.tree_flatten(model.mlx_model.parameters()):
        digest.update(f"{name}{value.shape}{value.dtype}".encode())
        digest.update(np.asarray(value.reshape(-1).view(getattr(mx, f"uint{8 * value.dtype.size}"))).tobytes())
    return digest.hexdigest()


def read_description(path: Path) -> dict[str, Any]:
    """store.json of a folder. Raises StoreError where there is none, or one that this version does not read."""
    file = path / STORE_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(
            f"{path}: no store of activations ({STORE_FILE} is not there): give the folder of one"
        ) from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: cannot be read: {error}; collect anew into another folder") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise StoreError(
            f"{file}: is of format {found}, this version reads {FORMAT}: collect anew, or use that version"
        )
    return dict(content)


def open_manifest(path: Path, wanted: Mapping[str, Any], writer: str = "") -> RecordFile:
    """The manifest of a new store, or of one that goes on; of one writer, where several have theirs.

    Raises StoreError where the folder holds another store.
    """
    if (path / STORE_FILE).exists():
        found = read_description(path)
        differences = [
            f"  {name}: {found.get(name)!r} there, {value!r} now\n"
            for name, value in wanted.items()
            if found.get(name) != value
        ]
        if differences:
            raise StoreError(
                f"{path}: holds a store of another kind, which this one does not mix with:\n{''.join(differences)}"
                "give another folder, or remove this one"
            )
    else:
        if any(path.glob("*.safetensors")) or manifests(path):
            raise StoreError(f"{path}: holds shards but no {STORE_FILE} that says of what: give another folder")
        write_atomically(path / STORE_FILE, json.dumps({"format": FORMAT, **wanted}, indent=1) + "\n", writer=writer)
    first, ending = SAMPLES_FILE.split(".")
    return open_records(path / f"{first}{writer}.{ending}")


def manifests(path: Path) -> list[Path]:
    """Those of all writers of a store."""
    first, ending = SAMPLES_FILE.split(".")
    return sorted(path.glob(f"{first}*.{ending}"))


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds a store with the turns of all writers that have a manifest, so that none of these grows.

    Raises RunError while one is at work on this machine.
    """
    first, ending = SAMPLES_FILE.split(".")
    with ExitStack() as locks:
        for part in {"", *(file.name.removeprefix(first).removesuffix(f".{ending}") for file in manifests(path))}:
            locks.enter_context(locked(path, part))
        yield


def remove_store(path: Path) -> None:
    """Removes a store's own files from a folder, and the folder if nothing else is in it; nothing where there is none.

    Raises StoreError for a folder that holds shards but no store.json: whose they are is not known.
    """
    shards = sorted(path.glob("shard-*.safetensors"))
    if not (path / STORE_FILE).exists():
        if shards or manifests(path):
            raise StoreError(f"{path}: holds shards but no {STORE_FILE} that says of what: remove it by hand")
        return
    with held(path), writing(path):
        # store.json last: where removing is interrupted, what is left still says what it is.
        for file in (*manifests(path), *shards, *path.glob(".*.partial"), path / STORE_FILE):
            file.unlink(missing_ok=True)
    if not any(path.iterdir()):
        path.rmdir()


def append_shard(manifest: RecordFile, info: ShardInfo, samples: Sequence[Sample]) -> None:
    """Makes a shard count, whose file is on disk. Raises RunError on a full disk; the shard then does not count."""
    manifest.append(SHARD, info.shard, [asdict(info), *(asdict(sample) for sample in samples)], seconds=info.seconds)


def append_checksum(manifest: RecordFile, shard: str, checksum: str) -> None:
    """A shard that was made anew with other bytes (another machine rounds otherwise): this checksum counts now."""
    manifest.append(AGAIN, f"{shard} {checksum}", [{AGAIN: shard, "checksum": checksum}])


def read_shards(path: Path) -> list[ShardInfo]:
    """All shards that count, in the order of their samples."""
    found: dict[str, ShardInfo] = {}
    again: dict[str, str] = {}
    for file in manifests(path):
        for record in read_records(file):
            if SHARD in record:
                found.setdefault(record[SHARD], ShardInfo(**record))
            elif AGAIN in record:
                again[record[AGAIN]] = record["checksum"]
    counted: list[ShardInfo] = []
    end = 0
    for info in sorted(found.values(), key=lambda one: one.first):
        if info.first >= end:
            counted.append(replace(info, checksum=again.get(info.shard, info.checksum)))
            end = info.first + info.n_samples
    return counted


def read_samples(path: Path) -> Iterator[Sample]:
    """All samples of all manifests, in their order; one that two have once."""
    last = -1
    for sample in heapq.merge(*map(_samples, manifests(path)), key=lambda sample: sample.sample):
        if sample.sample > last:
            last = sample.sample
            yield sample


def _samples(file: Path) -> Iterator[Sample]:
    """Those of one manifest, whose writer goes through the prompts in their order."""
    return (Sample(**record) for record in read_records(file) if SHARD not in record and AGAIN not in record)
