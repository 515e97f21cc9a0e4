"""Models of GGUF files against the model the file was written from, in mlx-lm and in transformers."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_interp as mi
from mlx_interp import deferred
from mlx_interp.__main__ import main
from mlx_interp.errors import CheckpointError
from mlx_interp.loading.gguf.convert import convert
from tests.loading.gguf_files import CONFIGS, write_gguf
from tests.tiny import random_mlx_model

TOKENS = [3, 290, 7, 11, 13, 300, 19, 23, 2]
Kind = gguf.GGMLQuantizationType


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path / "cache"))


def logits_of(model: mi.Model) -> Any:
    return np.array(model.run(TOKENS, logits="all").logits)[0]


def written_from(config: dict[str, Any], seed: int = 0) -> Any:
    return np.array(random_mlx_model(config, seed)(mx.array([TOKENS])))[0]


def worst(found: Any, wanted: Any) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("family", CONFIGS)
def test_a_file_computes_what_the_model_it_was_written_from_does(family: str, tmp_path: Path) -> None:
    model = mi.load(write_gguf(tmp_path / "small.gguf", family))
    assert worst(logits_of(model), written_from(CONFIGS[family])) < 1e-6
    assert model.name == "small"


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch: pip install .[parity]")
@pytest.mark.parametrize("family", CONFIGS)
def test_a_file_computes_what_transformers_does_on_the_original_weights(family: str, tmp_path: Path) -> None:
    import torch

    from tests.parity.reference import transformers_model

    with torch.no_grad():
        wanted = transformers_model(CONFIGS[family], 0)(torch.tensor([TOKENS])).logits[0].numpy()
    assert worst(logits_of(mi.load(write_gguf(tmp_path / "small.gguf", family))), wanted) < 1e-5


QUANTISED = {
    "attn_q.weight": Kind.Q4_0,
    "attn_k.weight": Kind.Q5_1,
    "ffn_up.weight": Kind.Q4_1,
    "ffn_down.weight": Kind.Q5_0,
    "token_embd.weight": Kind.Q8_0,
    "attn_v.weight": Kind.F16,
    "attn_qkv.weight": Kind.Q8_0,
}
WIDE = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 32}


def quantised_file(tmp_path: Path, family: str, **changed: Any) -> Path:
    wide = {"n_embd": 96} if family == "gpt2" else WIDE
    config = {**CONFIGS[family], **wide, **changed}
    if family in ("phi3", "qwen2"):
        config |= {"hidden_size": 192}
        config.pop("head_dim")
    return write_gguf(tmp_path / "small.gguf", family, config=config, kinds=QUANTISED)


def test_quantised_rows_of_queries_and_keys_come_back_in_order(tmp_path: Path) -> None:
    """Bit for bit: the weights as quantised, in the order that they had before llama.cpp's converter."""
    config = {**CONFIGS["llama"], **WIDE}
    loaded = mi.load(quantised_file(tmp_path, "llama"), dequantize=False)
    assert loaded.quantization == "mixed 4- and 5- and 8-bit, group 32"
    dense = dict(tree_flatten(mi.load(tmp_path / "small.gguf", dequantize=True).mlx_model.parameters()))
    original = dict(tree_flatten(random_mlx_model(config).parameters()))
    for name, kind in (("q_proj", Kind.Q4_0), ("k_proj", Kind.Q5_1), ("v_proj", Kind.F16)):
        weights = np.array(original[f"model.layers.1.self_attn.{name}.weight"])
        wanted = gguf.quants.dequantize(gguf.quants.quantize(weights, kind), kind)
        np.testing.assert_array_equal(np.array(dense[f"model.layers.1.self_attn.{name}.weight"]), wanted)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3", "gpt2"])
def test_layers_kept_quantised_compute_what_dequantised_ones_do(family: str, tmp_path: Path) -> None:
    path = quantised_file(tmp_path, family)
    kept, dense = mi.load(path, dequantize=False), mi.load(path, dequantize=True)
    assert kept.quantization
    assert worst(logits_of(kept), logits_of(dense)) < 1e-5


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3_text", "phi3", "gpt2"])
def test_a_converted_folder_is_the_file_for_us_and_for_mlx_lm(family: str, tmp_path: Path) -> None:
    path = quantised_file(tmp_path, family)
    assert main(["convert", str(path), str(tmp_path / "folder")]) == 0
    theirs, tokenizer = mlx_lm.load(str(tmp_path / "folder"))
    assert theirs.layers[0]
    own = mi.load(path, dequantize=False)
    wanted = logits_of(own)
    assert worst(np.array(theirs(mx.array([TOKENS])))[0], wanted) < 1e-6
    assert worst(logits_of(mi.load(tmp_path / "folder", dequantize=False)), wanted) < 1e-6
    assert tokenizer.encode("the 123") == own.tokenizer.encode("the 123")


def test_a_folder_that_is_there_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_gguf(tmp_path / "small.gguf")
    (tmp_path / "folder").mkdir()
    assert main(["convert", str(path), str(tmp_path / "folder")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert not list((tmp_path / "folder").iterdir())


def test_a_conversion_that_stops_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    path = write_gguf(tmp_path / "small.gguf")
    monkeypatch.setattr(deferred.mx, "save_safetensors", full)
    with pytest.raises(CheckpointError, match="No space left"):
        convert(path, tmp_path / "out" / "folder")
    assert not list((tmp_path / "out").iterdir())


def test_shards_of_a_conversion_hold_every_tensor_once(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "small.gguf")
    folder = convert(path, tmp_path / "folder", shard_bytes=20_000)
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    assert worst(logits_of(mi.load(folder)), logits_of(mi.load(path))) == 0


def test_the_hash_is_that_of_the_files_bytes_wherever_it_lies(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "small.gguf")
    other = tmp_path / "elsewhere.gguf"
    other.write_bytes(path.read_bytes())
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    assert mi.load(path).weights_hash == mi.load(other).weights_hash == wanted
