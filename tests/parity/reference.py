"""What Hugging Face transformers computes at every site, on weights that mlx-lm's model holds. Needs torch.

Run as a script it writes the golden files that the default tests compare with where torch is not installed:
`python -m tests.parity.reference`.
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mlx.utils import tree_flatten

from tests.tiny import FAMILY_CONFIGS, random_mlx_model

GOLDEN = Path(__file__).parent / "golden"
TOKENS = [3, 5, 7, 11, 13, 17, 19, 23, 2]
HEADS = {"full": {"num_key_value_heads": 6}, "grouped": {}, "multi-query": {"num_key_value_heads": 1}}
"""Attention with as many key heads as query heads, fewer, one."""


def case_config(family: str, heads: str) -> dict[str, Any]:
    return {**FAMILY_CONFIGS[family], **HEADS[heads]}


def reference(config: dict[str, Any], tokens: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Every site, as (pos, ...) float32 arrays by name, and "logits", from transformers in float32 on the CPU."""
    import torch

    model = transformers_model(config, seed)
    seen: dict[str, Any] = {}
    with torch.no_grad(), recording(model, seen):
        seen["logits"] = model(torch.tensor([tokens])).logits
    for layer in range(config["num_hidden_layers"]):
        pre, mid, post = (seen[f"{name}.{layer}"] for name in ("resid_pre", "resid_mid", "resid_post"))
        seen[f"attn_out.{layer}"], seen[f"mlp_out.{layer}"] = mid - pre, post - mid  # what is added to the stream
    n_heads = config["num_attention_heads"]
    arrays = {name: value[0].float().numpy() for name, value in seen.items()}
    for name, value in arrays.items():
        if name.startswith("z."):
            arrays[name] = value.reshape(len(tokens), n_heads, -1)
    return arrays


def transformers_model(config: dict[str, Any], seed: int) -> Any:
    """The transformers model of a config with the weights of `random_mlx_model(config, seed)`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {key: value for key, value in config.items() if key != "model_type"}
    if config["model_type"] == "gemma2":
        settings["sliding_window"] = 64
    if config["model_type"] == "phi3":
        settings["pad_token_id"] = 0  # its default lies outside this vocabulary
    theirs = AutoConfig.for_model(config["model_type"], **settings)
    model = AutoModelForCausalLM.from_config(theirs, attn_implementation="eager", dtype=torch.float32).eval()
    if config["model_type"] == "gemma":  # mlx-lm computes the exact GELU: Family.unread says so
        for layer in model.model.layers:
            layer.mlp.act_fn = torch.nn.GELU()
    ours = random_mlx_model(config, seed)
    weights = {name: torch.from_numpy(np.array(value)) for name, value in tree_flatten(ours.parameters())}
    if theirs.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, strict=True)
    return model


@contextmanager
def recording(model: Any, seen: dict[str, Any]) -> Any:
    """Records each site by forward hooks; q, k and the pattern where eager attention receives and returns them."""
    handles = []

    def record_output(module: Any, name: str) -> None:
        def hook(_: Any, __: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        handles.append(module.register_forward_hook(hook))

    def record_input(module: Any, name: str) -> None:
        handles.append(module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]})))

    for index, layer in enumerate(model.model.layers):
        sandwich = hasattr(layer, "pre_feedforward_layernorm")
        record_input(layer.input_layernorm, f"resid_pre.{index}")
        before_mlp = layer.pre_feedforward_layernorm if sandwich else layer.post_attention_layernorm
        record_input(before_mlp, f"resid_mid.{index}")
        record_output(layer, f"resid_post.{index}")
        record_input(layer.self_attn.o_proj, f"z.{index}")
        record_input(layer.mlp.down_proj, f"mlp_act.{index}")
    record_output(model.model.norm, "final")
    module = importlib.import_module(type(model).__module__)
    eager = module.eager_attention_forward

    def recorded(attention: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        output, weights = eager(attention, query, key, value, *args, **kwargs)
        for name, heads in (("q", query), ("k", key), ("v", value)):
            seen[f"{name}.{attention.layer_idx}"] = heads.transpose(1, 2)
        seen[f"pattern.{attention.layer_idx}"] = weights
        return output, weights

    module.eager_attention_forward = recorded
    try:
        yield
    finally:
        module.eager_attention_forward = eager
        for handle in handles:
            handle.remove()


def golden_path(family: str, heads: str) -> Path:
    return GOLDEN / f"{family}-{heads}.npz"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for family in FAMILY_CONFIGS:
        for heads in HEADS:
            np.savez_compressed(golden_path(family, heads), **reference(case_config(family, heads), TOKENS))
            print(golden_path(family, heads))
