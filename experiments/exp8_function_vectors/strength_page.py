"""Pages of exp8: accuracy by layer and strength, and behind each cell the accuracy on each task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from experiments.exp8_function_vectors.layer_vectors import VectorConfig
from experiments.exp8_function_vectors.strength_grid import GRID, heat
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from mlx_interp.pages import Details, Page, heat_page

Answers = Mapping[str, Sequence[bool]]
"""By task, whether each query is right."""


def pages(records: Records, config: VectorConfig) -> Iterator[tuple[str, Page]]:
    """A page in the place of each heat map."""
    for plot in heat(records, config):
        assert plot.cells is not None
        form = plot.name.removesuffix("_by_layer_and_strength")
        cells: dict[tuple[str, float, int], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for r in of(records, GRID, form=form):
            cells[r["arm"], r["strength"], r["layer"]][r["task"]].append(r["right"])
        layers = sorted({layer for _, _, layer in cells})
        details = [
            [[_detail(cells[panel.title, strength, layer]) for layer in layers] for strength in config.strengths]
            for panel in plot.cells.panels
        ]
        title = f"Function vectors: the {form} of a layer, added"
        yield plot.name, heat_page(plot, details=details, title=title, percent=True)


def _detail(of_tasks: Answers) -> Details:
    n = sum(map(len, of_tasks.values()))
    return Details({"queries": n} | {f"right, {task}": fmean(right) for task, right in of_tasks.items()})
