"""A run folder belongs to one run and one process."""

from __future__ import annotations

import errno
import json
import multiprocessing
import multiprocessing.synchronize
import os
import re
from pathlib import Path
from typing import Any

import pytest

from mlx_interp.errors import ConfigError, RunError
from mlx_interp.reporting.files import write_atomically
from mlx_interp.reporting.folders import (
    PUBLISHED,
    ROOT,
    keep_aside,
    locked,
    make_room,
    open_folder,
    run_folder,
    waiting_lock,
    writable,
)

IDENTITY: dict[str, Any] = {"config": {"seed": 0, "layers": [1, 2]}, "weights": "abc", "code": "123456abcdef"}
OTHER: dict[str, Any] = IDENTITY | {"config": {"seed": 3, "layers": [1, 2]}, "weights": "abd"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def run_in(out: Path, identity: dict[str, Any], model: str = "tiny") -> Path:
    """A run folder with a figure."""
    path = run_folder(out, "exp9", model)
    (path / "figures").mkdir(parents=True, exist_ok=True)
    (path / "figures" / "heat.png").write_text(f"of seed {identity['config']['seed']}")
    open_folder(path, identity, fresh=False).write_run({"identity": identity})
    return path


def kept(out: Path) -> list[Path]:
    """What was kept aside of exp9."""
    return sorted((out / "earlier" / "exp9").iterdir())


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


def test_what_differs_is_named_with_both_values_and_kept_aside(out: Path):
    path = run_in(out, IDENTITY)
    assert open_folder(path, IDENTITY, fresh=False).earlier["identity"] == IDENTITY
    found = open_folder(path, OTHER, fresh=False)
    assert found.in_the_way == 'config: seed: 0 there, 3 now; weights: "abc" there, "abd" now'
    assert found.earlier == {}
    (line,) = make_room(found)
    (aside,) = kept(out)
    assert re.fullmatch(r"tiny-\d{4}-\d\d-\d\d-\d{6}-123456ab", aside.name)
    assert "\n" not in line
    for part in (str(path), "seed: 0 there, 3 now", str(aside)):
        assert part in line
    assert list(path.iterdir()) == []
    assert (aside / "figures" / "heat.png").read_text() == "of seed 0"


def test_a_run_that_was_kept_aside_comes_back_when_it_is_asked_for(out: Path):
    path = run_in(out, IDENTITY)
    make_room(open_folder(path, OTHER, fresh=False))
    run_in(out, OTHER)
    back = open_folder(path, IDENTITY, fresh=False)
    assert back.earlier["identity"] == IDENTITY
    assert len(make_room(back)) == 2
    assert (path / "figures" / "heat.png").read_text() == "of seed 0"
    assert [(folder / "figures" / "heat.png").read_text() for folder in kept(out)] == ["of seed 3"]


def test_a_kill_between_the_two_moves_loses_nothing(out: Path, monkeypatch: pytest.MonkeyPatch):
    path = run_in(out, IDENTITY)
    make_room(open_folder(path, OTHER, fresh=False))
    run_in(out, OTHER)
    rename, done = os.rename, []

    def killed(*names: Path) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(rename(*names))

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        make_room(open_folder(path, IDENTITY, fresh=False))
    monkeypatch.undo()
    assert len(kept(out)) == 2
    make_room(open_folder(path, IDENTITY, fresh=False))
    assert (path / "figures" / "heat.png").read_text() == "of seed 0"


def test_starting_over_keeps_even_the_same_run_aside(out: Path):
    path = run_in(out, IDENTITY)
    (path / "notes.md").write_text("mine")
    for _ in range(2):  # twice in one second
        make_room(open_folder(path, IDENTITY, fresh=True))
        run_in(out, IDENTITY)
    assert len(kept(out)) == 2
    assert sum((folder / "notes.md").exists() for folder in kept(out)) == 1


def test_a_folder_that_cannot_be_moved_stays_whole(out: Path, monkeypatch: pytest.MonkeyPatch):
    path = run_in(out, IDENTITY)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(RunError, match="the disk is full; everything measured so far is kept"):
        make_room(open_folder(path, OTHER, fresh=False))
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 0}', '{"format": 99}', '{"identity": {}}'])
def test_old_or_broken_formats_are_kept_aside_and_named(out: Path, content: str):
    path = run_in(out, IDENTITY)
    (path / "run.json").write_text(content)
    found = open_folder(path, IDENTITY, fresh=False)
    assert "run.json" in found.in_the_way
    assert "\n" not in found.in_the_way
    make_room(found)
    assert [(folder / "run.json").read_text() for folder in kept(out)] == [content]


def test_records_that_nobody_owns_are_not_adopted(out: Path):
    path = run_in(out, IDENTITY)
    (path / "run.json").unlink()
    (path / "records.jsonl").write_text("")
    found = open_folder(path, IDENTITY, fresh=False)
    assert found.in_the_way == "records without a run.json that says of which run"
    make_room(found)
    assert not (path / "records.jsonl").exists()


def test_a_model_called_like_the_folder_of_earlier_runs_is_kept_aside_too(out: Path):
    path = run_in(out, IDENTITY, model="earlier")
    assert keep_aside(path).parent == out / "earlier" / "exp9"


def test_no_run_goes_among_the_published_results():
    for out in (PUBLISHED, PUBLISHED / "lenses", PUBLISHED / ".." / "results"):
        with pytest.raises(ConfigError, match=r"published results lie there.*experiments publish"):
            writable(ROOT / out)
    assert writable(Path("runs")) == Path("runs")


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
