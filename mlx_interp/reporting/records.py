"""records.jsonl: what was measured, appended as it is measured, whole items at a time.

1. All records of an item, and a last line that marks the item as done, are written in one go and synced to disk.
2. On opening, everything after the last mark that is preceded by nothing broken is cut off: an item counts whole or
   not at all. So a run that was killed at any moment continues with the first item that is not marked.
3. At the end the records are copied to records.parquet, for pandas, polars and DuckDB.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mlx_interp.deferred import pyarrow
from mlx_interp.errors import RunError
from mlx_interp.reporting.files import write_atomically, writing

Record: TypeAlias = dict[str, Any]

DONE = "_done"
"""The field that tells a mark from a record; no record may have it."""


@dataclass
class RecordFile:
    """An open records.jsonl. `done` maps (stage, key) of each finished item to the seconds it took."""

    path: Path
    done: dict[tuple[str, str], float] = field(default_factory=dict)
    discarded: int = 0
    """Bytes of unfinished or broken items that were cut off on opening."""
    _end: int = 0

    def append(self, stage: str, key: str, records: Iterable[Mapping[str, Any]], *, seconds: float = 0.0) -> None:
        """Write all records of an item and its mark, in one write, synced.

        Raises RunError for a value that JSON cannot hold, and for a full disk, after restoring the file to its
        state before the call.
        """
        lines = [json.dumps(plain(record, f"record of {key!r}"), ensure_ascii=False) for record in records]
        mark = {DONE: key, "stage": stage, "records": len(lines), "seconds": round(seconds, 3)}
        data = "".join(line + "\n" for line in [*lines, json.dumps(mark, ensure_ascii=False)]).encode("utf-8")
        with writing(self.path):
            self._write(data)
        self._end += len(data)
        self.done[stage, key] = seconds

    def _write(self, data: bytes) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.lseek(descriptor, self._end, os.SEEK_SET)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, self._end)
            raise
        finally:
            os.close(descriptor)

    def records(self, stage: str | None = None) -> list[Record]:
        """All records, or those of one stage, as they stand in the file: what a resumed run sees is what all see."""
        return [record for record in read_records(self.path) if stage is None or record.get("stage") == stage]


def open_records(path: Path) -> RecordFile:
    """Open or create a record file, cutting off what a killed run left unfinished. Raises RunError if unwritable."""
    file = RecordFile(path)
    if not path.exists():
        return file
    size = path.stat().st_size
    for end, mark in _marks(path):
        file.done[mark["stage"], mark[DONE]] = mark["seconds"]
        file._end = end
    file.discarded = size - file._end
    if file.discarded:
        with writing(path):
            os.truncate(path, file._end)
    return file


def read_records(path: Path) -> Iterator[Record]:
    """The records of all finished items, without the marks; nothing if there is no file."""
    if not path.exists():
        return
    pending: list[Record] = []
    for _, line in _parsed(path):
        if DONE not in line:
            pending.append(line)
        elif line.get("records") == len(pending):
            yield from pending
            pending = []
        else:
            return


def _marks(path: Path) -> Iterator[tuple[int, Record]]:
    """Each mark with the offset behind it, up to the first that does not close as many records as it says."""
    pending = 0
    for end, line in _parsed(path):
        if DONE not in line:
            pending += 1
        elif line.get("records") == pending:
            yield end, line
            pending = 0
        else:
            return


def _parsed(path: Path) -> Iterator[tuple[int, Record]]:
    """Each line with the offset behind it, up to the first that is torn or not an object."""
    end = 0
    with open(path, "rb") as file:
        for raw in file:
            end += len(raw)
            try:
                line = json.loads(raw) if raw.endswith(b"\n") else None
            except ValueError:
                return
            if not isinstance(line, dict):
                return
            yield end, line


def plain(value: Any, where: str) -> Any:
    """A value as JSON holds it: numpy scalars and arrays become numbers and lists, tuples become lists.

    Raises RunError, naming the field, for nan and infinity (JSON has neither, and in a measurement they are a fault
    to be found: write None where there is nothing to measure), keys that are not strings, and other objects.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RunError(f"{where}: {value} cannot be recorded; record None where there is nothing to measure")
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str) or name == DONE:
                raise RunError(f"{where}: {name!r} cannot be the name of a field; use any other string")
        return {name: plain(item, f"{where}, field {name!r}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, where) for item in value]
    raise RunError(f"{where}: {type(value).__name__} cannot be recorded; give numbers, strings, lists or dicts of them")


def finite(value: float) -> float | None:
    """The number, or None where it is nan or infinite: for measurements that may legitimately not exist."""
    return float(value) if math.isfinite(value) else None


def write_parquet(records: Sequence[Record], path: Path) -> None:
    """All records as one parquet file, one column per field; fields that a record lacks are null there.

    A field that holds a number in one record and a list in another (one rank; the ranks of all cells) becomes two
    columns, `rank` and `rank_list`, so that a number stays one to SQL and pandas. One whose values are otherwise of
    several kinds (a number here, a string there) becomes a column of JSON text.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    columns: dict[str, pyarrow.Array] = {}
    for name in names:
        values = [record.get(name) for record in records]
        in_lists = [value if isinstance(value, list) else None for value in values]
        alone = [None if isinstance(value, list) else value for value in values]
        if _any(in_lists) and _any(alone) and f"{name}_list" not in names:
            columns |= {name: _column(alone), f"{name}_list": _column(in_lists)}
        else:
            columns[name] = _column(values)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def _any(values: Sequence[Any]) -> bool:
    return any(value is not None for value in values)


def _column(values: Sequence[Any]) -> pyarrow.Array:
    try:
        return pyarrow.array([float(v) if _number(v) else v for v in values] if _mixed(values) else values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
        return pyarrow.array([None if value is None else json.dumps(value, ensure_ascii=False) for value in values])


def _mixed(values: Sequence[Any]) -> bool:
    """Whole and broken numbers in one column, as JSON writes 1.0 and 1: one kind to a reader."""
    return {type(value) for value in values if value is not None} == {int, float}


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
