"""config.json of a GGUF file: what its metadata says, and what llama.cpp's code knows of the architecture.

1. Each metadata key of the architecture becomes the field that transformers publishes, under the name it has there.
2. What stands in tensors is added: the number of tokens, a tied head, biases, factors of RoPE.
3. What no file says (Gemma's windows and scales) follows by the rules of llama.cpp, which wrote the file.
A key that is none of these must be bookkeeping, or have the value that changes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlx_interp.errors import CheckpointError, UnsupportedModel, nearest
from mlx_interp.loading.gguf.described import DESCRIBED, REQUIRED, Described
from mlx_interp.loading.gguf.reader import GGUFFile
from mlx_interp.loading.gguf.rope import rope_fields

BOOKKEEPING = frozenset({"tensor_data_layout", "vocab_size", "rope.scaling.finetuned"})
"""Keys of an architecture that do not enter a forward pass, or are compared with what does."""
HARMLESS: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
    "attention.max_alibi_bias": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "logit_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "pooling_type": (0,),
}
"""Keys that nothing reads, at the values under which nothing needs to."""


def described(file: GGUFFile) -> Described:
    """How the architecture of a file is written. Raises UnsupportedModel for one that is not described."""
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise UnsupportedModel(f"{file.path}: general.type is {kind!r}: a language model is needed, not a part of one")
    name = file.architecture
    if name not in DESCRIBED:
        raise UnsupportedModel(
            f"{file.path}: GGUF architecture {name!r} is not described: {nearest(name, DESCRIBED)}"
            f"described are {', '.join(DESCRIBED)}"
        )
    return DESCRIBED[name]


def config_of(file: GGUFFile) -> dict[str, Any]:
    """What config.json would say. Raises CheckpointError for metadata that lack or contradict something, and
    UnsupportedModel for a key that is not understood."""
    how, own = described(file), own_metadata(file)
    lacking = [key for key in REQUIRED if key not in own]
    if lacking:
        raise CheckpointError(f"{file.path}: metadata lack {file.architecture}.{lacking[0]}")
    fields = {name: own[key] for key, name in how.fields.items() if key in own}
    sizes = sizes_of(file, own)
    config: dict[str, Any] = {
        "model_type": how.model_type,
        "architectures": [how.class_name],
        **fields,
        **how.constants,
        "vocab_size": sizes["V"],
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    if "head_dim" in how.fields.values():
        config.update(head_dim=sizes["H"], num_key_value_heads=sizes["K"] // sizes["H"])
        config.update(rope_fields(file, own, head_dim=sizes["H"], partial=how.partial_rope))
    if "blk.0.attn_q.bias" in file.tensors and how.model_type in ("llama", "qwen3"):
        config["attention_bias"] = True
    refuse_unread(file, own, how)
    config.update({key: own[key] for key in how.extra if key in own})
    config.update(how.implied(config))
    return rename_extra(config)


def rename_extra(config: dict[str, Any]) -> dict[str, Any]:
    """Gemma 3's newer keys, under the names of transformers."""
    for key, name in (
        ("rope.freq_base_swa", "rope_local_base_freq"),
        ("attention.sliding_window_pattern", "sliding_window_pattern"),
    ):
        if key in config:
            config[name] = config.pop(key)
    return config


def own_metadata(file: GGUFFile) -> dict[str, Any]:
    """Metadata of the architecture, without its name in front; float32 numbers as they were written, 1e-06."""
    prefix = f"{file.architecture}."
    own = {key.removeprefix(prefix): value for key, value in file.metadata.items() if key.startswith(prefix)}
    for key, value in own.items():
        if isinstance(value, float):
            own[key] = float(str(np.float32(value)))
        if (
            isinstance(value, list)
            and value
            and key in ("feed_forward_length", "attention.head_count", "attention.head_count_kv")
        ):
            if len(set(value)) > 1:
                raise UnsupportedModel(f"{file.path}: {prefix}{key} differs from layer to layer: {value[:8]}")
            own[key] = value[0]
    return own


def sizes_of(file: GGUFFile, own: dict[str, Any]) -> dict[str, int]:
    """The sizes that tensor shapes are made of. Raises CheckpointError where two statements differ."""
    if "token_embd.weight" not in file.tensors:
        raise CheckpointError(f"{file.path}: tensor token_embd.weight is missing: {len(file.tensors)} others are there")
    rows, width = file.tensors["token_embd.weight"].shape
    arch, heads = file.architecture, int(own["attention.head_count"])
    head_dim = int(own.get("attention.key_length", own["embedding_length"] // max(heads, 1)))
    stated = [
        ("token_embd.weight's columns", width, f"{arch}.embedding_length", own["embedding_length"]),
        ("token_embd.weight's rows", rows, f"{arch}.vocab_size", own.get("vocab_size", rows)),
        (
            f"{arch}.attention.value_length",
            own.get("attention.value_length", head_dim),
            f"{arch}.attention.key_length",
            head_dim,
        ),
    ]
    for what, value, other, its_value in stated:
        if value != its_value:
            raise CheckpointError(f"{file.path}: {what} is {value}, {other} is {its_value}: one of them is wrong")
    n_kv = int(own.get("attention.head_count_kv", heads))
    if heads < 1 or n_kv < 1 or heads % n_kv:
        raise CheckpointError(
            f"{file.path}: {arch}.attention.head_count is {heads}, {arch}.attention.head_count_kv is {n_kv}: "
            "the first must be a multiple of the second"
        )
    return {
        "D": width,
        "V": rows,
        "H": head_dim,
        "Q": heads * head_dim,
        "K": n_kv * head_dim,
        "F": int(own["feed_forward_length"]),
        "P": int(own["context_length"]),
    }


def refuse_unread(file: GGUFFile, own: dict[str, Any], how: Described) -> None:
    """Raises UnsupportedModel for a key of the architecture that nobody reads."""
    read = {*how.fields, *how.extra, *BOOKKEEPING, "attention.value_length", "rope.dimension_count"}
    for key, value in own.items():
        if key in read or key.startswith("rope.scaling.") or value in HARMLESS.get(key, ()):
            continue
        raise UnsupportedModel(
            f"{file.path}: metadata key {file.architecture}.{key} = {value!r} is not understood: "
            "running the model without it could give wrong numbers"
        )
