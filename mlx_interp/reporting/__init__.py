"""Records, run folders, tables, figures and the index: what a run leaves behind. Knows nothing of models."""

from mlx_interp.reporting.figures import Series, box_plot, line_with_band
from mlx_interp.reporting.heat_maps import heat_map
from mlx_interp.reporting.plots import Panel, Plot
from mlx_interp.reporting.records import Record, finite
from mlx_interp.reporting.tables import Cell, Column, Table

__all__ = [
    "Cell",
    "Column",
    "Panel",
    "Plot",
    "Record",
    "Series",
    "Table",
    "box_plot",
    "finite",
    "heat_map",
    "line_with_band",
]
