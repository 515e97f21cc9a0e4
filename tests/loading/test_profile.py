"""What a model computes in on CPU is the function that its checkpoint stores."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, quantize_model, save_config

import mlx_interp as mi
from mlx_interp.errors import ConfigError
from mlx_interp.loading import profile
from tests.loading.checkpoints import PACKABLE, write_checkpoint

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
@pytest.mark.parametrize("tied", [True, False])
def test_mixed_precision_loads_layer_by_layer(tmp_path: Path, tied: bool) -> None:
    """Some layers in 8 bits, some in 4, one not quantised: as mlx_lm.convert writes it with a predicate."""
    folder = write_checkpoint(tmp_path / "plain", model_type="qwen2", tie_word_embeddings=tied, **PACKABLE)
    network, config = load_model(folder)

    def bits_of(path: str, module: nn.Module) -> bool | dict[str, int]:
        if "layers.1.mlp.up_proj" in path:
            return False
        wide = "down_proj" in path or "embed" in path
        return {"group_size": 64, "bits": 8} if wide else {"group_size": 32, "bits": 4}

    network, config = quantize_model(network, config, 32, 4, quant_predicate=bits_of)
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    mx.save_safetensors(str(mixed / "model.safetensors"), dict(tree_flatten(network.parameters())))
    save_config(config, mixed / "config.json")
    dense, kept = mi.load(mixed), mi.load(mixed, dequantize=False)
    assert dense.quantization == "mixed 4- and 8-bit, group 32"
    held = {path: module.bits for path, module in profile.quantized_modules(kept.mlx_model)}
    assert set(held.values()) == {4, 8}
    assert not any("layers.1.mlp.up_proj" in path for path in held)
    reference = logits(load_model(mixed)[0])
    for model in (dense, kept):
        assert np.abs(logits(model.mlx_model) - reference).max() < 1e-4 * np.abs(reference).max()


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


def test_asking_for_more_memory_than_there_is_says_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path, bits=4)
    monkeypatch.setattr(profile, "free_memory", lambda: 1_000_000)
    with pytest.raises(ConfigError, match=r"needs .* GB .* memory='low' dequantises what is in use alone"):
        mi.load(folder, dequantize=True)
    monkeypatch.setattr(profile, "free_memory", lambda: 1000)
    with pytest.raises(ConfigError, match="take a smaller model"):
        mi.load(folder)


def test_weight_bytes_are_those_of_the_loaded_arrays(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, bits=4)
    for dense in (False, True):
        lazy = load_model(folder, lazy=True)[0]
        paths = [path for path, _ in profile.quantized_modules(lazy)] if dense else []
        planned = profile.weight_bytes(lazy, mx.float32, dense=paths)
        network = mi.load(folder, dtype="float32", dequantize=dense).mlx_model
        assert planned == profile.weight_bytes(network, None, dense=())


@pytest.mark.parametrize("options", [{"dtype": "float8"}, {"dequantize": "maybe"}, {"memory": "none"}])
def test_a_wrong_option_is_named(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"float8|maybe|no memory profile 'none'.*give 'auto' or 'low'"):
        mi.load(write_checkpoint(tmp_path), **options)  # type: ignore[arg-type]
