"""Run folders, results/<experiment>/<model>/: one run each, owned by one process at a time.

run.json         what was run and on what, its state, and its tables as data
records.jsonl    every measured item (records.py)
records.parquet, table.md, figures/, files/    written when the run is complete
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_interp.errors import RunError
from mlx_interp.reporting.files import make_folder, write_atomically, writing

FORMAT = 1
"""The version of run.json and records.jsonl; raised when a reader of the old one would misread the new."""

RUN_FILE, RECORDS_FILE, TABLE_FILE, LOCK_FILE = "run.json", "records.jsonl", "table.md", ".lock"
LATEX_FILE, FILES_FOLDER = "table.tex", "files"
# run.json last: where removing them is interrupted, no records are left without what says whose they are.
OWN_FILES = (RECORDS_FILE, "records.parquet", TABLE_FILE, LATEX_FILE, RUN_FILE)
OWN_FIGURES = (".png", ".pdf", ".md")


def run_folder(out: Path, experiment: str, model: str) -> Path:
    """results/<experiment>/<model>, the model's name made fit for a file name."""
    return out / experiment / (re.sub(r"[^\w.+-]+", "--", model).strip(".-") or "model")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder: a second process that asks for it gets a RunError that names the first.

    The lock belongs to the open file, so it ends with the process, however that ends; a lock file that a killed
    process left behind locks nothing.
    """
    make_folder(folder)
    path = folder / LOCK_FILE
    descriptor = _acquire(path, block=False)
    try:
        os.ftruncate(descriptor, 0)
        with writing(path):
            os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def waiting_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for a moment, waiting for whoever holds it: for files that several runs rewrite."""
    make_folder(folder)
    path = folder / LOCK_FILE
    descriptor = _acquire(path, block=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, *, block: bool) -> int:
    while True:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
        except BlockingIOError as error:
            owner = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            raise RunError(
                f"{path.parent}: another run{f' (process {owner})' if owner else ''} is writing there; "
                "wait for it to end, or give another folder with --out DIR"
            ) from error
        # The holder before us removed the file on leaving: what we locked may no longer be what others will open.
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


@dataclass(frozen=True)
class RunFolder:
    """A folder whose run.json, if there is one, is of the same run."""

    path: Path
    earlier: Mapping[str, Any]
    """run.json as found; empty for a new run."""

    @property
    def records_path(self) -> Path:
        return self.path / RECORDS_FILE

    def write_run(self, content: Mapping[str, Any]) -> None:
        """Replace run.json. Raises RunError where it cannot be written."""
        text = json.dumps({"format": FORMAT, **content}, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(self.path / RUN_FILE, text + "\n")


def open_folder(path: Path, identity: Mapping[str, Any], *, fresh: bool) -> RunFolder:
    """A folder to start or resume the run that `identity` describes; with fresh=True, whatever it holds now.

    Reads only: `clear` removes an earlier run, once it is certain that the new one will start.
    Raises RunError when the folder holds another run, naming each difference, or files of an unknown format.
    """
    earlier = None if fresh else read_run(path)
    if earlier is None:
        if not fresh and (path / RECORDS_FILE).exists():
            raise RunError(f"{path}: holds records but no {RUN_FILE} that says of which run; start over with --fresh")
        return RunFolder(path, {})
    differences = list(_differences(earlier.get("identity", {}), identity))
    if differences:
        raise RunError(
            f"{path}: holds another run, which this one does not mix with:\n"
            + "".join(f"  {line}\n" for line in differences)
            + "start over with --fresh, or give another folder with --out DIR"
        )
    return RunFolder(path, earlier)


def read_run(path: Path) -> dict[str, Any] | None:
    """run.json of a folder; None where there is none. Raises RunError if it is broken or of another format."""
    file = path / RUN_FILE
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read: {error}; start over with --fresh") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise RunError(
            f"{file}: is of format {found}, this version reads {FORMAT}; start over with --fresh, "
            "or give another folder with --out DIR"
        )
    return dict(content)


def clear(path: Path) -> None:
    """Remove the files that a run writes (all of files/), and nothing else that may lie in the folder."""
    with writing(path):
        for name in OWN_FILES:
            (path / name).unlink(missing_ok=True)
        for file in sorted((path / "figures").glob("*")):
            if file.suffix in OWN_FIGURES:
                file.unlink()
        if (path / FILES_FOLDER).is_dir():
            shutil.rmtree(path / FILES_FOLDER)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in dict.fromkeys([*old, *new]):
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from _differences(before, now, f"{prefix}{name}: ")
        elif before != now:
            yield f"{prefix}{name}: {_shown(before)} there, {_shown(now)} now"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
