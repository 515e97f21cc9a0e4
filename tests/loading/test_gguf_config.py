"""Configurations of GGUF files: RoPE scaling in metadata and tensors, and what a file leaves to the architecture."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.errors import UnsupportedModel
from mlx_interp.loading.gguf.config import config_of
from mlx_interp.loading.gguf.reader import read_file
from tests.loading.gguf_files import CONFIGS, write_gguf
from tests.parity.reference import LLAMA3_ROPE
from tests.tiny import random_mlx_model

TOKENS = [3, 290, 7, 11, 13, 300, 19, 23, 2, 5, 40]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path / "cache"))


def published(path: Path) -> dict[str, Any]:
    return config_of(read_file(path))


def difference(path: Path, config: dict[str, Any]) -> float:
    """Largest difference of logits from mlx-lm's model of a config, relative to the largest logit."""
    found = np.array(mi.load(path, check=False).run(TOKENS, logits="all").logits)[0]
    wanted = np.array(random_mlx_model(config)(mx.array([TOKENS])))[0]
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def llama3_factors(rope: dict[str, Any], base: float, dims: int) -> np.ndarray:
    """Factors of rope_freqs.weight, as llama.cpp's converter computes them."""
    old, factors = rope["original_max_position_embeddings"], []
    for power in range(0, dims, 2):
        wavelength = 2 * math.pi * base ** (power / dims)
        if wavelength < old / rope["high_freq_factor"]:
            factors.append(1.0)
        elif wavelength > old / rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            smooth = (old / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize("low", [1.0, 1.5])
def test_the_scaling_of_llama_3_is_found_again_in_its_factors(low: float, tmp_path: Path) -> None:
    rope = {**LLAMA3_ROPE, "low_freq_factor": low, "high_freq_factor": 4 * low}
    config = {**CONFIGS["llama"], "head_dim": 16, "rope_theta": 60.0, "rope_scaling": rope}
    factors = llama3_factors(rope, 60.0, 16)
    assert len(set(factors.tolist())) > 3
    path = write_gguf(tmp_path / "small.gguf", config=config, tensors={"rope_freqs.weight": factors})
    assert difference(path, config) < 1e-5
    assert difference(path, {**config, "rope_scaling": None}) > 1e-2


def test_the_published_settings_of_llama_3_come_back_as_published(tmp_path: Path) -> None:
    rope = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = {**CONFIGS["llama"], "head_dim": 64, "rope_theta": 500000.0}
    factors = llama3_factors(rope, 500000.0, 64)
    path = write_gguf(tmp_path / "small.gguf", config=config, tensors={"rope_freqs.weight": factors})
    assert published(path)["rope_scaling"] == {"rope_type": "llama3", "type": "llama3", **rope}


def test_other_factors_of_frequencies_are_refused_by_name(tmp_path: Path) -> None:
    odd = np.array([1, 5, 2, 8], np.float32)
    path = write_gguf(tmp_path / "small.gguf", tensors={"rope_freqs.weight": odd})
    with pytest.raises(UnsupportedModel, match=r"rope_freqs\.weight are not those of Llama 3"):
        mi.load(path)


@pytest.mark.parametrize(
    ("family", "metadata", "rope"),
    [
        ("llama", {"type": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0}),
        ("gemma3_text", {"type": "linear", "factor": 8.0}, {"type": "linear", "factor": 8.0}),
        (
            "qwen3",
            {"type": "yarn", "factor": 4.0, "original_context_length": 32},
            {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        ),
    ],
)
def test_scaling_in_metadata_is_computed(
    family: str, metadata: dict[str, Any], rope: dict[str, Any], tmp_path: Path
) -> None:
    scaling = {f"rope.scaling.{key}": value for key, value in metadata.items()}
    path = write_gguf(tmp_path / "small.gguf", family, metadata=scaling)
    assert difference(path, {**CONFIGS[family], "rope_scaling": rope}) < 1e-6
    assert difference(path, CONFIGS[family]) > 1e-3


def test_longrope_keeps_both_sets_of_factors_and_its_training_length(tmp_path: Path) -> None:
    long, short = np.linspace(1, 9, 2, dtype=np.float32), np.linspace(1, 2, 2, dtype=np.float32)
    implied = math.sqrt(1 + math.log(4, 32))
    path = write_gguf(
        tmp_path / "small.gguf",
        "phi3",
        metadata={"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": implied},
        tensors={"rope_factors_long.weight": long, "rope_factors_short.weight": short},
    )
    config = published(path)
    assert config["original_max_position_embeddings"] == 32
    assert config["rope_scaling"] == {
        "rope_type": "longrope",
        "type": "longrope",
        "long_factor": [1.0, 9.0],
        "short_factor": [1.0, 2.0],
    }
    other = write_gguf(
        tmp_path / "other.gguf",
        "phi3",
        metadata={"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": 1.5},
        tensors={"rope_factors_long.weight": long, "rope_factors_short.weight": short},
    )
    assert published(other)["rope_scaling"]["attention_factor"] == 1.5


def test_what_a_gemma_3_file_leaves_out_is_what_the_architecture_has(tmp_path: Path) -> None:
    config = {
        **CONFIGS["gemma3_text"],
        "num_hidden_layers": 6,
        "sliding_window_pattern": 6,
        "rope_local_base_freq": 1e4,
    }
    left_out = {"attention.sliding_window_pattern": None, "rope.freq_base_swa": None}
    path = write_gguf(tmp_path / "small.gguf", "gemma3_text", config=config, metadata=left_out)
    found = published(path)
    assert (found["sliding_window_pattern"], found["rope_local_base_freq"]) == (6, 10000.0)
    assert (found["query_pre_attn_scalar"], found["rms_norm_eps"]) == (8, 1e-5)
    assert difference(path, config) < 1e-6


def test_gemma_2s_soft_caps_are_those_of_the_file_else_of_the_architecture(tmp_path: Path) -> None:
    assert published(write_gguf(tmp_path / "a.gguf", "gemma2"))["attn_logit_softcapping"] == 5.0
    left_out = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    found = published(write_gguf(tmp_path / "b.gguf", "gemma2", metadata=left_out))
    assert (found["attn_logit_softcapping"], found["final_logit_softcapping"]) == (50.0, 30.0)


def test_a_head_is_tied_where_the_file_has_none(tmp_path: Path) -> None:
    assert not published(write_gguf(tmp_path / "a.gguf"))["tie_word_embeddings"]
    config = {**CONFIGS["llama"], "tie_word_embeddings": True}
    path = write_gguf(tmp_path / "b.gguf", config=config)
    assert published(path)["tie_word_embeddings"]
    assert difference(path, config) < 1e-6


def test_a_gemma_3_file_warns_of_the_rounded_scale_and_a_gemma_2_file_does_not(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="rounds the embedding scale to bfloat16"):
        mi.load(write_gguf(tmp_path / "three.gguf", "gemma3_text"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mi.load(write_gguf(tmp_path / "two.gguf", "gemma2"))
