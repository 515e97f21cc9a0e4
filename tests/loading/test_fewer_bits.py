"""`mi.load(bits=)` is what mlx_lm.convert makes of the same checkpoint, and refuses what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.convert import convert

import mlx_interp as mi
from mlx_interp.errors import ConfigError
from tests.loading.checkpoints import write_checkpoint

PROMPT = "The capital of France is"


@pytest.mark.parametrize(("bits", "group_size"), [(8, 64), (4, 64), (3, 32)])
def test_a_model_in_fewer_bits_is_the_folder_that_mlx_lm_writes(bits: int, group_size: int, tmp_path: Path) -> None:
    stored = mi.load("tiny-llama")
    convert(str(stored.path), str(tmp_path / "dense"), dequantize=True)
    convert(str(tmp_path / "dense"), str(tmp_path / "made"), quantize=True, q_bits=bits, q_group_size=group_size)
    written, own = mi.load(tmp_path / "made"), mi.load("tiny-llama", bits=bits, group_size=group_size)
    assert own.quantization == written.quantization == f"{bits}-bit, group {group_size}"
    assert own.name == f"tiny-llama-{bits}bit"
    assert own.weights_hash not in (stored.weights_hash, written.weights_hash)
    found = [np.asarray(model.run(PROMPT, logits="all").logits) for model in (written, own, stored)]
    assert np.array_equal(found[0], found[1])
    assert not np.allclose(found[1], found[2], atol=1e-4)


def test_fewer_bits_leave_less_of_a_dense_model(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, hidden_size=192, intermediate_size=256, head_dim=32)
    whole = mi.load(folder).run([3, 5, 7]).logits
    apart = [float(mx.abs(mi.load(folder, bits=bits).run([3, 5, 7]).logits - whole).max()) for bits in (8, 4, 2)]  # type: ignore[operator]
    assert 0 < apart[0] < apart[1] < apart[2]


def test_a_model_without_a_row_of_whole_groups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="group_size=128: no matrix of this model has rows of that many"):
        mi.load(write_checkpoint(tmp_path), bits=4, group_size=128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 7}, "bits=7: give one of 2, 3, 4, 5, 6, 8"),
        ({"bits": True}, "bits=True"),
        ({"bits": "4"}, "bits='4'"),
        ({"bits": 4, "group_size": 48}, "group_size=48: give one of 32, 64, 128"),
        ({"bits": 4, "shard": True}, "split over processes is not quantised"),
        ({"bits": 4, "adapter": "somewhere"}, "has an adapter is not quantised"),
    ],
)
def test_what_cannot_be_quantised_is_refused_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mi.load("tiny-llama", **options)
