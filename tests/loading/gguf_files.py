"""Small random models written as GGUF files the way llama.cpp's converter writes them, with the gguf package's writer.

Names of tensors are those of the gguf package's own map, so that the tables of the loader are not their own witness.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.tiny import FAMILY_CONFIGS, random_mlx_model

N_TOKENS = 320
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "gpt2": "gpt2",
}
"""Family -> name in general.architecture."""
# Gemma's scale of queries is the head's; a GGUF file has no key for another one.
CONFIGS = {
    family: {**FAMILY_CONFIGS[family], "vocab_size": N_TOKENS}
    | ({"query_pre_attn_scalar": 8} if family.startswith("gemma") else {})
    | ({"mlp_bias": False} if family == "llama" else {})
    for family in ARCHITECTURES
}
KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "sliding_window": "attention.sliding_window",
    "sliding_window_pattern": "attention.sliding_window_pattern",
    "rope_local_base_freq": "rope.freq_base_swa",
    "n_layer": "block_count",
    "n_embd": "embedding_length",
    "n_head": "attention.head_count",
    "n_positions": "context_length",
    "layer_norm_epsilon": "attention.layer_norm_epsilon",
}
FLOATS = ("epsilon", "freq_base", "softcapping", "freq_base_swa", "factor")


def metadata_of(config: dict[str, Any]) -> dict[str, Any]:
    """Metadata of an architecture, behind its name."""
    found = {key: config[name] for name, key in KEYS.items() if name in config}
    if config["model_type"] == "gpt2":
        return {**found, "feed_forward_length": 4 * config["n_embd"]}
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    found |= {"attention.key_length": head, "attention.value_length": head}
    return {**found, "rope.dimension_count": int(head * config.get("partial_rotary_factor", 1))}


def byte_tokens() -> list[str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return list(bytes_to_unicode().values())


def byte_level(pre: str = "qwen2") -> dict[str, Any]:
    """Metadata of a byte-level BPE: bytes, a few merges, control tokens at the end."""
    merges = ["t h", "th e", "Ġ the", "1 2", "12 3", "Ġ a"]
    tokens = [*byte_tokens(), *(merge.replace(" ", "") for merge in merges)]
    control = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    tokens += [f"[PAD{n}]" for n in range(N_TOKENS - len(tokens) - len(control))] + control
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "merges": merges,
        "token_type": [5 if token.startswith("[PAD") else 3 if token in control else 1 for token in tokens],
        "eos_token_id": N_TOKENS - 2,
        "bos_token_id": N_TOKENS - 1,
        "padding_token_id": N_TOKENS - 1,
    }


def sentencepiece(**changed: Any) -> dict[str, Any]:
    """Metadata of a SentencePiece vocabulary: three control tokens, bytes, pieces with scores."""
    pieces = [*"▁ t h e a s n 1 2 3 i o".split(), "▁t", "he", "▁the", "the", "an", "▁a", "12", "in"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *pieces]
    tokens += [f"<unused{n}>" for n in range(N_TOKENS - len(tokens))]
    scores = [0.0] * 259 + [-float(n) for n in range(N_TOKENS - 259)]
    types = [2, 3, 3, *[6] * 256, *[1] * len(pieces)]
    types += [3] * (N_TOKENS - len(types))
    return {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": scores,
        "token_type": types,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **changed,
    }


def as_written(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Weights of `random_mlx_model(config, seed)` under llama.cpp's names and in its layout."""
    family, arch = config["model_type"], ARCHITECTURES[config["model_type"]]
    n_layers = int(config.get("num_hidden_layers") or config["n_layer"])
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(number, n_layers)
    found = {}
    for name, array in tree_flatten(random_mlx_model(config, seed).parameters()):
        weights = np.array(array)
        base, _, part = name.rpartition(".")
        if arch == "llama" and base.endswith(("q_proj", "k_proj")):
            heads = config["num_attention_heads" if base.endswith("q_proj") else "num_key_value_heads"]
            halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
            weights = halves.swapaxes(1, 2).reshape(weights.shape)
        if family.startswith("gemma") and base.endswith("norm"):
            weights = weights + np.float32(1)
        written = names.get_name(base.removeprefix("model.") if family == "gpt2" else base)
        assert written, f"the gguf package has no name for {base}"
        found[f"{written}.{part}"] = weights
    if config.get("tie_word_embeddings"):
        found.pop("output.weight", None)
    return found


def write_gguf(
    path: Path,
    family: str = "llama",
    *,
    config: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
    kinds: dict[str, gguf.GGMLQuantizationType] | None = None,
    seed: int = 0,
    **general: Any,
) -> Path:
    """A whole GGUF file. metadata, tensors: changes; None takes an entry out. kinds: ending of a name -> its type."""
    config = config or CONFIGS[family]
    arch = ARCHITECTURES[family]
    writer = gguf.GGUFWriter(path, arch, **general)
    own = {**metadata_of(config), **(metadata or {})}
    for key, value in own.items():
        add(writer, f"{arch}.{key}", value)
    for key, value in (tokenizer or default_tokenizer(family)).items():
        add(writer, f"tokenizer.{'' if key == 'chat_template' else 'ggml.'}{key}", value)
    for name, weights in {**as_written(config, seed), **(tensors or {})}.items():
        if weights is None:
            continue
        kind = next((kind for end, kind in (kinds or {}).items() if name.endswith(end)), None)
        if kind is None or weights.ndim == 1:
            writer.add_tensor(name, weights)
        else:
            writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def default_tokenizer(family: str) -> dict[str, Any]:
    if family in ("llama", "mistral", "phi3"):
        return sentencepiece()
    if family.startswith("gemma"):
        return sentencepiece(add_space_prefix=False)
    return byte_level("gpt-2" if family == "gpt2" else "qwen2")


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, float) or key.endswith(FLOATS):
        writer.add_float32(key, float(value))
    else:
        writer.add_uint32(key, value)


def tokenizer_of_transformers(path: Path) -> Any:
    """transformers' reading of a GGUF file, which imports torch."""
    pytest.importorskip("torch", reason="transformers reads GGUF files with torch: pip install 'mlx-interp[parity]'")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
