"""Speed of this machine at what a forward pass is made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mlx_interp.deferred import mx

MATMUL, READING = "matmul, float32", "reading weights, one row"


@dataclass(frozen=True)
class Speed:
    """One measured operation."""

    what: str
    rate: float
    """In `unit`; the best of several tries, since other work on the machine only ever slows one down."""
    unit: str


def measured_speeds(size: int = 1024) -> list[Speed]:
    """Square matmuls (float32, float16, 4-bit) in GFLOP/s, exp in 10^9 elements per second, and how fast weights are
    read when one row passes through them; about a second in all.

    size: side of the float32 matrices; the slower formats are measured on smaller ones.
    """
    slow = min(size, 256)
    return [
        Speed(MATMUL, matmul_rate(size, mx.float32), "GFLOP/s"),
        Speed("matmul, float16", matmul_rate(slow, mx.float16), "GFLOP/s"),
        Speed("matmul, 4-bit weights, float32", quantized_rate(slow, mx.float32), "GFLOP/s"),
        Speed("matmul, 4-bit weights, float16", quantized_rate(slow, mx.float16), "GFLOP/s"),
        Speed("exp, float32", exp_rate(1_000_000), "G/s"),
        Speed(READING, reading_rate(2 * size), "GB/s"),
    ]


def best_seconds(compute: Callable[[], mx.array], tries: int = 5) -> float:
    """Wall time of the fastest of several evaluations, after one that is not counted."""
    mx.eval(compute())
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        mx.eval(compute())
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_rate(size: int, dtype: mx.Dtype) -> float:
    a, b = (mx.random.normal((size, size)).astype(dtype) for _ in range(2))
    mx.eval(a, b)
    return 2 * size**3 / best_seconds(lambda: a @ b) / 1e9


def quantized_rate(size: int, dtype: mx.Dtype) -> float:
    x = mx.random.normal((size, size)).astype(dtype)
    weight, scales, biases = mx.quantize(mx.random.normal((size, size)).astype(dtype), group_size=64, bits=4)
    mx.eval(x, weight, scales, biases)
    product = best_seconds(lambda: mx.quantized_matmul(x, weight, scales, biases, group_size=64, bits=4), tries=2)
    return 2 * size**3 / product / 1e9


def exp_rate(n: int) -> float:
    x = mx.random.normal((n,))
    mx.eval(x)
    return n / best_seconds(lambda: mx.exp(x)) / 1e9


def reading_rate(size: int) -> float:
    """10^9 bytes a second of a float32 matrix that one row passes through: what writing token by token waits for."""
    row, weight = mx.random.normal((1, size)), mx.random.normal((size, size))
    mx.eval(row, weight)
    return 4 * size**2 / best_seconds(lambda: row @ weight) / 1e9
