"""A run folder belongs to one run and one process."""

from __future__ import annotations

import errno
import json
import multiprocessing
import multiprocessing.synchronize
import os
from pathlib import Path

import pytest

from mlx_interp.errors import RunError
from mlx_interp.reporting.files import write_atomically
from mlx_interp.reporting.folders import clear, locked, open_folder, run_folder, waiting_lock

IDENTITY = {"config": {"seed": 0, "layers": [1, 2]}, "weights": "abc"}


def hold(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    with locked(path):
        ready.set()
        multiprocessing.Event().wait()


def test_a_second_process_is_told_who_is_writing_and_a_killed_one_leaves_no_lock(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    with (
        pytest.raises(RunError, match=rf"another run \(process {process.pid}\) is writing there.*--out DIR"),
        locked(tmp_path),
    ):
        pass
    process.kill()
    process.join()
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_free_again_after_an_error(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with waiting_lock(tmp_path):
        pass


@pytest.mark.parametrize("name", ["mlx-community/gemma-2-9b-it-4bit", "./my models/x", "../../etc", "gemma-2-9b:8bit"])
def test_any_model_name_becomes_one_folder_below_the_experiment(tmp_path: Path, name: str):
    path = run_folder(tmp_path, "exp9", name)
    assert path.resolve().parent == tmp_path / "exp9"


def test_what_differs_is_named_with_both_values(tmp_path: Path):
    open_folder(tmp_path, IDENTITY, fresh=False).write_run({"identity": IDENTITY})
    assert open_folder(tmp_path, IDENTITY, fresh=False).earlier["identity"] == IDENTITY
    other = {"config": {"seed": 3, "layers": [1, 2]}, "weights": "abd"}
    with pytest.raises(RunError) as error:
        open_folder(tmp_path, other, fresh=False)
    message = str(error.value)
    assert "config: seed: 0 there, 3 now" in message
    assert 'weights: "abc" there, "abd" now' in message
    assert "layers" not in message
    assert "--fresh" in message
    assert "--out DIR" in message
    assert open_folder(tmp_path, other, fresh=True).earlier == {}


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 0}', '{"format": 99}', '{"identity": {}}'])
def test_old_or_broken_formats_are_refused_with_the_way_out(tmp_path: Path, content: str):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run.json: .*--fresh"):
        open_folder(tmp_path, IDENTITY, fresh=False)


def test_records_that_nobody_owns_are_not_adopted(tmp_path: Path):
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(RunError, match=r"no run.json .*--fresh"):
        open_folder(tmp_path, IDENTITY, fresh=False)


def test_starting_over_removes_what_runs_write_and_nothing_else(tmp_path: Path):
    (tmp_path / "figures").mkdir()
    for name in ("run.json", "records.jsonl", "table.md", "figures/heat.png", "figures/heat.pdf"):
        (tmp_path / name).write_text("x")
    for name in ("notes.md", "figures/drawing.svg"):
        (tmp_path / name).write_text("mine")
    clear(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["drawing.svg", "notes.md"]


def test_a_file_in_the_way_of_a_folder_is_an_error_with_a_way_out(tmp_path: Path):
    (tmp_path / "results").write_text("a file")
    with (
        pytest.raises(RunError, match=r"in the way of a folder; give another folder with --out DIR"),
        locked(tmp_path / "results" / "x"),
    ):
        pass


def test_a_folder_without_permission_is_an_error_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(RunError, match=r"no permission to write there; give another folder with --out DIR"),
        locked(tmp_path / "x"),
    ):
        pass


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "table.md"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_run_json_refuses_what_is_not_json(tmp_path: Path):
    folder = open_folder(tmp_path, IDENTITY, fresh=False)
    folder.write_run({"identity": IDENTITY})
    with pytest.raises(ValueError, match="Out of range float"):
        folder.write_run({"identity": IDENTITY, "x": float("nan")})
    assert json.loads((tmp_path / "run.json").read_text())["identity"] == IDENTITY
