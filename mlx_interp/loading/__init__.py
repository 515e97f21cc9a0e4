"""From a name to a model that runs: short names, the Hub, local folders, checks, and the device it computes on."""

from mlx_interp.loading.blas import load_fast_blas

# Before any import of mlx.core: MLX binds its BLAS when it is loaded, and its Linux wheel's own is 50 times slower.
load_fast_blas()

from mlx_interp.loading.load import load  # noqa: E402

__all__ = ["load", "load_fast_blas"]
