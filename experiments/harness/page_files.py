"""Pages of a finished run, for --html: those that the study makes, and one for each of its heat maps."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.harness.experiment import ConfigT, Experiment, Records
from experiments.harness.report import plots_of
from mlx_interp.errors import PageError
from mlx_interp.pages import Page, heat_page
from mlx_interp.reporting.folders import RECORDS_FILE, read_run
from mlx_interp.reporting.records import open_records
from mlx_interp.reporting.tables import UNVALIDATED

FOLDER = "pages"


def write_pages(experiment: Experiment[ConfigT], config: ConfigT, folder: Path) -> list[Path]:
    """Write them into `pages/` of the run's folder, from its records alone; what is too large for a page is said."""
    records = open_records(folder / RECORDS_FILE).records()
    unvalidated = not (read_run(folder) or {})["validated"]
    written = []
    try:
        for name, page in pages_of(experiment, records, config):
            shown = page.marked(UNVALIDATED) if unvalidated else page
            written.append(shown.save(folder / FOLDER / f"{name}.html"))
    except PageError as error:
        print(f"{experiment.name}: no further page: {error}", file=sys.stderr)
    return written


def pages_of(experiment: Experiment[ConfigT], records: Records, config: ConfigT) -> Iterator[tuple[str, Page]]:
    """Names and pages; heat maps that the study has no page for are shown as they are drawn."""
    own = set()
    for name, page in experiment.pages(records, config):
        own.add(name)
        yield name, page
    for plot in plots_of(experiment, records, config):
        if plot.cells is not None and plot.name not in own:
            yield plot.name, heat_page(plot, title=f"{experiment.name}: {plot.name.replace('_', ' ')}")
