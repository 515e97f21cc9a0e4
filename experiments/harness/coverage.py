"""Where the studies stand: `python -m experiments coverage` lists every experiment, figure and table of every study.

Each row says what was done there, which module and option does it here, and on which model families results exist;
and what is still open. The rows are data (experiments/data/coverage/*.yaml); what counts as a result is read from the
published run folders: a complete, validated run whose tables have the one that the row names. Printed; with --write,
and whenever something is published, also written to results/COVERAGE.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.data import DATA_FOLDER
from experiments.harness import registry
from mlx_interp.deferred import rich
from mlx_interp.errors import DataError, MlxInterpError, nearest
from mlx_interp.reporting.files import write_atomically
from mlx_interp.reporting.folders import PUBLISHED
from mlx_interp.reporting.index import COVERAGE_FILE, runs, write_index
from mlx_interp.reporting.tables import grid
from mlx_interp.studies import invocation

DATA = DATA_FOLDER / "coverage"
STATES = ("covered", "no result yet", "partly", "open")


@dataclass(frozen=True)
class Row:
    """One experiment, figure or table of a study: its number in our list, and who covers it."""

    row: int | str
    what: str
    by: str = ""
    """The module that covers it: an experiment, or "validation"; empty where none does."""
    options: str = ""
    table: str = ""
    """How the title of the table starts in which the result is found."""
    open: str = ""
    """What is still missing."""
    folder: str = ""
    """Where under results its runs are, if not beside the others of the experiment."""


@dataclass(frozen=True)
class Study:
    study: str
    reference: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Standing:
    """A row, how it stands, and the runs that show it: folder by model family."""

    row: Row
    state: str
    results: Mapping[str, Path]


def read_studies(folder: Path = DATA) -> list[Study]:
    """All studies. Raises DataError, naming file and row, for what is unknown or says nothing."""
    return [_read(path) for path in sorted(folder.glob("*.yaml"))]


def _read(path: Path) -> Study:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = [_row(path, values) for values in content["rows"]]
        return Study(content["study"], content["reference"], rows)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path}: needs study, reference and a list of rows: {error}") from error


def _row(path: Path, values: Mapping[str, Any]) -> Row:
    fields = [field.name for field in dataclasses.fields(Row)]
    where = f"{path}, row {values.get('row')!r}"
    for name in values:
        if name not in fields:
            raise DataError(f"{where}: no field {name!r}: {nearest(name, fields)}fields are {', '.join(fields)}")
    row = Row(**values)
    known = [*registry.names(), "validation"]
    if row.by and row.by not in known:
        raise DataError(f"{where}: no module {row.by!r}: {nearest(row.by, known)}there are {', '.join(known)}")
    if not row.by and not row.open:
        raise DataError(f"{where}: names neither the module that covers it nor what is open")
    return row


def standing(row: Row, out: Path) -> Standing:
    """How a row stands, by the run folders under `out`."""
    results = _results(row, out) if row.table else {}
    if not row.by:
        state = "open"
    elif row.open:
        state = "partly"
    else:
        state = "covered" if results or not row.table else "no result yet"
    return Standing(row, state, results)


def _results(row: Row, out: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path, run in runs(out / row.folder / row.by).items():
        counts = run["status"] == "complete" and run["validated"]
        if counts and any(table["title"].startswith(row.table) and table["rows"] for table in run["tables"]):
            found.setdefault(str(run["model"].get("family") or run["model"]["name"]), path)
    return found


def coverage_text(studies: Sequence[Study], out: Path) -> str:
    """results/COVERAGE.md."""
    stands = {study.study: [standing(row, out) for row in study.rows] for study in studies}
    heads = ["study", *STATES]
    counts = {name: Counter(one.state for one in rows) for name, rows in stands.items()}
    summary = [[name, *(str(count[state]) for state in STATES)] for name, count in counts.items()]
    parts = [
        "# Where the studies stand\n",
        "Made by `python -m experiments coverage` from experiments/data/coverage and the run folders. Covered: a "
        "module does it, and a complete, validated run shows it, on the families named. What was run are the embedded "
        "models, unless a link says otherwise.\n",
        grid(heads, summary, [False, True, True, True, True]),
    ]
    for study in studies:
        rows = [_cells(one, out) for one in stands[study.study]]
        parts.append(f"## {study.study}\n\n{study.reference}.\n")
        parts.append(grid(["row", "what", "state", "module and option", "results", "open"], rows, [False] * 6))
    return "\n".join(parts)


def write_coverage(out: Path, studies: Sequence[Study] | None = None) -> Path:
    """Rewrite COVERAGE.md of a folder of published results, and the index beside it; returns its path."""
    write_atomically(out / COVERAGE_FILE, coverage_text(studies or read_studies(), out))
    write_index(out)
    return out / COVERAGE_FILE


def _cells(one: Standing, out: Path) -> list[str]:
    links = ", ".join(f"[{family}]({path.relative_to(out)}/table.md)" for family, path in one.results.items())
    module = f"{one.row.by} `{one.row.options}`" if one.row.options else one.row.by
    return [str(one.row.row), one.row.what, one.state, module or "-", links or "-", one.row.open or "-"]


def screen_tables(studies: Sequence[Study], out: Path, *, only_open: bool) -> Iterator[rich.table.Table]:
    """The same for the terminal, a table for each study."""
    colours = dict(zip(STATES, ("green", "yellow", "yellow", "red"), strict=True))
    for study in studies:
        table = rich.table.Table(title=study.study, title_justify="left", expand=True)
        for head in ("row", "what", "state", "by", "families", "open"):
            table.add_column(head, overflow="fold", no_wrap=head in ("row", "state"))
        for one in (standing(row, out) for row in study.rows):
            if not only_open or one.state != "covered":
                state = f"[{colours[one.state]}]{one.state}[/]"
                row = one.row
                table.add_row(str(row.row), row.what, state, row.by.split("_")[0], ", ".join(one.results), row.open)
        if table.row_count:
            yield table


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 where the data or the folder cannot be used."""
    parser = argparse.ArgumentParser(
        prog=invocation("experiments coverage"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=PUBLISHED, metavar="DIR", help="where the run folders are")
    parser.add_argument("--write", action="store_true", help="also write COVERAGE.md and the index there")
    parser.add_argument("--open", action="store_true", help="on screen, only what is not covered")
    options = parser.parse_args(arguments)
    try:
        studies = read_studies()
        if not options.out.is_dir():
            raise DataError(f"{options.out}: no such folder; give the one with the run folders with --out DIR")
        written = write_coverage(options.out, studies) if options.write else None
    except MlxInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = rich.console.Console()
    for table in screen_tables(studies, options.out, only_open=options.open):
        console.print(table)
    if written is not None:
        print(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
