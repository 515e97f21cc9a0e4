"""Activation functions that MLX's CPU backend computes fast, for training.

exp and tanh are scalar code there, some thirty times slower than arithmetic, and the activations of the MLP take most
of a step. Here tanh is a ratio of polynomials (error under 1e-4), and its gradient is written out. The trained model
is measured and shipped with the exact functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from mlx_interp.deferred import mlx_lm, mx, nn

LIMIT = 4.97  # where the ratio reaches 1
GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def fast_tanh(x: mx.array) -> mx.array:
    """tanh as its seventh convergent; absolute error below 1e-4 everywhere."""
    x = mx.clip(x, -LIMIT, LIMIT)
    s = x * x
    top = x * (135135.0 + s * (17325.0 + s * (378.0 + s)))
    return mx.clip(top / (135135.0 + s * (62370.0 + s * (3150.0 + s * 28.0))), -1.0, 1.0)


@mx.compile
def _silu(x: mx.array) -> mx.array:
    return 0.5 * x * (1.0 + fast_tanh(0.5 * x))


@mx.compile
def _silu_gradient(x: mx.array, cotangent: mx.array) -> mx.array:
    sigmoid = 0.5 * (1.0 + fast_tanh(0.5 * x))
    return cotangent * sigmoid * (1.0 + x * (1.0 - sigmoid))


@mx.compile
def _gelu(x: mx.array) -> mx.array:
    return 0.5 * x * (1.0 + fast_tanh(GELU_SCALE * x * (1.0 + GELU_CUBIC * x * x)))


@mx.compile
def _gelu_gradient(x: mx.array, cotangent: mx.array) -> mx.array:
    t = fast_tanh(GELU_SCALE * x * (1.0 + GELU_CUBIC * x * x))
    slope = GELU_SCALE * (1.0 + 3.0 * GELU_CUBIC * x * x)
    return cotangent * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)


def _with_gradient(
    function: Callable[[mx.array], mx.array], gradient: Callable[[mx.array, mx.array], mx.array]
) -> Callable[[mx.array], mx.array]:
    @mx.custom_function
    def activation(x: mx.array) -> mx.array:
        return function(x)

    @activation.vjp
    def activation_vjp(primals: Any, cotangent: Any, _output: Any) -> Any:
        return gradient(primals, cotangent)

    return cast(Callable[[mx.array], mx.array], activation)


fast_silu = _with_gradient(_silu, _silu_gradient)
fast_gelu = _with_gradient(_gelu, _gelu_gradient)


@contextmanager
def fast_activations() -> Iterator[None]:
    """mlx-lm's Llama, Qwen 2 and Gemma 2 use the fast functions inside this block, and their own after it."""
    swiglu_llama, swiglu_qwen2, gelu = mlx_lm.models.llama.swiglu, mlx_lm.models.qwen2.swiglu, nn.gelu_approx

    def swiglu(gate: mx.array, x: mx.array) -> mx.array:
        return fast_silu(gate) * x

    mlx_lm.models.llama.swiglu = mlx_lm.models.qwen2.swiglu = swiglu
    nn.gelu_approx = fast_gelu
    try:
        yield
    finally:
        mlx_lm.models.llama.swiglu, mlx_lm.models.qwen2.swiglu, nn.gelu_approx = swiglu_llama, swiglu_qwen2, gelu
