"""Run folders, runs/<experiment>/<model>/: one run each, owned by one process at a time.

run.json         what was run and on what, its state, and its tables as data
records.jsonl    every measured item (records.py)
records.parquet, table.md, figures/, files/    written when the run is complete

A folder that holds another run is kept aside, whole, as runs/earlier/<experiment>/<model>-<date>-<code>, and comes back
when that very run is asked for again. Published results lie in a tree of the same shape.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_interp.errors import ConfigError, RunError
from mlx_interp.reporting.files import make_folder, write_atomically, writing

FORMAT = 1
"""The version of run.json and records.jsonl; raised when a reader of the old one would misread the new."""

RUN_FILE, RECORDS_FILE, TABLE_FILE, LOCK_FILE = "run.json", "records.jsonl", "table.md", ".lock"
LATEX_FILE, FILES_FOLDER = "table.tex", "files"
EARLIER = "earlier"
"""The folder of runs that were kept aside, beside those of the experiments."""
ROOT = Path(__file__).resolve().parents[2]
RUNS, PUBLISHED = Path("runs"), Path("results")
"""Where runs go unless told otherwise, and where what is quoted lies; only publishing writes there."""


def writable(out: Path) -> Path:
    """A folder for runs. Raises ConfigError for one among this project's published results, which no run may touch."""
    if out.resolve().is_relative_to(ROOT / PUBLISHED):
        raise ConfigError(
            f"--out {out}: published results lie there, and no run writes to them; run into {RUNS} or another folder, "
            f"then publish with `python -m experiments publish EXPERIMENT --from DIR --to {out}`"
        )
    return out


def run_folder(out: Path, experiment: str, model: str) -> Path:
    """runs/<experiment>/<model>, the model's name made fit for a file name."""
    return out / experiment / (re.sub(r"[^\w.+-]+", "--", model).strip(".-") or "model")


@contextmanager
def locked(folder: Path, part: str = "") -> Iterator[None]:
    """Hold a run folder: a second process that asks for it gets a RunError that names the first.

    The lock belongs to the open file, so it ends with the process, however that ends; a lock file that a killed
    process left behind locks nothing. It lies beside the folder, which may be moved aside while it is held.
    part: what of the folder is held, where several processes each write their own.
    """
    make_folder(folder)
    path = folder.with_name(f".{folder.name}{part}{LOCK_FILE}")
    descriptor = _acquire(path, folder, block=False)
    try:
        with writing(path):
            os.ftruncate(descriptor, 0)
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
    descriptor = _acquire(path, folder, block=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, folder: Path, *, block: bool) -> int:
    while True:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
        except BlockingIOError as error:
            owner = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            raise RunError(
                f"{folder}: another run{f' (process {owner})' if owner else ''} is writing there; "
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
    """Where a run starts or goes on."""

    path: Path
    earlier: Mapping[str, Any]
    """run.json of this very run as found, here or kept aside; empty for a new run."""
    in_the_way: str = ""
    """What the folder holds instead, in words; empty where it is free or this run's own."""
    back: Path | None = None
    """Where this run was kept aside before."""

    @property
    def complete(self) -> bool:
        return self.earlier.get("status") == "complete"

    @property
    def records_path(self) -> Path:
        return self.path / RECORDS_FILE

    def write_run(self, content: Mapping[str, Any]) -> None:
        """Replace run.json. Raises RunError where it cannot be written."""
        text = json.dumps({"format": FORMAT, **content}, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(self.path / RUN_FILE, text + "\n")


def open_folder(path: Path, identity: Mapping[str, Any], *, fresh: bool) -> RunFolder:
    """A folder to start or resume the run that `identity` describes. Reads only: `make_room` then does what it says.

    Where the folder holds another run, a broken one, or any with fresh=True, that run is to be kept aside; a run of
    this very identity that was kept aside before is to come back in its place.
    """
    in_the_way = "start over, as asked" if fresh and (path / RUN_FILE).exists() else _in_the_way(path, identity)
    if not in_the_way and (path / RUN_FILE).exists():
        return RunFolder(path, read_run(path) or {})
    back = None if fresh else _kept_before(path, identity)
    if back is not None and not in_the_way and path.is_dir() and any(path.iterdir()):
        in_the_way = "files of no run"
    return RunFolder(path, (back and read_run(back)) or {}, in_the_way, back)


def _in_the_way(path: Path, identity: Mapping[str, Any]) -> str:
    """Why a folder cannot be used for this run; empty where it can."""
    try:
        earlier = read_run(path)
    except RunError as error:
        return " ".join(str(error).split())
    if earlier is None:
        return f"records without a {RUN_FILE} that says of which run" if (path / RECORDS_FILE).exists() else ""
    return "; ".join(_differences(earlier.get("identity", {}), identity))


def _kept_before(path: Path, identity: Mapping[str, Any]) -> Path | None:
    """The newest run of this identity that was kept aside."""
    named = re.compile(re.escape(path.name) + r"-\d{4}-\d\d-\d\d-\d{6}-.*")
    for folder in sorted(_earlier(path).glob("*"), reverse=True):
        if not named.fullmatch(folder.name):
            continue
        try:
            run = read_run(folder)
        except RunError:
            continue
        if run is not None and not any(_differences(run.get("identity", {}), identity)):
            return folder
    return None


def make_room(folder: RunFolder) -> list[str]:
    """Keep aside what is in the way of a run and bring back what was kept of it; a line for each, for the user.

    Folders are renamed whole, so a kill in between leaves each run in one of two places, and the next command goes on.
    """
    lines = []
    if folder.in_the_way:
        aside = keep_aside(folder.path)
        lines.append(f"{folder.path}: held another run ({folder.in_the_way}); it is kept as {aside}")
    if folder.back is not None:
        with writing(folder.path):
            os.rename(folder.back, folder.path)
        lines.append(f"{folder.path}: goes on with {folder.back}, which is this run")
    make_folder(folder.path)
    return lines


def keep_aside(path: Path) -> Path:
    """Move a run folder to <out>/earlier/<experiment>/<model>-<date>-<code>; returns the new place."""
    try:
        code = str((read_run(path) or {})["identity"]["code"])[:8]
    except (RunError, KeyError, TypeError):
        code = "unknown"
    name = f"{path.name}-{time.strftime('%Y-%m-%d-%H%M%S')}-{code}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    target = next(target for target in map(_earlier(path).joinpath, names) if not target.exists())
    make_folder(target.parent)
    with writing(path):
        os.rename(path, target)
    return target


def _earlier(path: Path) -> Path:
    return path.parent.parent / EARLIER / path.parent.name


def read_run(path: Path) -> dict[str, Any] | None:
    """run.json of a folder; None where there is none. Raises RunError if it is broken or of another format."""
    file = path / RUN_FILE
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise RunError(f"{file}: is of format {found}, this version reads {FORMAT}")
    return dict(content)


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
