"""Weights of a GGUF file as MLX holds them: quantised without loss where MLX can, dense float32 otherwise.

Types that are affine in groups of 32 (w = scale * q + bias) become MLX's own quantisation with float32 scales. Scales
are products of a float16 number with one of at most six bits, and times q they still fit float32's 24 bits: only the
sum with the bias is rounded, once, so that dequantised float32 weights equal those of the `gguf` package bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from mlx_interp.deferred import mx

GROUP = 32
Bytes = npt.NDArray[Any]
Floats = npt.NDArray[Any]
Words = npt.NDArray[Any]
Parts = tuple[Bytes, Floats, Floats]
"""q (n_groups, 32), scale (n_groups,), bias (n_groups,)."""


def half(raw: Bytes) -> Floats:
    """Pairs of bytes as float16 numbers, widened; the pair's axis goes."""
    return np.ascontiguousarray(raw).view(np.float16)[..., 0].astype(np.float32)


def nibbles(raw: Bytes) -> Bytes:
    """(n, 16) bytes as (n, 32) numbers: all low halves, then all high halves."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def fifth_bits(raw: Bytes) -> Bytes:
    """(n, 4) bytes as (n, 32) numbers of 0 or 16."""
    return np.unpackbits(raw, axis=-1, bitorder="little") << 4


def q4_0(raw: Bytes) -> Parts:
    scale = half(raw[:, :2])
    return nibbles(raw[:, 2:]), scale, -8 * scale


def q4_1(raw: Bytes) -> Parts:
    return nibbles(raw[:, 4:]), half(raw[:, :2]), half(raw[:, 2:4])


def q5_0(raw: Bytes) -> Parts:
    scale = half(raw[:, :2])
    return nibbles(raw[:, 6:]) | fifth_bits(raw[:, 2:6]), scale, -16 * scale


def q5_1(raw: Bytes) -> Parts:
    return nibbles(raw[:, 8:]) | fifth_bits(raw[:, 4:8]), half(raw[:, :2]), half(raw[:, 2:4])


def q8_0(raw: Bytes) -> Parts:
    scale = half(raw[:, :2])
    return raw[:, 2:] ^ 128, scale, -128 * scale  # int8 + 128, as a byte


def scales_and_minima(raw: Bytes) -> tuple[Floats, Floats]:
    """The eight scales and minima of a block of 256 (Q4_K, Q5_K), each of six bits times a float16 number."""
    low, mid, rest = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scales = np.concatenate([low & 63, (rest & 15) | (low >> 6 << 4)], axis=-1).astype(np.float32)
    minima = np.concatenate([mid & 63, (rest >> 4) | (mid >> 6 << 4)], axis=-1).astype(np.float32)
    return half(raw[:, :2])[:, None] * scales, half(raw[:, 2:4])[:, None] * minima


def q4_k(raw: Bytes) -> Parts:
    scale, minimum = scales_and_minima(raw)
    pairs = raw[:, 16:].reshape(-1, 32)  # 32 bytes: a group of low halves, a group of high halves
    return np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1, GROUP), scale.ravel(), -minimum.ravel()


def q5_k(raw: Bytes) -> Parts:
    scale, minimum = scales_and_minima(raw)
    pairs = raw[:, 48:].reshape(-1, 4, 32)
    q = np.stack([pairs & 15, pairs >> 4], axis=2).reshape(-1, 8, 32)
    q |= (raw[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << 4
    return q.reshape(-1, GROUP), scale.ravel(), -minimum.ravel()


AFFINE: dict[Kind, tuple[int, Callable[[Bytes], Parts]]] = {
    Kind.Q4_0: (4, q4_0),
    Kind.Q4_1: (4, q4_1),
    Kind.Q5_0: (5, q5_0),
    Kind.Q5_1: (5, q5_1),
    Kind.Q8_0: (8, q8_0),
    Kind.Q4_K: (4, q4_k),
    Kind.Q5_K: (5, q5_k),
}
"""Types that MLX can hold without loss: bits, and how their blocks come apart."""


def readable(kind: Kind) -> bool:
    """Whether the weights of a type can be had at all."""
    try:
        dense(kind, np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8))
    except NotImplementedError:
        return False
    return True


PART = 2**22
"""Weights that are unpacked at a time: taking them apart needs several times their memory."""


def row_blocks(kind: Kind, blocks: Bytes) -> Iterator[tuple[slice, Bytes]]:
    """Rows (rows, bytes of a row) in parts of some `PART` weights."""
    n_weights, n_bytes = GGML_QUANT_SIZES[kind]
    step = max(1, PART // (blocks.shape[1] // n_bytes * n_weights))
    for start in range(0, len(blocks), step):
        yield slice(start, start + step), blocks[start : start + step]


def triple(kind: Kind, blocks: Bytes) -> dict[str, mx.array]:
    """weight, scales and biases of an affine type, from (rows, bytes of a row), as MLX's quantised layers hold them."""
    bits, parts = AFFINE[kind]
    rows, (n_weights, n_bytes) = len(blocks), GGML_QUANT_SIZES[kind]
    columns = blocks.shape[1] // n_bytes * n_weights
    weight = np.empty((rows, columns * bits // 32), "<u4")
    scales, biases = (np.empty((rows, columns // GROUP), np.float32) for _ in range(2))
    for some, raw in row_blocks(kind, blocks):
        q, scale, bias = parts(raw.reshape(-1, n_bytes))
        weight[some] = packed(q, bits).reshape(len(raw), -1)
        scales[some], biases[some] = scale.reshape(len(raw), -1), bias.reshape(len(raw), -1)
    return {"weight": mx.array(weight), "scales": mx.array(scales), "biases": mx.array(biases)}


def packed(q: Bytes, bits: int) -> Words:
    """Numbers below 2**bits in a row of bits, lowest first, as 32-bit words: (n, 32) becomes (n, bits)."""
    if bits == 8:
        joined = np.ascontiguousarray(q)
    elif bits == 4:
        joined = q[:, 0::2] | (q[:, 1::2] << 4)
    else:  # eight numbers are `bits` bytes
        eights = q.reshape(-1, 8).astype(np.uint64)
        word = eights[:, 0]
        for place in range(1, 8):
            word |= eights[:, place] << np.uint64(place * bits)
        joined = word.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :bits]
    return np.ascontiguousarray(joined).reshape(len(q), -1).view("<u4")


def dense(kind: Kind, blocks: Bytes) -> Floats:
    """Weights in float32, (rows, columns), as the `gguf` package dequantises them."""
    n_weights, n_bytes = GGML_QUANT_SIZES[kind]
    found = np.empty((len(blocks), blocks.shape[1] // n_bytes * n_weights), np.float32)
    for some, raw in row_blocks(kind, blocks):
        found[some] = dequantize(np.ascontiguousarray(raw), kind)
    return found
