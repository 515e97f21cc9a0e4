"""Publishing results: `python -m experiments publish exp9` copies finished runs from runs/ into results/.

Runs never touch published results; this does, one run folder at a time: the new one is copied beside the old, then
takes its place in one step, so that a kill leaves the one or the other, whole. Published is what people read: the
tables, run.json, each run's first four pictures (two of an embedded model's) and its pages; records, data files and
figures for print stay with the run. Tables over models, the index and the coverage table are made anew. Runs that are
not complete, not validated or cut short by --limit are refused.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.harness.coverage import write_coverage
from experiments.harness.options import Parser
from mlx_interp.errors import DataError, MlxInterpError, RunError, nearest
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.reporting.files import make_folder, swap_folders, write_atomically, writing
from mlx_interp.reporting.folders import (
    EARLIER,
    FILES_FOLDER,
    PUBLISHED,
    RUN_FILE,
    RUNS,
    TABLE_FILE,
    locked,
    read_run,
)
from mlx_interp.reporting.index import COVERAGE_FILE, runs, write_overviews
from mlx_interp.studies import invocation

VALIDATION = "validation"
PICTURES, BENCH_PICTURES = 4, 2
"""How many of a run's pictures are published, and of an embedded model's: figures are in the order of their weight."""
PAGES = (".html", ".md")
"""Endings of what is published of files/: what people read."""
PICTURE = re.compile(r"!\[([^\]]*)\]\(figures/([^)]+)\)")
EXAMPLES = """examples:
  python -m experiments publish exp9 --model tiny-llama
  python -m experiments publish all
  python -m experiments publish exp9 --from runs/short_form --to results/short_form
"""


@dataclass(frozen=True)
class Move:
    """A run folder, or a validation report, and where it goes."""

    source: Path
    target: Path
    experiment: str
    """Empty for a validation report."""
    fault: str = ""
    """Why it should not be published."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 where something is refused; nothing is then published."""
    try:
        options = parser().parse_args(arguments)
        for line in publish(
            options.what, options.models or (), source=options.source, target=options.target, anyway=options.anyway
        ):
            print(line)
    except MlxInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; every folder is whole, old or new: the same command goes on", file=sys.stderr)
        return 130
    return 0


def publish(
    what: Sequence[str], models: Sequence[str] = (), *, source: Path, target: Path, anyway: bool = False
) -> Iterator[str]:
    """Publish runs of experiments (full or short names, "validation", or "all"); yields a line for each.

    models: only these. anyway: also what is not complete, validated or whole.
    Raises DataError where there is nothing of that name, RunError, before anything is written, for what is refused.
    """
    moves = list(_moves(what, set(models), source, target))
    refused = [move for move in moves if move.fault]
    if refused and not anyway:
        raise RunError(
            "nothing is published:\n"
            + "".join(f"  {move.source}: {move.fault}\n" for move in refused)
            + "finish these runs, name others, or publish them as they are with --anyway"
        )
    for move in moves:
        yield _published(move)
    for experiment in dict.fromkeys(move.experiment for move in moves if move.experiment):
        yield from map(str, write_overviews(target, experiment))
    listed = [folder for folder in (target.resolve(), *target.resolve().parents) if (folder / COVERAGE_FILE).is_file()]
    if listed and any(move.experiment for move in moves):
        yield str(write_coverage(listed[0]))


def _moves(what: Sequence[str], models: set[str], source: Path, target: Path) -> Iterator[Move]:
    there = sorted(path.name for path in source.glob("*") if path.is_dir() and path.name != EARLIER)
    there = [name for name in there if name == VALIDATION or runs(source / name)]
    if not there:
        raise DataError(f"{source}: no run there to publish; run an experiment first, or name the folder with --from")
    left = set(models)
    for name in there if "all" in what else [_named(name, there, source) for name in what]:
        found = list(_reports(source, target) if name == VALIDATION else _runs(name, source, target))
        for model, move in found:
            if not models or model in models:
                left.discard(model)
                yield move
    if left:
        raise DataError(f"{source}: no run of {', '.join(sorted(left))} there; without --model all are published")


def _named(name: str, there: Sequence[str], source: Path) -> str:
    matches = [full for full in there if name in (full, full.partition("_")[0])]
    if not matches:
        raise DataError(f"{source}: no run of {name!r} there: {nearest(name, there)}there are {', '.join(there)}")
    return matches[0]


def _runs(experiment: str, source: Path, target: Path) -> Iterator[tuple[str, Move]]:
    for path, run in runs(source / experiment).items():
        yield run["model"]["name"], Move(path, target / experiment / path.name, experiment, _fault(run))


def _fault(run: Any) -> str:
    if run["status"] != "complete":
        return f"not complete ({run['status']})"
    if not run["validated"]:
        return "not validated"
    limit = run["identity"].get("config", {}).get("limit")
    return f"measured with --limit {limit}" if limit is not None else ""


def _reports(source: Path, target: Path) -> Iterator[tuple[str, Move]]:
    for path in sorted((source / VALIDATION).glob("*.md")):
        fault = "the model failed" if f"{path.stem}: FAILED" in path.read_text(encoding="utf-8") else ""
        yield path.stem, Move(path, target / VALIDATION / path.name, "", fault)


def _published(move: Move) -> str:
    """Put one folder or report in its place; says what it replaces."""
    if not move.experiment:
        replaced = f"replaces {move.target}" if move.target.exists() else f"new: {move.target}"
        make_folder(move.target.parent)
        write_atomically(move.target, move.source.read_bytes())
        return f"{move.source}: {replaced}"
    with locked(move.source), locked(move.target):
        before, now = _described(move.target), _described(move.source)
        replace_folder(move.source, move.target)
    return f"{move.source} ({now}): {f'replaces {move.target} ({before})' if before else f'new: {move.target}'}"


def _described(folder: Path) -> str:
    """When a run ended, by which code; empty where there is none."""
    try:
        run = read_run(folder)
    except RunError:
        return f"a {RUN_FILE} that cannot be read"
    if run is None:
        return ""
    return f"{run.get('finished') or run['status']}, code {str(run['identity'].get('code', 'unknown'))[:8]}"


def replace_folder(source: Path, target: Path) -> None:
    """A copy of a folder in the place of another one, in one step. Raises RunError; the old one is then as it was."""
    fresh = target.with_name(f".{target.name}.new")
    try:
        contents = list(readable(source))
    except OSError as error:
        raise RunError(
            f"{source}: {error.filename} cannot be read: {error.strerror}; run the study again with --fresh"
        ) from error
    with writing(target):
        try:
            shutil.rmtree(fresh, ignore_errors=True)  # what a killed one left
            fresh.mkdir()
            for name, content in contents:
                make_folder((fresh / name).parent)
                write_atomically(fresh / name, content)
            swap_folders(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def readable(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """What is published of a run folder: names in it, and contents, without where the publisher's files lie."""
    table = (folder / TABLE_FILE).read_text(encoding="utf-8")
    run = (folder / RUN_FILE).read_text(encoding="utf-8")
    state = json.loads(run)
    places = _places(state)
    most = BENCH_PICTURES if state.get("model", {}).get("id") in EMBEDDED else PICTURES
    shown = [match[2] for match in PICTURE.finditer(table)][:most]
    yield Path(RUN_FILE), _without(places, run)
    yield Path(TABLE_FILE), _without(places, PICTURE.sub(functools.partial(_shown, shown), table))
    for name in shown:
        yield Path("figures", name), (folder / "figures" / name).read_bytes()
    for path in sorted((folder / FILES_FOLDER).rglob("*")):
        if path.suffix in PAGES:
            yield path.relative_to(folder), _without(places, path.read_text(encoding="utf-8"))


def _places(state: Mapping[str, Any]) -> list[Path]:
    """Files and folders of this machine that a run names: those of its command, and the model's."""
    named = [*state.get("command", ()), state.get("model", {}).get("id", "")]
    found = {Path(str(one)) for one in named}
    return sorted((one for one in found if one.is_absolute() and one.name), key=lambda one: len(str(one)), reverse=True)


def _without(places: Sequence[Path], text: str) -> bytes:
    """A text in which files and folders have their names alone."""
    for place in places:
        text = text.replace(str(place), place.name)
    return text.encode("utf-8")


def _shown(shown: Sequence[str], picture: re.Match[str]) -> str:
    """A picture that is published, or where a reader finds it."""
    return picture[0] if picture[2] in shown else f"`figures/{picture[2]}` of the run shows:"


def parser() -> Parser:
    options = Parser(
        prog=invocation("experiments publish"),
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options.add_argument("what", nargs="+", metavar="EXPERIMENT", help="exp9 or in full, validation, or all")
    options.add_argument("--model", action="append", dest="models", metavar="NAME", help="only this one; repeatable")
    options.add_argument("--from", dest="source", type=Path, default=RUNS, metavar="DIR", help=f"default: {RUNS}")
    options.add_argument("--to", dest="target", type=Path, default=PUBLISHED, metavar="DIR", help="default: results")
    options.add_argument(
        "--anyway", action="store_true", help="also runs that are not complete, not validated or limited"
    )
    return options


if __name__ == "__main__":
    sys.exit(main())
