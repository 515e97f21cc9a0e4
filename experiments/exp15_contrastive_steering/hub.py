"""Rows of a data set on the Hub, streamed with the `datasets` library, and kept: the same draw is never fetched twice.

Only rows of the subset that is asked for are read: files of parquet are filtered where they lie, by the statistics of
their row groups; others are read until there are enough rows. What was drawn is kept in this user's cache as JSON
Lines, so that a run can be repeated, or resumed, without network.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from experiments.exp15_contrastive_steering.chats import Chat, parse_chat
from mlx_interp.errors import DataError, nearest
from mlx_interp.loading.cache_folder import cache_folder

FOLDER = "data_sets"
INSTALL = 'python -m pip install "mlx_interp[data]"'


@dataclass(frozen=True)
class Draw:
    """What is asked of a data set: its first rows of one subset."""

    repository: str
    """owner/name, with @revision to pin a branch, tag or commit."""
    split: str
    column: str | None
    """The column that names the subset; None for rows of any."""
    value: str
    limit: int | None
    """At most so many rows; None for all."""

    @property
    def path(self) -> Path:
        """Where the rows are kept."""
        key = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]
        name = (self.value or self.repository).rpartition("/")[2].partition("@")[0]
        return cache_folder() / FOLDER / f"{name}-{key}.jsonl"


def drawn(draw: Draw) -> list[Chat]:
    """The chats of a draw, from the cache if it is there, else from the Hub.

    Raises DataError without the `datasets` library, for a data set, split or column that does not exist, a subset
    without rows, and without network.
    """
    kept = _read(draw.path)
    if kept is not None:
        return kept
    chats = [parse_chat(row, number, f"{draw.repository}, row {number}") for number, row in enumerate(_streamed(draw))]
    if not chats:
        raise DataError(f"{draw.repository}, split {draw.split!r}: no row whose {draw.column} is {draw.value!r}")
    _write(draw.path, chats, draw)
    return chats


def _streamed(draw: Draw) -> Iterator[dict[str, Any]]:
    """Rows from the Hub, every failure of the library told as what it means here."""
    try:
        import datasets  # optional, and slow to import
    except ImportError as error:
        raise DataError(f"{draw.repository}: data sets of the Hub need the datasets library: {INSTALL}") from error
    name, _, revision = draw.repository.partition("@")
    datasets.utils.logging.set_verbosity_error()
    options: dict[str, Any] = {"split": draw.split, "streaming": True, "revision": revision or None}
    filters = {"filters": [(draw.column, "==", draw.value)]} if draw.column else {}
    try:
        try:
            rows = datasets.load_dataset(name, **options, **filters)
        except (TypeError, ValueError) as error:
            if not filters or "filters" not in str(error):
                raise
            rows = datasets.load_dataset(name, **options)  # not parquet: its reader takes no filters
        columns = list(rows.column_names or [])
        if draw.column and columns and draw.column not in columns:
            raise DataError(
                f"{name}: no column {draw.column!r}: {nearest(draw.column, columns)}columns are {', '.join(columns)}"
            )
        matching = (row for row in rows if not draw.column or str(row.get(draw.column)) == draw.value)
        yield from islice(matching, draw.limit)
    except DataError:
        raise
    except Exception as error:  # the library raises what fsspec, httpx, pyarrow and the Hub's client raise
        raise DataError(f"{draw.repository}, split {draw.split!r}: {_told(error)}") from error


def _told(error: Exception) -> str:
    """What an error of the library means for a user."""
    text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    causes = f"{text} {type(error.__cause__).__name__} {type(error.__context__).__name__}"
    if any(word in causes for word in ("Connect", "Offline", "Timeout", "LocalEntryNotFound", "MaxRetry")):
        return (
            f"the Hub cannot be reached ({text}), and these rows are not kept here from an earlier run; connect once, "
            "or give a local file with --data chats.jsonl, or --data project for what is written in this project"
        )
    if "NotFound" in text or "401" in text or "404" in text:
        return f"not found on the Hub, or not open to you ({text}); check the name, or log in with `hf auth login`"
    return f"cannot be read: {text}"


def _read(path: Path) -> list[Chat] | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        chats = [Chat(**json.loads(line)) for line in lines[1:]]
        return chats if json.loads(lines[0])["n"] == len(chats) else None
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


def _write(path: Path, chats: list[Chat], draw: Draw) -> None:
    """In one step; failing costs a download the next time and nothing else."""
    about = {**asdict(draw), "n": len(chats), "made": round(time.time())}
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (about, *map(asdict, chats)))
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        print(f"{path}: the drawn rows cannot be kept: {error}", file=sys.stderr)
        with suppress(OSError):
            part.unlink(missing_ok=True)
