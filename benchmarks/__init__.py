"""Benchmarks: both sides in one process, ratios instead of seconds."""

import mlx_interp  # noqa: F401  before any benchmark imports mlx: it opens a fast BLAS (mlx_interp/loading/blas.py)
