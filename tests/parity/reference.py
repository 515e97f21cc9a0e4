"""What Hugging Face transformers computes at every site, on weights that mlx-lm's model holds. Needs torch.

Run as a script it writes the golden files that the default tests compare with where torch is not installed:
`python -m tests.parity.reference`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mlx.utils import tree_flatten

from tests.parity.mixers import (
    SHIFTED,
    as_stored,
    record_latent,
    record_own_inputs,
    recording_delta_nets,
    with_fused_mlps,
)
from tests.parity.names import NAMES, Names
from tests.tiny import FAMILY_CONFIGS, random_mlx_model

GOLDEN = Path(__file__).parent / "golden"
TOKENS = [3, 5, 7, 11, 13, 17, 19, 23, 2]
HEADS = {"full": {"num_key_value_heads": 6}, "grouped": {}, "multi-query": {"num_key_value_heads": 1}}
"""Attention with as many key heads as query heads, fewer, one."""


FULL = ("deepseek_v2", "gpt2", "gpt_neox", "gptj")
"""Families that have nothing else."""
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SPECIAL: dict[tuple[str, str], dict[str, Any]] = {
    ("llama", "llama3 rope"): {"rope_scaling": LLAMA3_ROPE, "rope_theta": 500.0},
    ("llama", "linear rope"): {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ("llama", "tied head, no biases"): {"tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False},
    ("qwen2", "tied head"): {"tie_word_embeddings": True},
    ("qwen3", "yarn rope"): {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    },
    ("gemma3_text", "linear rope in global layers"): {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ("granite", "untied head, no biases"): {"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False},
    ("gpt_neox", "MLP after attention"): {"use_parallel_residual": False},
    ("olmo2", "tied head, no biases"): {"tie_word_embeddings": True, "attention_bias": False},
    ("olmo3", "yarn rope in layers without a window"): {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    },
    ("smollm3", "windows in layers without positions"): {
        "use_sliding_window": True,
        "sliding_window": 4,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
    },
    ("cohere", "no norms of queries and keys, no biases"): {"use_qk_norm": False, "attention_bias": False},
    ("cohere2", "biases"): {"attention_bias": True, "sliding_window_pattern": 2},
    ("gptj", "whole heads turned"): {"rotary_dim": 8},
    ("qwen3_moe", "all probabilities as they are"): {"norm_topk_prob": False, "num_experts_per_tok": 3},
    ("mixtral", "one expert, tied head"): {"num_experts_per_tok": 1, "tie_word_embeddings": True},
    ("olmoe", "biases, weights sum to one"): {"attention_bias": True, "norm_topk_prob": True},
    ("gpt_oss", "yarn rope"): {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    },
    ("ministral3", "plain rope, tied head"): {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 500.0,
            "original_max_position_embeddings": 3,
            "llama_4_scaling_beta": 1.7,
        },
        "tie_word_embeddings": True,
    },
    ("qwen3_5", "one head of keys, no biases, tied head"): {
        "text_config": {
            **FAMILY_CONFIGS["qwen3_5"]["text_config"],
            "attention_bias": False,
            "tie_word_embeddings": True,
            "linear_num_key_heads": 1,
            "linear_conv_kernel_dim": 4,
            "full_attention_interval": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 1.0},
        }
    },
    ("gemma4_text", "one layer borrows, uneven share of a head turned"): {
        "num_kv_shared_layers": 1,
        "use_double_wide_mlp": False,
        "tie_word_embeddings": False,
        "final_logit_softcapping": None,
        "layer_types": ["sliding_attention", "full_attention", *["sliding_attention"] * 3, "full_attention"],
        "global_head_dim": 14,
        "rope_parameters": {
            "full_attention": {"rope_type": "proportional", "rope_theta": 900.0, "partial_rotary_factor": 0.3},
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        },
    },
    ("lfm2", "no biases, four positions, MLP as wide as said"): {
        "conv_bias": False,
        "conv_L_cache": 4,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["full_attention", "conv", "full_attention", "conv"],
    },
    ("granitemoehybrid", "rope, no biases, four positions, time steps cut, untied head"): {
        "position_embedding_type": "rope",
        "attention_bias": False,
        "mamba_conv_bias": False,
        "mamba_proj_bias": False,
        "mamba_d_conv": 4,
        "mamba_n_heads": 6,
        "mamba_d_head": 16,
        "time_step_limit": [0.2, 0.5],
        "layer_types": ["attention", "mamba", "mamba", "attention"],
        "tie_word_embeddings": False,
    },
    ("deepseek_v2", "queries of a latent, biases, experts everywhere"): {
        "q_lora_rank": 13,
        "attention_bias": True,
        "first_k_dense_replace": 0,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "routed_scaling_factor": 1.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    },
    ("gemma2", "odd soft-caps"): {"attn_logit_softcapping": 0.7, "final_logit_softcapping": 0.9},
}
"""Configurations that are unusual but legal."""


def cases(families: Iterable[str]) -> list[tuple[str, str]]:
    """Each family with each kind of attention that it has, and the unusual configurations."""
    usual = [(family, heads) for family in families for heads in HEADS if family not in FULL or heads == "full"]
    return sorted(usual + [case for case in SPECIAL if case[0] in families])


def overrides(family: str, heads: str) -> dict[str, Any]:
    """What turns a family's configuration into that of a case."""
    if (family, heads) in SPECIAL:
        return SPECIAL[family, heads]
    if family in FULL:
        return {}
    if "text_config" in FAMILY_CONFIGS[family]:
        return {"text_config": {**FAMILY_CONFIGS[family]["text_config"], **HEADS[heads]}}
    return HEADS[heads]


def case_config(family: str, heads: str) -> dict[str, Any]:
    return {**FAMILY_CONFIGS[family], **overrides(family, heads)}


def reference(config: dict[str, Any], tokens: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Every site, as (pos, ...) float32 arrays by name, and "logits", from transformers in float32 on the CPU."""
    import torch

    model = transformers_model(config, seed)
    seen: dict[str, Any] = {}
    names = NAMES.get(config["model_type"], Names())
    if not config.get("use_parallel_residual", True):
        names = replace(names, before_mlp="post_attention_layernorm")
    layers = getattr(getattr(model, names.decoder), names.layers)
    mixers = {index: getattr(layer, names.mixer or "", None) for index, layer in enumerate(layers)}
    mixers = {index: mixer for index, mixer in mixers.items() if mixer is not None}
    with torch.no_grad(), recording(model, names, seen), recording_delta_nets(model, mixers, seen):
        seen["logits"] = model(torch.tensor([tokens])).logits
    for layer in range(model.config.num_hidden_layers if names.before_mlp else 0):
        pre, mid, post = (seen[f"{name}.{layer}"] for name in ("resid_pre", "resid_mid", "resid_post"))
        out = "mixer_out" if layer in mixers else "attn_out"
        seen[f"{out}.{layer}"] = mid - pre  # what is added to the stream
        if not names.scaled:
            seen[f"mlp_out.{layer}"] = post - mid
    arrays = {name: value[0].float().numpy() for name, value in seen.items()}
    for name, value in arrays.items():
        if name.startswith("z."):
            arrays[name] = value.reshape(len(tokens), model.config.num_attention_heads, -1)
    return {site: array for name, value in arrays.items() for site, array in opened(name, value, model, names)}


def opened(name: str, value: np.ndarray, model: Any, names: Names) -> Iterable[tuple[str, np.ndarray]]:
    """Queries and keys head by head, parts of matrices that hold several: (site, array)."""
    kind, _, layer = name.partition(".")
    n_heads = model.config.num_attention_heads
    if kind == "gate_up":
        gate, up = np.split(value, 2, axis=-1)
        return [(f"mlp_gate.{layer}", gate), (f"mlp_up.{layer}", up)]
    if kind == "q_pre" and names.gated:
        q, gate = np.split(value.reshape(len(value), n_heads, -1), 2, axis=-1)
        return [(name, q), (f"attn_gate.{layer}", gate)]
    if kind in ("q_pre", "k_pre") and value.ndim == 2:
        heads = n_heads if kind == "q_pre" else (getattr(model.config, "num_key_value_heads", None) or n_heads)
        return [(name, value.reshape(len(value), heads, -1))]
    if kind != "qkv":
        return [(name, value)]
    n_kv = getattr(model.config, "num_key_value_heads", None) or n_heads
    if names.by_head:
        q, k, _ = np.split(value.reshape(len(value), n_heads, -1), 3, axis=-1)
    else:
        heads = value.reshape(len(value), n_heads + 2 * n_kv, -1)
        q, k = heads[:, :n_heads], heads[:, n_heads : n_heads + n_kv]
    return [(f"q_pre.{layer}", q), (f"k_pre.{layer}", k)]


def transformers_model(config: dict[str, Any], seed: int) -> Any:
    """The transformers model of a config with the weights of `random_mlx_model(config, seed)`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    ours = random_mlx_model(config, seed)
    weights = {name: torch.from_numpy(np.array(value)) for name, value in tree_flatten(ours.parameters())}
    if "text_config" in config:  # its language model alone
        config = config["text_config"]
        weights = {name.removeprefix("language_model."): value for name, value in weights.items()}
    family = config["model_type"]
    settings = {key: value for key, value in config.items() if key != "model_type"}
    if family == "gemma2":
        settings["sliding_window"] = 64
    if family in ("phi3", "smollm3"):
        settings["pad_token_id"] = 0  # its default lies outside this vocabulary
    if family not in ("gpt2", "gptj") and "rope_parameters" not in settings:
        settings["rope_parameters"] = rope_parameters(family, settings)
    theirs = AutoConfig.for_model(family, **settings)
    if hasattr(theirs, "num_experts_per_tok"):
        theirs._experts_implementation = "eager"  # grouped products want widths that a power of two divides
    model = AutoModelForCausalLM.from_config(theirs, attn_implementation="eager", dtype=torch.float32).eval()
    if family == "gemma":  # mlx-lm computes the exact GELU: Family.unread says so
        for layer in model.model.layers:
            layer.mlp.act_fn = torch.nn.GELU()
    if family == "gemma3_text":  # mlx-lm rounds the embedding's scale: Family.unread says so
        scale = model.model.embed_tokens.embed_scale
        scale.copy_(scale.to(torch.bfloat16))
    if family == "gpt_neox":
        weights = {name.replace("model.", "gpt_neox.", 1): value for name, value in weights.items()}
        weights = {name.replace(".h.", ".layers."): value for name, value in weights.items()}
        weights["lm_head.weight"] = weights.pop("gpt_neox.embed_out.weight")
    if any(".gate_proj.weight" in name and value.ndim == 3 for name, value in weights.items()):
        weights = of_experts(family, weights)
    if family == "granitemoehybrid":
        weights = with_fused_mlps(weights)
    if family in ("qwen3_5_text", "lfm2", "granitemoehybrid"):
        weights = as_stored(weights, SHIFTED if family == "qwen3_5_text" else ())
    if family == "gptj":
        weights = {name.replace("model.", "transformer.", 1): value for name, value in weights.items()}
    if family == "gpt2":
        weights = {name.replace("model.", "transformer.", 1): value for name, value in weights.items()}
        for name in [name for name in weights if ".c_" in name and name.endswith("weight")]:
            weights[name] = weights[name].T.contiguous()  # its layers are kept transposed
        weights["lm_head.weight"] = weights["transformer.wte.weight"]
    elif theirs.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, strict=True)
    return model


def of_experts(family: str, weights: dict[str, Any]) -> dict[str, Any]:
    """Matrices of all experts as transformers keeps them: gate and up in one, for gpt-oss row by row and transposed."""
    import torch

    found = {}
    for name, value in weights.items():
        path, _, part = name.replace("block_sparse_moe", "mlp").replace("switch_mlp", "experts").rpartition(".")
        base, _, matrix = path.rpartition(".")
        tail = "_bias" if part == "bias" else ""
        if not base.endswith(".experts"):
            found[name.replace("block_sparse_moe", "mlp")] = value
        elif matrix == "down_proj":
            found[f"{base}.down_proj{tail}"] = value.mT if family == "gpt_oss" and not tail else value
        elif matrix == "gate_proj":
            up = weights[name.replace("gate_proj", "up_proj")]
            if family == "gpt_oss":
                both = torch.stack([value, up], dim=2).flatten(1, 2)
                found[f"{base}.gate_up_proj{tail}"] = both if tail else both.mT
            else:
                found[f"{base}.gate_up_proj{tail}"] = torch.cat([value, up], dim=1)
    return {name: value.contiguous() for name, value in found.items()}


def rope_parameters(family: str, settings: dict[str, Any]) -> dict[str, Any]:
    """RoPE settings as transformers keeps them, taken out of those that mlx-lm reads."""
    scaling = settings.pop("rope_scaling", None) or {"rope_type": "default"}
    if "rotary_pct" in settings:  # GPT-NeoX's own names
        settings |= {"rope_theta": settings.pop("rotary_emb_base"), "partial_rotary_factor": settings.pop("rotary_pct")}
    rope = {**scaling, "rope_theta": settings.pop("rope_theta")}
    if "partial_rotary_factor" in settings:
        rope["partial_rotary_factor"] = settings["partial_rotary_factor"]
    if family == "olmo3":
        return {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": rope["rope_theta"]}}
    if "rope_local_base_freq" not in settings:
        return rope
    local = {"rope_type": "default", "rope_theta": settings.pop("rope_local_base_freq")}
    return {"full_attention": rope, "sliding_attention": local}


def scores_of(
    query: Any, key: Any, mask: Any, scaling: float | None = None, softcap: float | None = None, **_: Any
) -> Any:
    """What transformers' eager attention gives its softmax, without the mask, 0 where the mask forbids to look."""
    import torch

    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return torch.where(mask > -1, scores, 0.0)


def record_experts(mlp: Any, router: str, layer: int, seen: dict[str, Any]) -> list[Any]:
    """The router's logits, weights by expert, and what each chosen expert gives, by its number."""
    import torch

    def hook(_: Any, args: Any, output: Any) -> None:
        logits, weights, numbers = output
        seen[f"router.{layer}"] = logits[None]
        seen[f"expert_weights.{layer}"] = torch.zeros_like(logits).scatter(1, numbers, weights.to(logits.dtype))[None]
        in_order = numbers.sort(dim=-1).values
        one = torch.ones_like(weights[:, :1])
        x = args[0].reshape(len(numbers), -1)
        given = [mlp.experts(x, in_order[:, slot : slot + 1], one) for slot in range(numbers.shape[1])]
        seen[f"expert_out.{layer}"] = torch.stack(given, dim=1)[None]

    handles = [mlp.get_submodule(router).register_forward_hook(hook)]
    if hasattr(mlp, "shared_experts"):
        output = lambda _, __, out: seen.update({f"shared_out.{layer}": out})  # noqa: E731
        handles.append(mlp.shared_experts.register_forward_hook(output))
    return handles


def record_attention(attention: Any, layer: int, seen: dict[str, Any]) -> None:
    """Attention of a module whose `_attn` has (query, key, value, mask), head before position (GPT-J)."""
    own = attention._attn

    def recorded(query: Any, key: Any, value: Any, mask: Any) -> Any:
        output, weights = own(query, key, value, mask)
        for name, heads in (("q", query), ("k", key), ("v", value)):
            seen[f"{name}.{layer}"] = heads.transpose(1, 2)
        seen[f"pattern.{layer}"] = weights
        seen[f"scores.{layer}"] = scores_of(query, key, mask)
        return output, weights

    attention._attn = recorded


@contextmanager
def recording(model: Any, names: Names, seen: dict[str, Any]) -> Any:
    """Records each site by forward hooks; q, k and the pattern where eager attention receives and returns them."""
    handles = []

    def record_output(module: Any, name: str) -> None:
        def hook(_: Any, __: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        handles.append(module.register_forward_hook(hook))

    def record_input(module: Any, name: str) -> None:
        handles.append(module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]})))

    decoder = getattr(model, names.decoder)
    for index, layer in enumerate(getattr(decoder, names.layers)):
        record_input(
            layer if names.before_attn is None else layer.get_submodule(names.before_attn), f"resid_pre.{index}"
        )
        if names.before_mlp is None:
            record_output(layer.get_submodule(names.attention), f"attn_out.{index}")
            record_output(layer.get_submodule(names.mlp), f"mlp_out.{index}")
        else:
            record_input(layer.get_submodule(names.before_mlp), f"resid_mid.{index}")
        record_output(layer, f"resid_post.{index}")
        attends = names.mixer is None or getattr(layer, names.mixer, None) is None
        if attends and not names.gated:
            record_input(layer.get_submodule(names.out), f"z.{index}")
        if names.before_attn is None:
            record_input(layer, f"attn_in.{index}")
        else:
            record_output(layer.get_submodule(names.before_attn), f"attn_in.{index}")
        record_input(layer.get_submodule(names.mlp), f"mlp_in.{index}")
        matrices = {"q_pre": f"{names.attention}.q_proj", "k_pre": f"{names.attention}.k_proj"}
        if names.scaled:
            handles += record_own_inputs(layer, index, seen)
        if attends and getattr(layer.get_submodule(names.attention), "is_kv_shared_layer", False):
            del matrices["k_pre"]
        if names.qkv is not None:
            matrices = {"qkv": names.qkv}
        if not attends:
            matrices = {}
        if names.latent:
            handles += record_latent(layer.get_submodule(names.attention), index, seen)
            of_queries = "q_b_proj" if model.config.q_lora_rank is not None else "q_proj"
            matrices = {"q_pre": f"{names.attention}.{of_queries}"}
        routed = names.router is not None and hasattr(layer.get_submodule(names.mlp), names.router)
        if routed and names.router is not None:
            handles += record_experts(layer.get_submodule(names.mlp), names.router, index, seen)
        elif names.gate == names.up:
            matrices |= {"gate_up": names.up}
        else:
            matrices |= {"mlp_up": names.up} | ({"mlp_gate": names.gate} if names.gate is not None else {})
        if not routed:
            record_input(layer.get_submodule(names.down), f"mlp_act.{index}")
        for site, matrix in matrices.items():
            record_output(layer.get_submodule(matrix), f"{site}.{index}")
    record_output(getattr(decoder, names.norm), "final")
    module = importlib.import_module(type(model).__module__)
    if not hasattr(module, "eager_attention_forward"):  # an older form: attention's own method
        for index, layer in enumerate(getattr(decoder, names.layers)):
            record_attention(layer.get_submodule(names.attention), index, seen)
        yield
        for handle in handles:
            handle.remove()
        return
    eager = module.eager_attention_forward

    def recorded(attention: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        output, weights = eager(attention, query, key, value, *args, **kwargs)
        borrows = getattr(attention, "is_kv_shared_layer", False)
        for name, heads in (("q", query),) if borrows else (("q", query), ("k", key), ("v", value)):
            seen[f"{name}.{attention.layer_idx}"] = heads.transpose(1, 2)
        seen[f"pattern.{attention.layer_idx}"] = weights
        if names.gated:
            seen[f"z.{attention.layer_idx}"] = output
        seen[f"scores.{attention.layer_idx}"] = scores_of(query, key, args[0], **kwargs)
        return output, weights

    module.eager_attention_forward = recorded
    try:
        yield
    finally:
        module.eager_attention_forward = eager
        for handle in handles:
            handle.remove()


def golden_path(family: str, heads: str) -> Path:
    return GOLDEN / f"{family}-{heads.replace(',', '').replace(' ', '_')}.npz"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for case in cases(FAMILY_CONFIGS):
        np.savez_compressed(golden_path(*case), **reference(case_config(*case), TOKENS))
        print(golden_path(*case))
