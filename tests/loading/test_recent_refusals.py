"""Configs of which mlx-lm's classes of recent families compute one half only: refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_interp.architectures import family_of
from mlx_interp.errors import UnsupportedModel
from mlx_interp.loading.configs import normalised
from tests.tiny import FAMILY_CONFIGS, MINISTRAL3_ROPE

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "windows in every layer": ("ministral3", {"sliding_window": 4}, "a window of 4 in every layer"),
    "queries that grow by nothing": (
        "ministral3",
        {"rope_parameters": {k: v for k, v in MINISTRAL3_ROPE.items() if k != "llama_4_scaling_beta"}},
        "no llama_4_scaling_beta",
    ),
    "layers that borrow keys of none": ("gemma4_text", {"num_kv_shared_layers": 5}, "share keys of none before them"),
    "values that are keys": ("gemma4_text", {"attention_k_eq_v": True}, "'attention_k_eq_v' = True"),
    "experts beside the MLP": (
        "gemma4_text",
        {"enable_moe_block": True, "num_experts": 4},
        "'enable_moe_block' = True",
    ),
    "heads of more than two sizes": (
        "gemma4_text",
        {"per_layer_config": {"2": {"head_dim": 12}, "5": {"head_dim": 16}}},
        "a per_layer_config of other things",
    ),
    "fewer embeddings by layer than tokens": (
        "gemma4_text",
        {"vocab_size_per_layer_input": 90},
        "90 embeddings by layer",
    ),
    "attention nowhere": (
        "qwen3_5",
        {"text_config": {**FAMILY_CONFIGS["qwen3_5"]["text_config"], "full_attention_interval": 9}},
        "no layer with attention",
    ),
    "attention at another distance": (
        "qwen3_5",
        {"text_config": {**FAMILY_CONFIGS["qwen3_5"]["text_config"], "layer_types": ["full_attention"] * 4}},
        "layer_types that differ",
    ),
    "two statements of where attention is": (
        "lfm2",
        {"full_attn_idxs": [1]},
        "and other layer_types",
    ),
    "a head of its own": ("lfm2", {"tie_word_embeddings": False}, "'tie_word_embeddings' = False"),
    "experts by groups": (
        "deepseek_v2",
        {"topk_method": "group_limited_greedy", "n_group": 5, "topk_group": 2},
        "'topk_method' = 'group_limited_greedy'",
    ),
    "weights that sum to one": ("deepseek_v2", {"norm_topk_prob": True}, "'norm_topk_prob' = True"),
    "rope without yarn": ("deepseek_v2", {"rope_scaling": None}, "no factor in its rope_scaling"),
    "keys of fewer heads": ("deepseek_v2", {"num_key_value_heads": 3}, "keys for 3 of 6 heads"),
    "experts in no layer": ("deepseek_v2", {"first_k_dense_replace": 3}, "no layer with experts"),
    "experts beside an MLP": ("granitemoehybrid", {"num_local_experts": 4}, "has 4 experts beside its MLP"),
    "norms by groups of a state space": ("granitemoehybrid", {"mamba_n_groups": 2}, "'mamba_n_groups' = 2"),
    "no attention anywhere": ("granitemoehybrid", {"layer_types": ["mamba"] * 4}, "no layer with attention"),
    "another language model inside": (
        "mistral3",
        {"text_config": {**FAMILY_CONFIGS["llama"], "model_type": "mistral"}},
        "of type 'mistral'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_computed_by_half_is_refused_by_name(name: str) -> None:
    family, fields, message = REFUSED[name]
    with pytest.raises(UnsupportedModel, match=message):
        family_of(normalised({**FAMILY_CONFIGS[family], **fields}, ["lm_head.weight"]))


@pytest.mark.parametrize("family", sorted({family for family, _, _ in REFUSED.values()}))
def test_without_that_they_are_not(family: str) -> None:
    assert family_of(normalised(FAMILY_CONFIGS[family], ["lm_head.weight"])).model_type == family
