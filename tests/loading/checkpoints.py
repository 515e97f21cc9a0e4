"""Throw-away checkpoints of random weights, in the Hub's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

SIZES = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "vocab_size": 64,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
    # Where mlx-lm has other defaults than transformers: a config that does not say means transformers'.
    "rope_theta": 10000.0,
    "query_pre_attn_scalar": 256,
}
# Widths that groups of 32 divide, where weights are quantised.
PACKABLE = {"hidden_size": 192, "intermediate_size": 256, "head_dim": 32}


def write_tokenizer(folder: Path, vocab_size: int = 64) -> None:
    vocabulary = {"<unk>": 0, "<eos>": 1, **{f"w{n}": n for n in range(2, vocab_size)}}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_checkpoint(
    folder: Path,
    *,
    model_type: str = "llama",
    bits: int | None = None,
    group_size: int = 32,
    seed: int = 0,
    **fields: Any,
) -> Path:
    """A folder with a random model of mlx-lm's own class; weights are quantised when `bits` is given."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": model_type, **SIZES, **(PACKABLE if bits else {}), **fields}
    if model_type == "qwen2":
        config.pop("head_dim")
    model_class, arguments = _get_classes(config)
    mx.random.seed(seed)
    model = model_class(arguments.from_dict(config))
    if bits:
        nn.quantize(model, group_size=group_size, bits=bits)
        config["quantization"] = {"group_size": group_size, "bits": bits}
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    write_tokenizer(folder, config["vocab_size"])
    return folder
