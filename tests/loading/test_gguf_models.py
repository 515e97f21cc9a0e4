"""Models of GGUF files against the model the file was written from, in mlx-lm and in transformers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_interp as mi
from tests.loading.gguf_files import CONFIGS, N_TOKENS, as_written, write_gguf
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
