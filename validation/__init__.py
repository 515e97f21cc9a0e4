"""The validation suite: what must hold before a figure of this model is worth printing. It gates every experiment."""

import mlx_interp  # noqa: F401  isort: skip  before any check imports mlx: it opens a fast BLAS
from validation.suite import Report, gate, validate

__all__ = ["Report", "gate", "validate"]
