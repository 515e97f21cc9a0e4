"""Checkpoints of recent families as they are published: the language model inside a larger one, and parts left out."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from tests.loading.config_variants import VARIANTS
from tests.loading.test_config_variants import TOKENS, assert_equal, logits_of, reference

INSIDE = {
    "qwen 3.5, its language model alone": ("qwen3_5", {"model.visual.blocks.0.norm.weight": 3, "mtp.norm.weight": 3}),
    "gemma 4, its language model alone": ("gemma4", {"model.vision_tower.norm.weight": 3, "embed_audio.weight": 3}),
    "ministral 3": ("mistral3", {"vision_tower.norm.weight": 3, "multi_modal_projector.norm.weight": 3}),
}
"""The type of the larger model, and tensors that belong to its other parts."""


@pytest.mark.filterwarnings("ignore:.*RoPE of type")
@pytest.mark.parametrize("name", INSIDE)
def test_a_language_model_inside_a_larger_one_computes_what_it_does_alone(name: str, tmp_path: Path) -> None:
    model_type, others = INSIDE[name]
    expected = reference(VARIANTS[name], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    outside = {key: config[key] for key in ("eos_token_id", "tie_word_embeddings") if key in config}
    nested = {"model_type": model_type, "text_config": config, "vision_config": {"depth": 2}, "image_token_id": 9}
    (tmp_path / "config.json").write_text(json.dumps({**outside, **nested}))
    file = tmp_path / "model.safetensors"
    weights = {name.replace("model.", "model.language_model.", 1): a for name, a in dict(mx.load(str(file))).items()}
    mx.eval(list(weights.values()))
    mx.save_safetensors(str(file), {**weights, **{name: mx.ones((n,)) for name, n in others.items()}})
    model = mi.load(tmp_path)
    assert_equal(logits_of(model, TOKENS), expected, "")
    assert model.family == model_type
    assert np.array_equal(logits_of(model, TOKENS), np.asarray(model.mlx_model(mx.array([TOKENS])))[0])
