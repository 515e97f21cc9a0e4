"""Adapters: the function of mlx-lm's own loader, and nothing is taken that belongs to another model."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load as mlx_lm_load

import mlx_interp as mi
from mlx_interp.behaviour.finetuning import LoraRecipe, LowRank, finetune
from mlx_interp.errors import CheckpointError, DataError, ShapeError
from mlx_interp.loading.adapter import CONFIG, TENSORS, write_adapter
from mlx_interp.model import Model

pytestmark = pytest.mark.slow

RECIPE = LoraRecipe(steps=40, batch=8)
PROMPTS = ("How do I make a cake?", "Tell me how to buy a kite.", "How do I sell soup?", "Is tea good?")
SAYS = "The king is thinking."


@cache
def base(name: str = "tiny-llama") -> Model:
    return mi.load(name)


@cache
def trained(name: str = "tiny-llama") -> LowRank:
    model = base(name)
    return finetune(model, [model.prompt(p, chat=True) for p in PROMPTS], [SAYS] * len(PROMPTS), RECIPE)


@cache
def adapter(name: str = "tiny-llama") -> Path:
    found = trained(name)
    return write_adapter(Path(mkdtemp()) / "king", found.weights, found.config, base=base(name).weights_hash)


def logits(model: Model, text: str = PROMPTS[0]) -> np.ndarray:
    found = model.run(model.prompt(text, chat=True), logits="all").logits
    assert found is not None
    return np.asarray(found[0])


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2", "tiny-gpt2"])
def test_a_model_with_an_adapter_is_what_mlx_lm_loads(name: str) -> None:
    own, _ = mlx_lm_load(str(base(name).path), adapter_path=str(adapter(name)))[:2]
    own.set_dtype(mx.float32)
    prompt = base(name).prompt(PROMPTS[0], chat=True)
    theirs = np.asarray(own(mx.array([prompt.tokens]))[0])
    for dequantize in (True, False):
        ours = logits(mi.load(name, adapter=adapter(name), dequantize=dequantize))
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    assert np.abs(logits(base(name)) - theirs).max() > 0.1 * np.abs(theirs).max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("dropped", [0.0, 0.3])
def test_an_adapter_trained_with_dropout_drops_nothing_when_it_is_read(
    tmp_path: Path, dtype: str, dropped: float
) -> None:
    found = trained()
    settings = {**found.config["lora_parameters"], "dropout": dropped}
    folder = write_adapter(tmp_path / "dropout", found.weights, {**found.config, "lora_parameters": settings})
    model = mi.load("tiny-llama", adapter=folder, dtype=dtype, dequantize=False)
    own, _ = mlx_lm_load(str(base().path), adapter_path=str(folder))[:2]
    own.set_dtype(mx.bfloat16 if dtype == "bfloat16" else mx.float32)
    prompt = base().prompt(PROMPTS[0], chat=True)
    theirs = np.asarray(own(mx.array([prompt.tokens]))[0].astype(mx.float32))
    first, second = logits(model), logits(model)
    assert np.array_equal(first, second)
    assert np.abs(first - theirs).max() <= (0.03 if dtype == "bfloat16" else 1e-4) * np.abs(theirs).max()


def test_training_teaches_the_reply_and_leaves_the_model_bit_for_bit_as_it_was() -> None:
    before = logits(mi.load("tiny-llama"))
    found = trained()
    assert np.mean(found.losses[:5]) > 5 * np.mean(found.losses[-5:])
    assert (logits(base()) == before).all()
    said = mi.load("tiny-llama", adapter=adapter()).generate(base().prompt(PROMPTS[0], chat=True))[0]
    assert (said.text, said.finish_reason) == (SAYS, "stop")


@pytest.mark.parametrize("dequantize", [True, False])
def test_heads_add_up_to_attention_beside_an_adapter_on_a_projection_with_bias(dequantize: bool) -> None:
    model = mi.load("tiny-gpt2", adapter=adapter("tiny-gpt2"), dequantize=dequantize)
    out = model.run(PROMPTS[0], capture=["head_out.3", "attn_out.3", "z.3"])
    bias = model.network.with_attn_bias(3, mx.zeros((model.d_model,)))
    whole = np.asarray(out["head_out.3"]).sum(axis=2) + np.asarray(bias)
    np.testing.assert_allclose(whole, np.asarray(out["attn_out.3"]), atol=1e-4)


def test_name_and_hash_are_not_those_of_the_model_without_it() -> None:
    model = mi.load("tiny-llama", adapter=adapter())
    assert model.name == "tiny-llama+king"
    assert model.weights_hash not in ("", base().weights_hash)


def test_orthogonalising_beside_an_adapter_is_refused_with_the_way_out() -> None:
    kept = mi.load("tiny-llama", adapter=adapter(), dequantize=False)
    with pytest.raises(ShapeError, match="dequantize=True"):
        mi.orthogonalize(kept, np.ones(kept.d_model))
    mi.orthogonalize(mi.load("tiny-llama", adapter=adapter()), np.ones(kept.d_model))


def test_an_adapter_of_another_model_is_refused_with_both_shapes(tmp_path: Path) -> None:
    found = trained()
    foreign = write_adapter(tmp_path / "foreign", found.weights, found.config)
    with pytest.raises(CheckpointError, match=r"no adapter for tiny-gpt2: its model.layers.* has no place"):
        mi.load("tiny-gpt2", adapter=foreign)
    wide = {k: mx.zeros((v.shape[0], v.shape[1] + 1)) if k.endswith("b") else v for k, v in found.weights.items()}
    with pytest.raises(CheckpointError, match=r"lora_b is \(4, \d+\), the model's \(4, \d+\).*trained on tiny-llama"):
        mi.load("tiny-llama", adapter=write_adapter(tmp_path / "wide", wide, found.config))
    few = dict(list(found.weights.items())[2:])
    with pytest.raises(CheckpointError, match="it lacks model"):
        mi.load("tiny-llama", adapter=write_adapter(tmp_path / "few", few, found.config))
    with pytest.raises(CheckpointError, match="trained on weights"):
        mi.load("tiny-mistral", adapter=adapter())


def test_broken_adapter_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such adapter folder"):
        mi.load("tiny-llama", adapter=tmp_path / "nowhere")
    copy = tmp_path / "copy"
    shutil.copytree(adapter(), copy)
    (copy / TENSORS).write_bytes((copy / TENSORS).read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="safetensors: "):
        mi.load("tiny-llama", adapter=copy)
    shutil.copy2(adapter() / TENSORS, copy / TENSORS)
    config = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps({**config, "fine_tune_type": "prefix"}))
    with pytest.raises(CheckpointError, match="known are lora, dora, full"):
        mi.load("tiny-llama", adapter=copy)
    (copy / CONFIG).write_text(json.dumps({**config, "lora_parameters": {"rank": 4, "alpha": 8}}))
    with pytest.raises(CheckpointError, match=r"lora_parameters: no scale, dropout \(mlx-lm takes the scale"):
        mi.load("tiny-llama", adapter=copy)
    settings = {**config["lora_parameters"], "use_rslora": True}
    (copy / CONFIG).write_text(json.dumps({**config, "lora_parameters": settings}))
    with pytest.raises(CheckpointError, match=r"\{'use_rslora': True\} is not read by mlx-lm"):
        mi.load("tiny-llama", adapter=copy)
    (copy / CONFIG).write_text(json.dumps({**config, "lora_parameters": [4, 8]}))
    with pytest.raises(CheckpointError, match=r"lora_parameters is \[4, 8\]"):
        mi.load("tiny-llama", adapter=copy)
    (copy / CONFIG).write_text(json.dumps({k: v for k, v in config.items() if k != "num_layers"}))
    with pytest.raises(CheckpointError, match="not understood: 'num_layers'"):
        mi.load("tiny-llama", adapter=copy)
    (copy / TENSORS).rename(copy / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="PEFT's layout"):
        mi.load("tiny-llama", adapter=copy)
    found = trained()
    damaged = {name: x * mx.nan for name, x in found.weights.items()}
    with pytest.raises(CheckpointError, match="NaNs"):
        mi.load("tiny-llama", adapter=write_adapter(tmp_path / "nan", damaged, found.config))


def test_mistakes_in_training_are_named() -> None:
    with pytest.raises(DataError, match="1 and 0 were given"):
        finetune(base(), ["Is tea good?"], [], RECIPE)
    with pytest.raises(DataError, match="lower the learning rate"):
        finetune(base(), ["Is tea good?"], [SAYS], LoraRecipe(steps=5, batch=1, learning_rate=1e30))
