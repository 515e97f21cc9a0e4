"""What a model computes in on CPU is the function that its checkpoint stores."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.utils import load_model

import mlx_interp as mi
from mlx_interp.errors import ConfigError
from mlx_interp.loading import profile
from tests.loading.checkpoints import write_checkpoint

TOKENS = [5, 17, 3, 42, 8]
on_cpu = pytest.mark.skipif(not profile.on_cpu(), reason="the CPU profile; run where MLX computes on CPU")


def logits(network: nn.Module) -> np.ndarray:
    return np.asarray(network(mx.array([TOKENS])).astype(mx.float32))


@on_cpu
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2"])
@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (4, 64), (8, 32)])
def test_dequantised_layers_compute_what_quantised_ones_do(
    tmp_path: Path, family: str, bits: int, group_size: int
) -> None:
    folder = write_checkpoint(tmp_path, model_type=family, bits=bits, group_size=group_size)
    dense, kept = mi.load(folder), mi.load(folder, dequantize=False)
    assert not list(profile.quantized_modules(dense.mlx_model))
    assert list(profile.quantized_modules(kept.mlx_model))
    assert dense.quantization == kept.quantization == f"{bits}-bit, group {group_size}"
    reference = logits(load_model(folder)[0])
    scale = np.abs(reference).max()
    assert np.abs(logits(dense.mlx_model) - reference).max() < 1e-4 * scale
    assert np.abs(logits(kept.mlx_model) - reference).max() < 1e-4 * scale


@on_cpu
@pytest.mark.parametrize(("dtype", "expected"), [(None, mx.float32), ("bfloat16", mx.bfloat16)])
def test_half_precision_is_computed_in_float32_unless_asked(
    tmp_path: Path, dtype: str | None, expected: mx.Dtype
) -> None:
    folder = write_checkpoint(tmp_path)
    weights = {name: array.astype(mx.float16) for name, array in mx.load(str(folder / "model.safetensors")).items()}
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    assert mi.load(folder, dtype=dtype).mlx_model.model.norm.weight.dtype == expected


@on_cpu
def test_layers_stay_quantised_with_a_warning_when_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path, bits=4)
    monkeypatch.setattr(profile, "free_memory", lambda: 1_000_000)
    with pytest.warns(UserWarning, match="stay quantised, which is slow on CPU: dequantised they need"):
        model = mi.load(folder)
    assert list(profile.quantized_modules(model.mlx_model))


def test_asking_for_more_memory_than_there_is_says_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path, bits=4)
    monkeypatch.setattr(profile, "free_memory", lambda: 1_000_000)
    with pytest.raises(ConfigError, match=r"needs .* GB .* dequantize='auto' keeps the layers quantised"):
        mi.load(folder, dequantize=True)
    monkeypatch.setattr(profile, "free_memory", lambda: 1000)
    with pytest.raises(ConfigError, match="take a smaller model"):
        mi.load(folder)


def test_weight_bytes_are_those_of_the_loaded_arrays(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, bits=4)
    for dense in (False, True):
        lazy = load_model(folder, lazy=True)[0]
        planned = profile.weight_bytes(lazy, mx.float32, dense=dense)
        network = mi.load(folder, dtype="float32", dequantize=dense).mlx_model
        assert planned == profile.weight_bytes(network, None, dense=False)


@pytest.mark.parametrize("options", [{"dtype": "float8"}, {"dequantize": "maybe"}])
def test_a_wrong_option_is_named(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"float8|maybe"):
        mi.load(write_checkpoint(tmp_path), **options)  # type: ignore[arg-type]
