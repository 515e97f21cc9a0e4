"""What a run leaves behind: records, run folders, tables, figures, the index. Knows nothing of models."""

from mlx_interp.reporting.figures import Panel, Plot, Series, heat_map, line_with_band
from mlx_interp.reporting.records import Record, finite
from mlx_interp.reporting.tables import Column, Table

__all__ = ["Column", "Panel", "Plot", "Record", "Series", "Table", "finite", "heat_map", "line_with_band"]
