"""PEFT's layout: an adapter is what merging its two matrices by hand gives, and one of another model is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

import mlx_interp as mi
from mlx_interp.errors import CheckpointError

TEXT = "How do I make a cake?"
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "somebody/tiny",
    "task_type": "CAUSAL_LM",
    "r": 3,
    "lora_alpha": 6,
    "lora_dropout": 0.05,
    "target_modules": ["q_proj", "down_proj"],
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}
PLACES = ("layers.0.self_attn.q_proj", "layers.5.mlp.down_proj")


def matrices(prefix: str = "base_model.model.model.") -> dict[str, np.ndarray]:
    """As PEFT names them: A (r, inputs), B (outputs, r)."""
    rng = np.random.default_rng(0)
    network, found = mi.load("tiny-llama").mlx_model, {}
    for place in PLACES:
        module: Any = network.model
        for name in place.split("."):
            module = module[int(name)] if name.isdigit() else getattr(module, name)
        outputs, inputs = module.weight.shape
        found[f"{prefix}{place}.lora_A.weight"] = rng.normal(size=(3, inputs)).astype(np.float32) / 10
        found[f"{prefix}{place}.lora_B.weight"] = rng.normal(size=(outputs, 3)).astype(np.float32) / 10
    return found


def written(folder: Path, tensors: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
    folder.mkdir()
    save_file(matrices() if tensors is None else tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def logits(model: mi.Model) -> np.ndarray:
    found = model.run(TEXT, logits="all").logits
    assert found is not None
    return np.asarray(found[0])


def merged(scale: float) -> np.ndarray:
    """Logits of the model with each product added to its matrix by hand."""
    model, tensors = mi.load("tiny-llama"), matrices()
    for place in PLACES:
        module: Any = model.mlx_model.model
        for name in place.split("."):
            module = module[int(name)] if name.isdigit() else getattr(module, name)
        a, b = (tensors[f"base_model.model.model.{place}.lora_{side}.weight"] for side in "AB")
        module.weight = module.weight + mx.array(scale * b @ a)
    return logits(model)


@pytest.mark.parametrize(("changes", "scale"), [({}, 2.0), ({"use_rslora": True}, 6 / 3**0.5)])
@pytest.mark.parametrize("dequantize", [True, False])
def test_an_adapter_is_its_product_added_to_the_matrix(
    tmp_path: Path, changes: dict[str, Any], scale: float, dequantize: bool
) -> None:
    model = mi.load("tiny-llama", adapter=written(tmp_path / "a", **changes), dequantize=dequantize)
    expected, plain = merged(scale), logits(mi.load("tiny-llama"))
    assert np.abs(logits(model) - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(plain - expected).max() > 0.01 * np.abs(expected).max()
    assert model.name == "tiny-llama+a"


def test_names_of_a_model_with_a_vision_tower_are_understood_and_the_tower_left_out(tmp_path: Path) -> None:
    tensors = matrices("base_model.model.model.language_model.")
    tower = "base_model.model.model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    model = mi.load("tiny-llama", adapter=written(tmp_path / "a", {**tensors, tower: np.ones((3, 7), np.float32)}))
    expected = merged(2.0)
    assert np.abs(logits(model) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_adapters_of_another_model_or_kind_are_refused(tmp_path: Path) -> None:
    def refused(message: str, name: str, tensors: dict[str, np.ndarray] | None = None, **changes: Any) -> None:
        with pytest.raises(CheckpointError, match=message):
            mi.load("tiny-llama", adapter=written(tmp_path / name, tensors, **changes))

    own = matrices()
    a, b = list(own)[:2]
    refused(r"q_proj is \(128, 3\) times \(3, 9\) of rank 3, the model's \(128, 128\); it was trained on", "wide", {
        a: np.ones((3, 9), np.float32), b: own[b]})  # fmt: skip
    refused("has no place in the model", "deep", {a.replace("layers.0", "layers.40"): own[a]})
    refused("lacks the other side", "half", {a: own[a]})
    refused("no low-rank matrices", "none", {"base_model.model.vision_tower.x": own[a]})
    refused("peft_type 'IA3': LORA is read", "ia3", peft_type="IA3")
    refused(r"'use_dora': True\} is not read: merge", "dora", use_dora=True)
    refused("alpha_pattern", "pattern", alpha_pattern={"q_proj": 3})
    refused("has r None and lora_alpha 6", "rank", r=None)
