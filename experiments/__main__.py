"""python -m experiments: what there is to run, and tools over many runs."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mlx_interp.errors import nearest
from mlx_interp.studies import invocation, study_called

TOOLS = {
    "run_all": "many experiments on many models",
    "query": "SQL over all results",
    "publish": "finished runs into results/, where they are kept and shown",
    "scale": "one figure over all models: two-hop gap, depth of refusal, function vectors",
    "coverage": "every experiment of every study: who does it here, what was run",
    "inspect_log": "a run's records as logs that Inspect's viewer and data frames read",
}
"""Modules of the harness that are commands of their own."""


def experiments(folder: Path) -> dict[str, str]:
    """First docstring line of each study, read from the sources: listing imports nothing."""
    found = {}
    for path in sorted((path.parent for path in folder.glob("exp[0-9]*_*/__init__.py")), key=_number):
        module = ast.parse((path / "__init__.py").read_text(encoding="utf-8"))
        found[path.name] = (ast.get_docstring(module) or "").split("\n")[0]
    return found


def main(arguments: list[str]) -> int:
    """Print the list, or hand over to a tool or a study, which also goes by its number; 2 for a name that is none."""
    if arguments and arguments[0] in TOOLS:
        sys.argv = [invocation(f"experiments {arguments[0]}"), *arguments[1:]]
        runpy.run_module(f"experiments.harness.{arguments[0]}", run_name="__main__")
        return 0
    if arguments and (study := study_called(arguments[0])):
        sys.argv = [invocation(f"experiments.{study}"), *arguments[1:]]
        runpy.run_module(f"experiments.{study}", run_name="__main__")
        return 0
    known = experiments(Path(__file__).parent)
    if arguments and arguments[0] not in ("-h", "--help"):
        print(
            f"error: no command {arguments[0]!r}: {nearest(arguments[0], [*TOOLS, *known])}"
            f"commands are {', '.join(TOOLS)}; a study is run as {invocation('experiments.NAME')}",
            file=sys.stderr,
        )
        return 2
    console = Console()
    studies, tools = f"studies: {invocation('experiments.NAME')}", f"tools: {invocation('experiments NAME')}"
    for head, rows in ((studies, known), (tools, TOOLS)):
        table = Table(box=None, show_header=False, pad_edge=False, title=head, title_justify="left")
        for name, line in rows.items():
            table.add_row(name, line)
        console.print(table)
    console.print("\n--help says what each does and what it takes.")
    return 0


def _number(path: Path) -> tuple[int, str]:
    return int(path.name.removeprefix("exp").split("_")[0]), path.name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
