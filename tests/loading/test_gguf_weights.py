"""Weights of GGUF files: blocks of every type against the gguf package's own dequantisation."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from mlx_interp.loading.gguf.quantised import AFFINE, GROUP, triple

ROWS, BLOCKS = 5, 3


def random_blocks(kind: GGMLQuantizationType, seed: int) -> np.ndarray:
    """Blocks whose every bit is random but for the float16 numbers, which are finite."""
    draw = np.random.default_rng(seed)
    _, n_bytes = GGML_QUANT_SIZES[kind]
    raw = draw.integers(0, 256, (ROWS * BLOCKS, n_bytes), dtype=np.uint8)
    n_halves = 1 if kind.name in ("Q4_0", "Q5_0", "Q8_0") else 2
    halves = (draw.standard_normal((len(raw), n_halves)) * 10.0 ** draw.integers(-6, 2)).astype(np.float16)
    raw[:, : 2 * n_halves] = halves.view(np.uint8)
    return raw.reshape(ROWS, -1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", AFFINE, ids=lambda kind: kind.name)
def test_affine_types_are_held_without_loss(kind: GGMLQuantizationType, seed: int) -> None:
    blocks = random_blocks(kind, seed)
    held = triple(kind, blocks)
    found = mx.dequantize(held["weight"], held["scales"], held["biases"], group_size=GROUP, bits=AFFINE[kind][0])
    wanted = dequantize(blocks, kind)
    assert held["scales"].dtype == held["biases"].dtype == mx.float32
    assert np.abs(wanted).max() > 0
    np.testing.assert_array_equal(np.array(found), wanted)
