"""records.jsonl holds whole items only, whatever happened to the process or the disk."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mlx_interp.errors import RunError
from mlx_interp.reporting.records import finite, open_records, read_records, write_parquet

TWO_ROWS = [{"layer": 0, "fixed": True}, {"layer": 1, "fixed": False}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with two finished items."""
    file = open_records(tmp_path / "records.jsonl")
    file.append("grid", "first", TWO_ROWS, seconds=1.5)
    file.append("grid", "second", [{"layer": 2, "fixed": True}], seconds=0.5)
    return tmp_path / "records.jsonl"


def test_records_come_back_as_they_were_written(path: Path):
    assert list(read_records(path)) == [*TWO_ROWS, {"layer": 2, "fixed": True}]
    assert open_records(path).done == {("grid", "first"): 1.5, ("grid", "second"): 0.5}


def test_a_file_cut_anywhere_keeps_exactly_its_whole_items(path: Path):
    whole = path.read_bytes()
    first_end = whole.index(b"\n", whole.index(b'"_done": "first"')) + 1
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        file = open_records(path)
        expected = first_end if cut >= first_end else 0
        assert path.stat().st_size == expected
        assert file.discarded == cut - expected
        assert len(file.done) == (cut >= first_end)
        assert len(list(read_records(path))) == (2 if cut >= first_end else 0)


def test_a_resumed_file_equals_an_undisturbed_one(path: Path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    open_records(path).append("grid", "second", [{"layer": 2, "fixed": True}], seconds=0.5)
    assert path.read_bytes() == whole


def test_a_broken_line_in_the_middle_costs_what_follows_and_no_more(path: Path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"\0\0\0\n", *lines[3:]]))
    assert list(open_records(path).done) == [("grid", "first")]


def test_a_mark_that_does_not_fit_its_records_ends_the_file(path: Path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    assert open_records(path).done == {}
    assert path.stat().st_size == 0


def test_an_item_without_records_is_done_all_the_same(tmp_path: Path):
    open_records(tmp_path / "r.jsonl").append("grid", "empty", [])
    assert ("grid", "empty") in open_records(tmp_path / "r.jsonl").done


def test_a_full_disk_takes_nothing_back_and_leaves_nothing_torn(path: Path, monkeypatch: pytest.MonkeyPatch):
    before = path.read_bytes()
    file = open_records(path)
    real_write = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) > 20:
            return real_write(descriptor, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    # Twenty bytes a call get through, then the disk is full.
    monkeypatch.setattr(os, "write", lambda descriptor, data: full(descriptor, data[:21]))
    with pytest.raises(RunError, match=r"records.jsonl: cannot be written: the disk is full; everything measured"):
        file.append("grid", "third", [{"layer": n} for n in range(9)])
    assert path.read_bytes() == before
    monkeypatch.undo()
    file.append("grid", "third", [{"layer": 3}])
    assert [key for _, key in open_records(path).done] == ["first", "second", "third"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan"), np.array([1.0, np.inf])])
def test_nan_and_infinity_are_refused_by_field_and_item(tmp_path: Path, bad: Any):
    file = open_records(tmp_path / "r.jsonl")
    with pytest.raises(RunError, match=r"record of 'Dallas', field 'log_prob': .* record None"):
        file.append("grid", "Dallas", [{"log_prob": bad}])
    assert not (tmp_path / "r.jsonl").exists()


def test_what_may_not_exist_is_recorded_as_nothing():
    assert [finite(value) for value in (1, np.float32(0.5), math.nan, -math.inf)] == [1.0, 0.5, None, None]


def test_numpy_values_are_recorded_as_plain_ones(tmp_path: Path):
    record = {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.eye(2), "e": (1, None)}
    open_records(tmp_path / "r.jsonl").append("grid", "x", [record])
    plain = {"a": 0.5, "b": 3, "c": True, "d": [[1.0, 0.0], [0.0, 1.0]], "e": [1, None]}
    assert list(read_records(tmp_path / "r.jsonl")) == [plain]


@pytest.mark.parametrize(
    ("bad", "named"), [({"a": object()}, "object"), ({1: 2}, "1"), ({"_done": 1}, "_done"), ({"a": {"b": {2}}}, "set")]
)
def test_other_objects_are_refused_by_name(tmp_path: Path, bad: Any, named: str):
    with pytest.raises(RunError, match=named):
        open_records(tmp_path / "r.jsonl").append("grid", "x", [bad])


def test_text_of_any_language_survives(tmp_path: Path):
    text = '首都は\u2028?\n"x"'
    open_records(tmp_path / "r.jsonl").append("grid", text, [{"prompt": text}])
    assert list(read_records(tmp_path / "r.jsonl")) == [{"prompt": text}]
    assert ("grid", text) in open_records(tmp_path / "r.jsonl").done


def test_parquet_holds_every_field_with_nulls_where_a_record_lacks_it(tmp_path: Path):
    records = [{"a": 1, "b": "x"}, {"a": 2.5, "grid": [[1, None], [3, 4]]}, {"b": "y", "mixed": 1}, {"mixed": "text"}]
    write_parquet(records, tmp_path / "r.parquet")
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert [row["a"] for row in rows] == [1.0, 2.5, None, None]
    assert rows[1]["grid"] == [[1, None], [3, 4]]
    assert [row["mixed"] for row in rows] == [None, None, "1", '"text"']


def test_parquet_of_no_records_opens(tmp_path: Path):
    write_parquet([], tmp_path / "r.parquet")
    assert pq.read_table(tmp_path / "r.parquet").num_rows == 0


def test_every_line_is_json_that_strict_readers_accept(path: Path):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
