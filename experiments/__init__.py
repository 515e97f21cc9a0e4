"""The studies. One module each, run as `python -m experiments.NAME`; `python -m experiments` lists them."""

import mlx_interp  # noqa: F401  before any study imports mlx: it opens a fast BLAS (mlx_interp/loading/blas.py)
from experiments.harness.short_names import know_short_names

know_short_names()
