"""SQL over all results: `python -m experiments query "SELECT model, count(*) FROM exp9_back_patching GROUP BY model"`.

Every experiment is a table of its records, over all models that have a finished run; the columns are the fields of the
records, with `model` and `validated` added; where a field is one number in some records and a list in others, the
lists are a column of their own (`rank`, `rank_list`). `runs` is a table with one row a run. Read is what was run here:
runs/ in this folder, or in the nearest one above that has it, or in the clone. Published results have no records and
count in `runs` alone, for models that were not run here. `--out DIR` reads another folder, and may be given several
times. DuckDB's SQL, in memory: nothing is written.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from mlx_interp.deferred import duckdb, pyarrow, rich
from mlx_interp.errors import DataError, MlxInterpError, nearest
from mlx_interp.reporting.folders import PUBLISHED, RUNS
from mlx_interp.reporting.index import Run, runs
from mlx_interp.reporting.tables import grid
from mlx_interp.studies import invocation, studies_folder

EXAMPLES = """examples:
  python -m experiments query "SHOW TABLES"
  python -m experiments query "DESCRIBE exp9_back_patching"
  python -m experiments query "SELECT model, headline FROM runs"
  python -m experiments query "SELECT model, family, count(*) AS failures
                               FROM exp9_back_patching WHERE stage = 'screened' AND \\"group\\" = 'failure'
                               GROUP BY ALL ORDER BY ALL" --markdown
"""
Rows = list[tuple[object, ...]]


def connect(*folders: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory with a table for each experiment of some folders of runs. Raises DataError if none has any.

    Where several folders have a run of one experiment on one model, the first folder's counts.
    """
    connection = duckdb.connect()
    facts = []
    for experiment, chosen in chosen_runs(folders).items():
        parts = []
        for path, run in chosen.items():
            name, validated = str(run["model"]["name"]), bool(run["validated"])
            facts.append(
                {
                    "experiment": experiment,
                    "model": name,
                    "validated": validated,
                    "status": run["status"],
                    "headline": run.get("headline"),
                    "finished": run.get("finished"),
                    "seconds": run.get("measuring_seconds"),
                    "folder": str(path),
                }
            )
            if (path / "records.parquet").is_file():
                table = pyarrow.parquet.read_table(path / "records.parquet")
                for column, value in (("validated", validated), ("model", name)):
                    if column in table.column_names:
                        table = table.drop_columns([column])
                    table = table.add_column(0, column, pyarrow.array([value] * len(table)))
                parts.append(table)
        if parts:
            connection.register(experiment, _together(parts))
    if not facts:
        where = " and ".join(map(str, folders))
        raise DataError(f"{where}: no run there; give the folder with --out DIR, or run an experiment first")
    connection.register("runs", pyarrow.Table.from_pylist(facts))
    return connection


def lying(folder: Path) -> Path:
    """Where runs lie: in this folder, in the nearest above it that has them, or beside the studies of a clone."""
    places = (*(place / folder for place in (Path.cwd(), *Path.cwd().parents)), studies_folder() / folder)
    return next((place for place in places if place.is_dir()), folder)


def chosen_runs(folders: Sequence[Path]) -> dict[str, dict[Path, Run]]:
    """By experiment, the run that counts of each model."""
    found: dict[str, dict[str, tuple[Path, Run]]] = {}
    for out in folders:
        for folder in sorted(path for path in out.glob("*") if path.is_dir() and not path.name.startswith(".")):
            for path, run in runs(folder).items():
                found.setdefault(folder.name, {}).setdefault(str(run["model"]["name"]), (path, run))
    return {name: dict(found[name].values()) for name in sorted(found)}


def _together(parts: Sequence[pyarrow.Table]) -> pyarrow.Table:
    """Runs of several models as one table; a column that one lacks is null there, one of several kinds becomes text."""
    kinds: dict[str, set[pyarrow.DataType]] = {}
    for part in parts:
        for field in part.schema:
            kinds.setdefault(field.name, set()).add(field.type)
    mixed = {
        name for name, types in kinds.items() if len(types - {pyarrow.null()}) > 1 and not all(map(_number, types))
    }
    return pyarrow.concat_tables([_as_text(part, mixed) for part in parts], promote_options="permissive")


def _number(kind: pyarrow.DataType) -> bool:
    return bool(pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_null(kind))


def _as_text(table: pyarrow.Table, names: set[str]) -> pyarrow.Table:
    for name in names & set(table.column_names):
        texts = [None if value is None else str(value) for value in table[name].to_pylist()]
        table = table.set_column(table.column_names.index(name), name, pyarrow.array(texts, pyarrow.string()))
    return table


def ask(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], Rows]:
    """Column names and rows. Raises DataError, with the nearest names, for SQL that DuckDB refuses."""
    try:
        result = connection.execute(sql)
        return [column[0] for column in result.description or []], result.fetchall()
    except duckdb.Error as error:
        known = [str(row[0]) for row in connection.execute("SHOW TABLES").fetchall()]
        missing = [word for word in sql.split() if word.startswith("exp") and word not in known]
        close = "".join(nearest(word, known) for word in missing)
        close += (
            f"its records are where it was run: --out DIR names the folder (read: {lying(RUNS)}); " if missing else ""
        )
        raise DataError(f"{str(error).strip()} {close}tables are {', '.join(known)}") from error


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog=invocation("experiments query"),
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("sql", metavar="SQL", help="one statement, in quotes")
    options.add_argument(
        "--out",
        type=Path,
        action="append",
        metavar="DIR",
        help=f"these folders alone (default: {RUNS}, and {PUBLISHED} for the rest)",
    )
    shape = options.add_mutually_exclusive_group()
    shape.add_argument("--csv", action="store_true", help="comma-separated, for other programs")
    shape.add_argument("--markdown", action="store_true", help="a markdown table")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a mistake that the message explains."""
    options = parser().parse_args(arguments)
    try:
        names, rows = ask(connect(*(options.out or map(lying, (RUNS, PUBLISHED)))), options.sql)
    except MlxInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows(rows)
    elif options.markdown:
        numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(names))]
        print(grid(names, [[_shown(cell) for cell in row] for row in rows], numeric))
    else:
        table = rich.table.Table(*names)
        for row in rows:
            table.add_row(*(_shown(cell) for cell in row))
        rich.console.Console().print(table)
    return 0


def _shown(cell: object) -> str:
    return "-" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


if __name__ == "__main__":
    sys.exit(main())
