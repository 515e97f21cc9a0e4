"""This build against an earlier one, side by side: what a change has made faster, and that it made nothing slower.

    python -m benchmarks.earlier                            sweeps, runs and generation against the first release
    python -m benchmarks.earlier --commit HEAD~5            against another commit of this repository
    python -m benchmarks.earlier --only sweep --rounds 9    cases whose names contain the word
    python -m benchmarks.earlier --model FOLDER             all pairs of a trained model's layers, on 8 tokens
    python -m benchmarks.earlier --command "-m validation --model tiny-llama --out {out}" --rounds 1

The earlier build is checked out into build/earlier/COMMIT (once). Each build has a process of its own, started anew for
every case; they take turns, one computing while the other waits, so that a drift of the machine's speed hits both. A
ratio is this build's time over the earlier one's (processor time on a CPU), round by round. Both must return the same:
exit status 1 where they differ by more than 1e-4, or where this build is slower than --bound in the median. A command
is timed whole: the seconds that processors spent on it, each time with a new folder for {out}.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console

from benchmarks.startup import children_seconds
from benchmarks.timing import Ratio
from mlx_interp.reporting import Table

FIRST = "f186c9a"
"""The first release, 2026-11-21."""
ROOT = Path(__file__).resolve().parents[1]
SAME = 1e-4
"""Largest relative difference between what the two builds return, float32."""
FAMILIES, LENGTHS = ("llama", "gemma2", "qwen2"), (16, 64)
SWEEPS = [
    f"sweep {family} {tokens} {grid} {position}"
    for family in FAMILIES
    for tokens in LENGTHS
    for grid in ("pairs", "heads")
    for position in ("last", "middle")
]
RUNS = [f"{what} {family} {tokens}" for what in ("run", "capture") for family in FAMILIES for tokens in LENGTHS]
GENERATIONS = [f"generate {family} {rows}" for family in FAMILIES for rows in (1, 8)]
OTHERS = [
    f"sweep {family} 16 {grid} {position}"
    for family in ("qwen3", "gemma", "phi3", "granite", "gemma3_text", "gpt2")
    for grid in ("pairs", "heads")
    for position in ("last", "middle")
]
"""Of the other families of the first release (Mistral is Llama's class)."""
CASES = [*SWEEPS, *OTHERS, *RUNS, *GENERATIONS]


def checkout(commit: str) -> Path:
    """The earlier build's files, from this repository's history."""
    name = _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").strip()
    if not name:
        raise SystemExit(f"no commit {commit!r} here: a clone with its history is needed (git fetch --unshallow)")
    folder = ROOT / "build" / "earlier" / name[:12]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            archive = subprocess.Popen(["git", "-C", str(ROOT), "archive", name], stdout=subprocess.PIPE)
            subprocess.run(["tar", "-x", "-C", unfinished], stdin=archive.stdout, check=True)
            if archive.wait():
                raise SystemExit(f"git archive {commit} failed")
            Path(unfinished).rename(folder)
            Path(unfinished).mkdir()  # what the context removes
    return folder


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False).stdout


class Build:
    """One build's process, which prepares one case and then computes it as often as it is asked to."""

    def __init__(self, folder: Path, case: str) -> None:
        # -P: not the script's own folder but the build's stands on the path.
        command = [sys.executable, "-P", str(ROOT / "benchmarks" / "earlier_cases.py"), case]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._hear()

    def seconds(self) -> float:
        return float(self._ask("run")["seconds"])

    def output(self) -> np.ndarray:
        return np.array(self._ask("output")["values"], dtype=np.float64)

    def close(self) -> None:
        _pipe(self.process.stdin).close()
        self.process.wait()

    def _ask(self, what: str) -> dict[str, Any]:
        asked = _pipe(self.process.stdin)
        asked.write(what + "\n")
        asked.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        for line in _pipe(self.process.stdout):
            if line.startswith("{"):  # what libraries print stands between
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise SystemExit(f"the process of {self.process.args!r} ended: its message stands above")


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def compare(case: str, earlier: Path, rounds: int) -> tuple[Ratio, float, float]:
    """This build's time over the earlier one's, its seconds, and the largest relative difference of their results."""
    old, new = Build(earlier, case), Build(ROOT, case)
    try:
        was, now = old.output(), new.output()
        difference = float(np.abs(was - now).max() / max(np.abs(was).max(), 1e-30))
        pairs = [_turn(old.seconds, new.seconds, first=turn % 2) for turn in range(rounds)]
    finally:
        old.close()
        new.close()
    found = [mine / theirs for theirs, mine in pairs]
    return Ratio(statistics.median(found), min(found), max(found)), statistics.median(p[1] for p in pairs), difference


def _turn(old: Callable[[], float], new: Callable[[], float], first: int) -> tuple[float, float]:
    """One round: who begins changes from round to round, so that no order is favoured."""
    if first:
        mine = new()
        return old(), mine
    theirs = old()
    return theirs, new()


def processor_seconds(folder: Path, command: str) -> float:
    """Seconds that processors spend on a command of one build. Raises SystemExit where it fails."""
    with tempfile.TemporaryDirectory() as out:
        arguments = [sys.executable, *(word.replace("{out}", out) for word in shlex.split(command))]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        before = children_seconds()
        done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        spent = children_seconds() - before
    if done.returncode:
        said = done.stdout[-2000:] + done.stderr[-2000:]
        raise SystemExit(f"status {done.returncode} of {command!r} in {folder}:\n{said}")
    return spent


def _of_command(command: str, earlier: Path, commit: str, rounds: int, bound: float) -> int:
    pairs = [
        _turn(lambda: processor_seconds(earlier, command), lambda: processor_seconds(ROOT, command), first=turn % 2)
        for turn in range(rounds)
    ]
    found = [mine / theirs for theirs, mine in pairs]
    ratio = Ratio(statistics.median(found), min(found), max(found))
    then, now = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    title = f"Processor time of this build over that of {commit}, {rounds} rounds: median (range)"
    columns = ["command", "ratio", f"{commit} (s)", "this build (s)"]
    row = [f"python {command}", str(ratio), f"{then:.1f}", f"{now:.1f}"]
    Console().print(Table(title, columns, [row]).markdown(), markup=False, soft_wrap=True)
    return 1 if ratio.median > bound else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.earlier", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", default=FIRST, help="the earlier build (default: the first release)")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="cases named with all these words")
    parser.add_argument("--model", metavar="FOLDER", help="a model in Hub layout, as both builds load it")
    parser.add_argument("--command", metavar="TEXT", help="what follows `python`: both builds run it")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--bound", type=float, default=1.03, metavar="R", help="the slowest median that passes")
    parser.add_argument("--smoke", action="store_true", help="one short case, one round; any ratio passes")
    options = parser.parse_args()
    if options.smoke and not _git("rev-parse", "--verify", "--quiet", f"{options.commit}^{{commit}}"):
        print(f"no history here, so no commit {options.commit}: nothing to compare with")
        return 0
    earlier = checkout(options.commit)
    if options.command:
        return _of_command(options.command, earlier, options.commit, options.rounds, options.bound)
    known = [f"real {position} {options.model}" for position in ("last", "middle")] if options.model else CASES
    chosen = [case for case in known if all(word in case for word in options.only)]
    if options.smoke:
        chosen = ["sweep llama 16 pairs last"]
    if not chosen:
        raise SystemExit(f"no case has {' and '.join(options.only)} in its name; there are {', '.join(known)}")
    rows, failed = [], []
    for case in chosen:
        ratio, seconds, difference = compare(case, earlier, 1 if options.smoke else options.rounds)
        rows.append([case, str(ratio), f"{1e3 * seconds:.1f}", f"{difference:.0e}"])
        print(f"{case}: {ratio}", file=sys.stderr)
        if difference > SAME or (ratio.median > options.bound and not options.smoke):
            failed.append(case)
    title = f"This build's time over that of {options.commit}, {options.rounds} rounds: median (range)"
    table = Table(title, ["case", "ratio", "this build (ms)", "difference"], rows)
    Console().print(table.markdown(), markup=False, soft_wrap=True)
    if failed:
        print(f"slower than {options.bound}, or not the same: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
