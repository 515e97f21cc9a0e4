"""Meaning of a config, by one authority: transformers' own configuration class of its model type.

1. What that class knows (its fields, the older names it still reads, and what its model reads by name) has a meaning.
   Missing fields have the class's defaults; RoPE is brought into the one form that transformers 5 computes with.
2. What it does not know is bookkeeping: it changes nothing there, and nothing here.
3. Of what it knows, some cannot enter a causal language model's forward pass: `NO_MEANING`.

transformers is imported when the first config is read, since importing it takes seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields as fields_of
from functools import cache
from typing import Any

from mlx_interp.errors import CheckpointError

Config = Mapping[str, Any]

NO_MEANING = frozenset(
    """_name_or_path architectures attention_dropout attn_pdrop auto_map bos_token_id chunk_size_feed_forward
    classifier_dropout decoder_start_token_id dtype embd_pdrop eos_token_id finetuning_task hidden_dropout id2label
    initializer_range is_decoder
    is_encoder_decoder label2id max_position_embeddings mlx_interp model_file model_type n_ctx num_labels
    output_attentions output_hidden_states pad_token_id prefix pretraining_tp problem_type pruned_heads quantization
    quantization_config reorder_and_upcast_attn resid_pdrop return_dict sep_token_id summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj task_specific_params
    tie_last_hidden_states tokenizer_class torch_dtype torchscript transformers_version use_bfloat16 use_cache
    use_return_dict""".split()
)
"""Keys that transformers or mlx-lm know, and no forward pass of a causal language model reads: names, token ids,
dropout, initialisation, heads for other tasks, how weights are stored. `pretraining_tp` splits a product of matrices,
`reorder_and_upcast_attn` rounds otherwise; lengths enter through RoPE alone, which reads them itself."""

READ_WHILE_LOADING = frozenset({"max_position_embeddings"})
"""Of no meaning by itself, and needed to work out another field."""

READ_BY_NAME = frozenset({"is_causal", "per_layer_config"})
"""What models of transformers read from a config whether or not its class has such a field."""
ROPE_NAMES = frozenset(
    "rope_theta rope_scaling rope_parameters partial_rotary_factor original_max_position_embeddings".split()
)
"""The same, where there is RoPE; `head_dim` too."""
OLDER_NAMES: dict[str, frozenset[str]] = {
    "gemma3_text": frozenset({"rope_local_base_freq", "sliding_window_pattern", "_sliding_window_pattern"}),
    "gemma": frozenset({"hidden_activation"}),
    "cohere2": frozenset({"sliding_window_pattern"}),
    "qwen3_5_text": frozenset({"full_attention_interval"}),
    "lfm2": frozenset({"block_dim", "block_ff_dim", "tie_embedding"}),
    "gemma4_text": frozenset({"global_head_dim", "num_global_key_value_heads"}),
    "gpt_neox": frozenset({"rotary_emb_base", "rotary_pct"}),
}
"""By model type: names that are no field of the class any more, and that published configs mean something by."""

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
OLD_LONGROPE = ("su", "yarn")
"""What Phi-3 called LongRoPE at first; transformers 5 means to read it, and refuses it for a missing length."""


OF_ALL_ROPES = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
ROPE_SETTINGS: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "llama3": frozenset({"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}),
    "yarn": frozenset(
        """factor original_max_position_embeddings attention_factor beta_fast beta_slow mscale mscale_all_dim
        truncate""".split()
    ),
    "proportional": frozenset({"factor"}),
    "longrope": frozenset("factor original_max_position_embeddings attention_factor short_factor long_factor".split()),
}
"""What each type reads, as transformers' validators list it; what else stands beside it is bookkeeping."""
OF_MODELS: dict[str, frozenset[str]] = {
    "ministral3": frozenset({"llama_4_scaling_beta", "original_max_position_embeddings"}),
}
"""What a model type's own code reads there beside its RoPE."""


def config_class(model_type: str) -> Any | None:
    """transformers' configuration class of a model type; None if it has none."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[model_type]
    except KeyError:
        return None


@cache
def known_keys(model_type: str) -> frozenset[str] | None:
    """Keys that mean something for a model type; None where transformers has no class for it."""
    found = config_class(model_type)
    if found is None:
        return None
    from transformers import PreTrainedConfig

    own = {field.name for field in fields_of(found)} - {field.name for field in fields_of(PreTrainedConfig)}
    rope = ROPE_NAMES | {"head_dim"} if "rope_parameters" in own else frozenset()
    names = set(found.attribute_map) | set(found.attribute_map.values())
    return READ_BY_NAME | own | names | rope | OLDER_NAMES.get(model_type, frozenset())


def standard(model_type: str, config: Config) -> dict[str, Any] | None:
    """Every field of a config that means something, as transformers' class works it out: defaults filled in.

    RoPE is under `rope_parameters`, older forms included. None where transformers has no class.
    Raises CheckpointError with what that class says of a value it does not take.
    """
    known = known_keys(model_type)
    if known is None:
        return None
    meant = (known - NO_MEANING - READ_BY_NAME) | READ_WHILE_LOADING
    given = {key: copy.deepcopy(value) for key, value in config.items() if key in meant}
    for rope in (given.get("rope_scaling"), given.get("rope_parameters")):
        if model_type == "phi3" and isinstance(rope, dict) and rope.get("rope_type", rope.get("type")) in OLD_LONGROPE:
            rope |= {"type": "longrope", "rope_type": "longrope"}
    sizes = [key for key in SIZES if key in known and key not in given]
    made = _made(config_class(model_type), given, f" (without {', '.join(sizes)}, its defaults)" if sizes else "")
    made.allow_global_per_layer_attribute_access = True  # what layers have of their own is `per_layer_config`
    with _quiet():
        return {key: getattr(made, key) for key in sorted(meant) if hasattr(made, key)}


def _made(found: Any, given: dict[str, Any], lacking: str) -> Any:
    try:
        with _quiet():
            made = found(**given)
            if hasattr(made, "rope_parameters"):
                made.standardize_rope_params()  # once more, as its RoPE does: now with all attributes there
        return made
    except Exception as error:  # validators raise what they like
        text = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"config.json: its values do not fit: transformers' {found.__name__} does not take it{lacking}: {text}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its warnings: what it would warn of is computed or refused here."""
    from transformers.utils import logging

    loudness = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(loudness)


def foreign_code(model_type: str, auto_map: Any) -> str | None:
    """The first class of `auto_map` that is no class of transformers' own for a model type; None if all are.

    Checkpoints that came before their architecture was in transformers name copies of the classes it has by now.
    """
    found = config_class(model_type)
    if found is None or not isinstance(auto_map, dict):
        return None
    stem = found.__name__.removesuffix("Config")
    stems = {stem, stem.removesuffix("Text")}
    for key, value in auto_map.items():
        name = str(value).rsplit(".", 1)[-1]
        if key == "AutoConfig" and name != f"{stem}Config":
            return str(value)
        if key.startswith("AutoModel") and name not in {f"{one}{tail}" for one in stems for tail in NATIVE_TAILS}:
            return str(value)
    return None


NATIVE_TAILS = (
    *("Model", "ForCausalLM", "LMHeadModel", "ForConditionalGeneration"),
    *("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
)


def unread_settings(config: Config) -> list[str]:
    """Keys inside a config's RoPE that its type does not read: bookkeeping too, e.g. "rope_parameters.finetuned"."""
    given = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(given, dict):
        return []
    nested = {key: value for key, value in given.items() if isinstance(value, dict)}
    read = OF_ALL_ROPES | OF_MODELS.get(str(config.get("model_type")), frozenset())
    return sorted(
        f"rope_parameters.{key}{'.' if key else ''}{name}"
        for key, rope in (nested or {"": given}).items()
        for name in rope.keys() - read - ROPE_SETTINGS.get(rope_type(rope), frozenset())
    )


def rope_type(settings: Config) -> str:
    """The type of a RoPE: "default" where it says none."""
    return str(settings.get("rope_type") or settings.get("type") or "default")
