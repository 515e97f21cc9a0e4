"""python -m experiments: what there is to run."""

from __future__ import annotations

import ast
from pathlib import Path

from rich.console import Console
from rich.table import Table


def experiments(folder: Path) -> dict[str, str]:
    """First docstring line of each module that defines EXPERIMENT, read from the sources: listing imports nothing."""
    found = {}
    for path in sorted(folder.glob("exp*_*.py"), key=_number):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(_defines_experiment(statement) for statement in module.body):
            found[path.stem] = (ast.get_docstring(module) or "").split("\n")[0]
    return found


def _defines_experiment(statement: ast.stmt) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == "EXPERIMENT" for target in targets)


def main() -> None:
    """Print the list."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, line in experiments(Path(__file__).parent).items():
        table.add_row(name, line)
    console = Console()
    console.print(table)
    console.print("\npython -m experiments.NAME --help says what an experiment does and what it takes.")


def _number(path: Path) -> tuple[int, str]:
    digits = path.stem.removeprefix("exp").split("_")[0]
    return (int(digits) if digits.isdigit() else 0, path.stem)


if __name__ == "__main__":
    main()
