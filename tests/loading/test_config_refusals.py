"""What a config means and is not computed is refused by name and value; what contradicts itself, with both named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import mlx_interp as mi
from mlx_interp.errors import CheckpointError, MlxInterpError, UnsupportedModel
from tests.loading.checkpoints import write_checkpoint

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
LONG = {"rope_type": "longrope", "original_max_position_embeddings": 16, "long_factor": [1.0] * 8}

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "RoPE of a type that nobody knows": ("llama", {"rope_scaling": {"type": "xpos", "factor": 2.0}}, "'xpos'"),
    "RoPE of images": ("qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, "'mrope'"),
    "RoPE of a part of each head": ("llama", {"partial_rotary_factor": 0.5}, "'partial_rotary_factor' = 0.5"),
    "the same inside": (
        "llama",
        {"rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}},
        "'partial_rotary_factor' = 0.5",
    ),
    "a factor that is missing": ("llama", {"rope_scaling": {"rope_type": "linear"}}, "factor"),
    "a factor that is text": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": "4"}}, "'factor' is '4'"),
    "a factor of nothing": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 0.0}}, "'factor' is 0.0"),
    "a base of null": ("llama", {"rope_theta": None, "rope_scaling": None, "rope_parameters": None}, "'rope_theta'"),
    "factors of another width": (
        "llama",
        {"rope_scaling": {**LONG, "short_factor": [1.0] * 7}},
        "'short_factor' needs 8 numbers",
    ),
    "layers of other sizes": ("llama", {"per_layer_config": {"0": {"intermediate_size": 8}}}, "'per_layer_config'"),
    "attention both ways": ("mistral", {"is_causal": False}, "'is_causal' = False"),
    "attention both ways in Gemma": ("gemma2", {"use_bidirectional_attention": True}, "'use_bidirectional_attention'"),
    "no cap of the scores": ("gemma2", {"attn_logit_softcapping": None}, "'attn_logit_softcapping' = None"),
    "no cap of the logits": ("gemma2", {"final_logit_softcapping": None}, "'final_logit_softcapping' = None"),
    "another activation": ("gemma", {"hidden_act": "silu"}, "'hidden_act' = 'silu'"),
    "another activation in Llama": ("llama", {"hidden_act": "relu"}, "'hidden_act' = 'relu'"),
    "windows": ("qwen2", {"use_sliding_window": True}, "'use_sliding_window' = True"),
    "code of its own": (
        "llama",
        {"auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}},
        "'auto_map' names 'modeling_own.OwnForCausalLM'",
    ),
    "a value that transformers does not take": (
        "llama",
        {"num_attention_heads": "six"},
        "LlamaConfig does not take it",
    ),
}
CONTRADICTIONS: dict[str, tuple[str, dict[str, Any], tuple[str, str]]] = {
    "old RoPE against new": (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_parameters": PLAIN},
        ("rope_scaling.rope_type = 'linear'", "rope_parameters.rope_type = 'default'"),
    ),
    "factors": (
        "llama",
        {"rope_scaling": YARN, "rope_parameters": {**YARN, "factor": 8.0}},
        ("rope_scaling.factor = 4.0", "rope_parameters.factor = 8.0"),
    ),
    "bases": (
        "llama",
        {"rope_theta": 5e5, "rope_parameters": PLAIN},
        ("rope_theta = 500000.0", "rope_parameters.rope_theta = 10000.0"),
    ),
    "two names of a type": (
        "llama",
        {"rope_scaling": {**YARN, "type": "linear"}},
        ("rope_scaling.type = 'linear'", "rope_scaling.rope_type = 'yarn'"),
    ),
    "original lengths": (
        "llama",
        {"rope_scaling": YARN, "original_max_position_embeddings": 32},
        ("original_max_position_embeddings = 32", "rope_scaling.original_max_position_embeddings = 16"),
    ),
    "quantisations": (
        "llama",
        {"quantization": {"bits": 4, "group_size": 32}, "quantization_config": {"bits": 8, "group_size": 32}},
        ("quantization.bits = 4", "quantization_config.bits = 8"),
    ),
}  # fmt: skip


def folder_of(path: Path, model_type: str, fields: dict[str, Any]) -> Path:
    folder = write_checkpoint(path / "model", model_type=model_type)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_refused_by_name_and_value(name: str, tmp_path: Path) -> None:
    model_type, fields, message = REFUSED[name]
    with pytest.raises((UnsupportedModel, CheckpointError)) as caught:
        mi.load(folder_of(tmp_path, model_type, fields))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_contradicts_itself_is_refused_with_both_named(name: str, tmp_path: Path) -> None:
    model_type, fields, (one, other) = CONTRADICTIONS[name]
    with pytest.raises(CheckpointError, match="contradicts itself") as caught:
        mi.load(folder_of(tmp_path, model_type, fields))
    assert one in str(caught.value)
    assert other in str(caught.value)


def test_two_names_of_the_dtype_are_no_contradiction(tmp_path: Path) -> None:
    assert mi.load(folder_of(tmp_path, "llama", {"dtype": "float32", "torch_dtype": "bfloat16"})).n_layers == 2


def test_a_tied_head_that_is_stored_otherwise_is_refused_and_a_copy_of_the_embedding_is_not(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tie_word_embeddings=True)
    weights = dict(mx.load(str(folder / "model.safetensors")))
    mx.eval(list(weights.values()))
    for change, refused in ((0.0, False), (0.5, True)):
        head = weights["model.embed_tokens.weight"] + change
        mx.save_safetensors(str(folder / "model.safetensors"), {**weights, "lm_head.weight": head})
        if refused:
            with pytest.raises(CheckpointError, match=r"tie_word_embeddings = True, and the tensor 'lm_head\.weight'"):
                mi.load(folder)
        else:
            assert mi.load(folder).network.tied


@pytest.mark.parametrize(
    ("given", "stops"), [([1, 5], {1, 5}), (7, {1, 7}), (None, {1}), ([], {1})], ids=["list", "one", "null", "none"]
)
def test_texts_stop_at_the_tokens_of_generation_config(given: Any, stops: set[int], tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": given}))
    assert mi.load(folder).stop_tokens == stops


@pytest.mark.parametrize("text", ['{"eos_token_id": "</s>"}', '{"eos_token_id": [1, null]}', "{", "[]"])
def test_a_generation_config_that_makes_no_sense_is_refused(text: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(MlxInterpError, match=r"generation_config\.json"):
        mi.load(folder)
