"""How matrices lie in memory: as the BLAS on Linux reads them fastest."""

from __future__ import annotations

import sys

from mlx_interp.deferred import mx


def on_linux_cpu() -> bool:
    """Whether MLX computes with a BLAS and scalar exponentials, as its CPU backend does on Linux alone."""
    return sys.platform == "linux" and bool(mx.default_device() == mx.Device(mx.cpu))


def laid_out(matrix: mx.array) -> mx.array:
    """A layer's matrix (out, in), the same numbers; on Linux's CPU its transpose (in, out) is what lies in order.

    A layer multiplies by that transpose, and a BLAS copies the matrix into that order first: where 4 to 60 rows share
    the product, as in a step of decoding or a short prompt, the copy takes longer than the product. With hundreds of
    rows both are equally fast, and Metal and Accelerate have kernels for either. Sums of the two differ in their last
    bits, so that what is to be equal bit for bit has to lie alike.
    """
    return mx.contiguous(matrix.T).T if on_linux_cpu() else matrix
