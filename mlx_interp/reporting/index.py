"""Files over several runs, made anew from the run folders each time: the index, and one table over all models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_interp.errors import RunError
from mlx_interp.reporting.files import write_atomically
from mlx_interp.reporting.folders import RUN_FILE, TABLE_FILE, read_run, waiting_lock
from mlx_interp.reporting.scaling import trends, write_scaling
from mlx_interp.reporting.tables import UNVALIDATED, grid, markdown, over_models

INDEX_FILE = "README.md"
COVERAGE_FILE = "COVERAGE.md"
Run = Mapping[str, Any]


def write_overviews(out: Path, experiment: str) -> list[Path]:
    """Rewrite results/<experiment>/table.md and results/README.md; returns the paths of what was written.

    Runs that end at the same time wait for each other, so that neither misses the other.
    """
    with waiting_lock(out):
        combined = write_combined(out / experiment)
        write_atomically(out / INDEX_FILE, index_text(out))
        return [*([combined] if combined else []), out / INDEX_FILE]


def write_index(out: Path) -> None:
    """Rewrite results/README.md alone."""
    with waiting_lock(out):
        write_atomically(out / INDEX_FILE, index_text(out))


def runs(folder: Path) -> dict[Path, Run]:
    """run.json of every run of an experiment, by folder, in order of name; unreadable ones are left out."""
    found: dict[Path, Run] = {}
    for file in sorted(folder.glob(f"*/{RUN_FILE}")):
        try:
            content = read_run(file.parent)
        except RunError:
            # Another version's run must not keep this one from finishing; its own files still say what it is.
            continue
        if content is not None:
            found[file.parent] = content
    return found


def index_text(out: Path) -> str:
    """The index: one section an experiment, one row a run, with the headline figure and links."""
    parts = ["# Results\n", "Made from the run folders after every run; changes made by hand are lost.\n"]
    if (out / COVERAGE_FILE).exists():
        parts.append(f"Which parts of which studies they cover: [{COVERAGE_FILE}]({COVERAGE_FILE}).\n")
    folders = [path for path in out.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for folder in sorted(folders, key=_by_number):
        found = runs(folder)
        if found:
            rows = [_index_row(path, run) for path, run in found.items()]
            link = f" ([all models]({folder.name}/{TABLE_FILE}))" if any(map(_complete, found.values())) else ""
            title = next(iter(found.values())).get("title", "")
            parts += [f"## {folder.name}{link}\n", *([f"{title}\n"] if title else [])]
            parts.append(grid(["model", "result", "files"], rows, [False, False, False]))
    return "\n".join(parts)


def _by_number(folder: Path) -> list[int | str]:
    """exp2 before exp10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", folder.name)]


def write_combined(folder: Path) -> Path | None:
    """results/<experiment>/table.md: each table over all complete runs; None, and no file, where there are none."""
    complete = {path: run for path, run in runs(folder).items() if _complete(run)}
    path = folder / TABLE_FILE
    if not complete:
        return None
    first = next(iter(complete.values()))
    parts = [f"# {first['title']}\n"]
    for title in dict.fromkeys(table["title"] for run in complete.values() for table in run["tables"]):
        parts += [markdown(table) for table in _by_columns(title, list(complete.values()))]
    together = list(complete.values())
    if (trend := trends(together)) is not None:
        parts.append(markdown(trend.as_data()))
    for picture, caption in write_scaling(folder, together):
        parts.append(f"![{picture.stem}](figures/{picture.name})\n\n{caption}\n")
    parts += [f"{note}\n" for note in _settings(together)]
    write_atomically(path, "\n".join(parts))
    return path


def _by_columns(title: str, complete: Sequence[Run]) -> list[dict[str, Any]]:
    """The runs' tables of one title as one, or as several where options of a run changed the columns."""
    groups: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for run in complete:
        for table in run["tables"]:
            if table["title"] == title:
                groups.setdefault(tuple(table["columns"]), {})[_marked(run)] = table
    return [over_models(group) for group in groups.values()]


def _settings(complete: Sequence[Run]) -> list[str]:
    """A sentence for each run whose options differ from the first one's: unequal runs must not look alike."""
    reference = complete[0]["identity"]["config"]
    notes = []
    for run in complete[1:]:
        config = run["identity"]["config"]
        changed = {
            name: config.get(name) for name in {**reference, **config} if config.get(name) != reference.get(name)
        }
        if changed:
            options = ", ".join(f"{name} = {value}" for name, value in sorted(changed.items()))
            notes.append(f"{run['model']['name']} was run with {options}.")
    return notes


def _index_row(path: Path, run: Run) -> list[str]:
    link = f"{path.parent.name}/{path.name}"
    if not _complete(run):
        return [_marked(run), f"not complete ({run['status']})", f"[folder]({link}/)"]
    figures = f", [figures]({link}/figures/)" if (path / "figures").is_dir() else ""
    return [_marked(run), run["headline"], f"[table]({link}/{TABLE_FILE}){figures}"]


def _marked(run: Run) -> str:
    name = str(run["model"]["name"])
    return name if run["validated"] else f"{name} **{UNVALIDATED}**"


def _complete(run: Run) -> bool:
    return bool(run["status"] == "complete")
