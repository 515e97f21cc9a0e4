"""Records, run folders, tables, figures and the index: what a run leaves behind. Knows nothing of models."""

from mlx_interp.reporting.figures import Panel, Plot, Series, box_plot, heat_map, line_with_band
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
