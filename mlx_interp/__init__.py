"""mlx_interp: look inside language models that run under MLX, change what is found there, measure what that does."""

# First of all imports: `mlx_interp.loading` opens a fast BLAS before anything imports mlx.core (see loading/blas.py).
from mlx_interp.loading import load  # isort: split

__all__ = ["load"]
