"""`python -m validation --model NAME`: the suite on screen, as a report, and as an exit status."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table as ScreenTable

import mlx_interp
from mlx_interp.errors import MlxInterpError
from mlx_interp.loading.names import DEFAULT_MODELS
from mlx_interp.loading.profile import add_memory_option
from mlx_interp.reporting import Table
from mlx_interp.reporting.files import make_folder, write_atomically
from mlx_interp.reporting.folders import RUNS, writable
from mlx_interp.studies import invocation
from validation.check import LEVELS
from validation.suite import Report, validate

COLOURS = {"passed": "green", "failed": "bold red", "not applicable": "yellow"}


def parser() -> argparse.ArgumentParser:
    parsed = argparse.ArgumentParser(
        prog=invocation("validation"),
        description="Check that a wrapped model is the model, that interventions do what they say, and that lens and "
        "prompts are read rightly. Exit status: 0 only if everything that applies passes, 1 if a check fails, 2 if "
        "a model cannot be loaded.",
    )
    parsed.add_argument("--model", action="append", metavar="NAME", help="repeatable; default: the embedded models")
    parsed.add_argument(
        "--level", choices=LEVELS, default="standard", help="quick (seconds) gates every run; full looks at every layer"
    )
    add_memory_option(parsed)
    parsed.add_argument("--json", metavar="FILE", type=Path, help="also write the findings as JSON")
    parsed.add_argument(
        "--out", metavar="DIR", type=Path, default=RUNS, help="for reports, in DIR/validation (default: runs)"
    )
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 if everything that applies passed, 1 if a check failed, 2 if a model could not be looked at."""
    options = parser().parse_args(arguments)
    try:
        writable(options.out)
    except MlxInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    reports, refused = [], 0
    for name in options.model or DEFAULT_MODELS:
        try:
            reports.append(_looked_at(name, options, console))
        except MlxInterpError as error:  # the other models are looked at all the same
            print(f"error: {name}: {error}", file=sys.stderr)
            refused += 1
    if options.json:
        make_folder(options.json.absolute().parent)
        write_atomically(options.json, json.dumps([report.as_data() for report in reports], indent=1) + "\n")
    if refused:
        return 2
    return 0 if all(report.passed for report in reports) else 1


def _looked_at(name: str, options: argparse.Namespace, console: Console) -> Report:
    """A model's report, shown and written."""
    model = mlx_interp.load(name, memory=options.memory)
    with console.status(f"{name}: starting") as status:
        report = validate(model, options.level, functools.partial(_progress, status, name))
    show(report, console)
    folder = options.out / "validation"
    make_folder(folder)
    write_atomically(folder / f"{model.name.replace('/', '--')}.md", text(report))
    return report


def _progress(status: Status, name: str, check: str) -> None:
    status.update(f"{name}: {check}")


def show(report: Report, console: Console) -> None:
    """The report as a table on screen, with what to look at below it for each failure."""
    table = ScreenTable(title=f"{report.model}, {report.level}: {'passed' if report.passed else 'FAILED'}")
    for head in ("check", "status", "measured", "bound", "note"):
        table.add_column(head)
    for result in report.results:
        colour = COLOURS[result.status]
        status = f"[{colour}]{result.status}[/{colour}]"
        table.add_row(result.name, status, result.measured, result.bound, result.note)
    console.print(table)
    for result in report.failed:
        console.print(
            f"[bold red]{result.name}[/bold red] protects against {result.protects}. Look at {result.look_at}."
        )


def text(report: Report) -> str:
    """The report as markdown, with what each check protects against and why its bound is what it is."""
    verdict = "passed" if report.passed else "FAILED"
    found = Table(
        f"{report.model}: {verdict} at level {report.level}",
        ["check", "status", "measured", "bound", "note"],
        [[r.name, r.status, r.measured, r.bound, r.note or "-"] for r in report.results],
    )
    lines = [
        f"- **{r.name}** protects against {r.protects}. Bound: {r.why_bound}. When it fails, look at {r.look_at}."
        for r in report.results
    ]
    head = f"# Validation of {report.model}\n\nMeasured on {report.conditions}.\n\n"
    return head + found.markdown() + "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MlxInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
