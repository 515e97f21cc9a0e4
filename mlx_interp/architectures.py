"""Architectures: one `Family` per model type of mlx-lm, as data. Adding a family means adding an entry here, or
registering one from outside: docs/adding_a_family.md.

mlx-lm's modules already carry weights, scales, RoPE and norms; a family says where they are and which of the few
known forms of attention, MLP and logits they have. A config key that means something (`authority.py`: transformers'
class of that model type knows it) and that a family does not understand stops the load, unless its value is the one
that changes nothing: a silent default would be a wrong number. Keys that mean nothing there are listed, never refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

import mlx.core as mx
from mlx_lm.utils import MODEL_REMAPPING

from mlx_interp.authority import NO_MEANING, foreign_code, known_keys, unread_settings
from mlx_interp.errors import UnsupportedModel, nearest

Config = Mapping[str, Any]
Activation = Callable[[Any, mx.array], mx.array]
PAGE = "docs/adding_a_family.md"
PACKAGE_FILE = "mlx_interp/architectures.py"


@dataclass(frozen=True)
class Norms:
    """Attribute names of a block's norms; None where a family has none."""

    before_attn: str = "input_layernorm"
    after_attn: str | None = None
    before_mlp: str = "post_attention_layernorm"
    after_mlp: str | None = None


@dataclass(frozen=True)
class Sizes:
    """Names of a model's sizes among the arguments of mlx-lm's class, which are the names in config.json."""

    n_layers: str = "num_hidden_layers"
    n_heads: str = "num_attention_heads"
    n_kv_heads: str = "num_key_value_heads"
    d_model: str = "hidden_size"
    d_mlp: str | None = "intermediate_size"
    """None: four times d_model."""


@dataclass(frozen=True)
class Family:
    """Where a model type keeps its parts, and how they are combined."""

    model_type: str
    understands: frozenset[str]
    """Config keys that mlx-lm's class of this type takes into account."""
    root: str = ""
    """Attribute that holds the language model where mlx-lm wraps it (models of several modalities); "" if it is it."""
    text_config: str | None = None
    """Key of the language model's own config where that is nested in the checkpoint's."""
    sizes: Sizes = Sizes()
    decoder: str = "model"
    embed: str = "embed_tokens"
    positions: str | None = None
    """Embedding of learned positions, added to the tokens'; None where positions enter by RoPE alone."""
    rope: bool = True
    layers: str = "layers"
    norm: str = "norm"
    head: str = "lm_head"
    """The unembedding; a model that has no such attribute, or ties it, uses the embedding."""
    tied: Callable[[Config], bool] = lambda config: bool(config.get("tie_word_embeddings", True))
    norms: Norms = Norms()
    attention: str = "self_attn"
    mlp: str = "mlp"
    qkv: Literal["separate", "fused"] = "separate"
    qkv_name: str = "qkv_proj"
    qk_norm: bool = False
    """Queries and keys are normed, each head by itself, before RoPE."""
    out: str = "o_proj"
    down: str = "down_proj"
    activation: Literal["swiglu", "geglu_tanh", "geglu", "fused_swiglu", "gelu_tanh"] | Activation = "swiglu"
    """A known form, or a function (mlx-lm's MLP, its input) -> what enters its down projection."""
    embed_scale: Callable[[Any], float] | None = None
    """What token embeddings are multiplied by, from the arguments of mlx-lm's model."""
    window: Callable[[Any, int], int | None] = lambda decoder, layer: None
    """(mlx-lm's decoder, layer) -> how many positions back it attends, its own included; None for all."""
    residual_sum: Literal["plain", "clipped"] = "plain"
    """"clipped": sums of the stream stay within float16 when it is float16."""
    softcap_scores: str | None = None
    """Config key of the soft-cap on attention scores."""
    softcap_logits: str | None = None
    """Config key of the soft-cap on logits."""
    residual_scale: str | None = None
    """Config key of a factor on what attention and MLP add to the residual stream."""
    logits_divisor: str | None = None
    """Config key of what logits are divided by."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Config keys that mlx-lm's class leaves out although they mean something: what it does instead."""
    refuses: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    """Config keys with values under which mlx-lm would compute something else than the checkpoint means."""
    needs: frozenset[str] = frozenset()
    """Config keys for which null means something else than being absent, and that mlx-lm's class needs a number for."""
    fixed: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    """Config keys that mlx-lm's class does not read, with the values that mean what it computes."""
    objection: Callable[[Config], str | None] = lambda config: None
    """What else in a config mlx-lm's class cannot compute; None if nothing."""


# A key that nothing reads is harmless at these values.
HARMLESS: dict[str, frozenset[Any]] = {
    "hidden_act": frozenset({"silu"}),
    "mlp_bias": frozenset({False}),
    "attention_bias": frozenset({False}),
    "use_sliding_window": frozenset({False}),
    "add_cross_attention": frozenset({False}),
    "tie_encoder_decoder": frozenset({False}),
    "scale_attn_by_inverse_layer_idx": frozenset({False}),
    "scale_attn_weights": frozenset({True}),
    "is_causal": frozenset({True}),
    "partial_rotary_factor": frozenset({1.0}),
}

COMMON = frozenset(
    """hidden_size num_hidden_layers intermediate_size num_attention_heads num_key_value_heads rms_norm_eps vocab_size
    rope_theta rope_traditional rope_scaling rope_parameters original_max_position_embeddings
    tie_word_embeddings""".split()
)
"""RoPE's settings are read, and put right where mlx-lm's class is not told of them, by `loading/rope.py`."""


def root_of_width(args: Any) -> float:
    return math.sqrt(args.hidden_size)


def _only(value: object) -> Callable[[Config], bool]:
    return lambda config: bool(value)


LLAMA = Family(
    model_type="llama",
    understands=COMMON | {"head_dim", "attention_bias", "mlp_bias", "layer_types", "sliding_window"},
    window=lambda decoder, layer: int(decoder.sliding_window) if decoder.layers[layer].use_sliding else None,
)

QWEN2 = Family(
    model_type="qwen2",
    # Qwen 2 lists a window and which layers would use it even when `use_sliding_window` switches it off.
    understands=COMMON | {"sliding_window", "max_window_layers", "layer_types"},
    refuses={"use_sliding_window": frozenset({True})},
)

GEMMA2 = Family(
    model_type="gemma2",
    understands=COMMON
    | {
        *("head_dim", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"),
        *("sliding_window", "sliding_window_size", "layer_types", "hidden_act", "use_bidirectional_attention"),
    },
    tied=_only(True),
    norms=Norms(
        after_attn="post_attention_layernorm",
        before_mlp="pre_feedforward_layernorm",
        after_mlp="post_feedforward_layernorm",
    ),
    activation="geglu_tanh",
    embed_scale=root_of_width,
    softcap_scores="attn_logit_softcapping",
    softcap_logits="final_logit_softcapping",
    unread={"sliding_window": "attends to the whole prompt in every layer"},
    refuses={"use_bidirectional_attention": frozenset({True}), "tie_word_embeddings": frozenset({False})},
    needs=frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
    fixed={"hidden_activation": frozenset({"gelu_pytorch_tanh"})},  # `hidden_act` is an older name that nobody reads
)

MISTRAL = replace(
    LLAMA,
    model_type="mistral",  # mlx-lm runs it as a Llama
    unread={"sliding_window": "attends to the whole prompt"},
)

QWEN3 = Family(
    model_type="qwen3",
    understands=COMMON | {"head_dim", "attention_bias", "sliding_window", "max_window_layers", "layer_types"},
    qk_norm=True,
    refuses={"use_sliding_window": frozenset({True}), "attention_bias": frozenset({True})},
)

GEMMA = Family(
    model_type="gemma",
    understands=COMMON | {"head_dim", "use_bidirectional_attention"},
    tied=_only(True),
    activation="geglu",
    embed_scale=root_of_width,
    # transformers reads "gelu" as the tanh approximation too: Gemma's first configs said it and meant that.
    fixed=dict.fromkeys(("hidden_act", "hidden_activation"), frozenset({"gelu", "gelu_pytorch_tanh"})),
    unread={"hidden_activation": "computes the exact GELU, not its tanh approximation: 2e-4 in the logits"},
    refuses={"use_bidirectional_attention": frozenset({True}), "tie_word_embeddings": frozenset({False})},
)

PHI3 = Family(
    model_type="phi3",
    understands=COMMON | {"partial_rotary_factor", "sliding_window"},
    qkv="fused",
    activation="fused_swiglu",
    tied=lambda config: bool(config.get("tie_word_embeddings", False)),
    unread={"sliding_window": "attends to the whole prompt"},
)

GRANITE = Family(
    model_type="granite",
    understands=COMMON
    | {
        *("attention_bias", "mlp_bias", "embedding_multiplier", "attention_multiplier", "residual_multiplier"),
        "logits_scaling",
    },
    embed_scale=lambda args: float(args.embedding_multiplier),
    residual_scale="residual_multiplier",
    logits_divisor="logits_scaling",
)


def _rounded_root_of_width(args: Any) -> float:
    """mlx-lm rounds Gemma 3's embedding scale to bfloat16, whatever the model computes in."""
    return float(mx.array(math.sqrt(args.hidden_size), dtype=mx.bfloat16).astype(mx.float32))


def _uneven_windows(config: Config) -> str | None:
    """mlx-lm knows one global layer in every `sliding_window_pattern`, and needs one at least."""
    n_layers, pattern = int(config.get("num_hidden_layers", 26)), int(config.get("sliding_window_pattern", 6))
    if pattern > n_layers:
        return f"has no global layer: sliding_window_pattern {pattern} with {n_layers} layers"
    kinds = ["full_attention" if layer % pattern == pattern - 1 else "sliding_attention" for layer in range(n_layers)]
    if config.get("layer_types") not in (None, kinds):
        return f"has layer_types that differ from its sliding_window_pattern of {pattern}"
    return None


GEMMA3_TEXT = Family(
    model_type="gemma3_text",
    understands=COMMON
    | {
        *("head_dim", "query_pre_attn_scalar", "sliding_window", "sliding_window_pattern", "_sliding_window_pattern"),
        *("layer_types", "rope_local_base_freq", "use_bidirectional_attention"),
    },
    tied=_only(False),  # unless the checkpoint has no head
    norms=GEMMA2.norms,
    qk_norm=True,
    activation="geglu_tanh",
    embed_scale=_rounded_root_of_width,
    window=lambda decoder, layer: int(decoder.window_size) if decoder.layers[layer].self_attn.is_sliding else None,
    residual_sum="clipped",
    unread={"embed_scale": "rounds the embedding scale to bfloat16 in every precision: up to 2e-3 of it"},
    refuses={"use_bidirectional_attention": frozenset({True})},
    fixed={"hidden_activation": frozenset({"gelu_pytorch_tanh"})},
    objection=_uneven_windows,
)

# Vision and text: mlx-lm keeps the language model alone.
GEMMA3 = replace(GEMMA3_TEXT, model_type="gemma3", root="language_model", text_config="text_config")


def _other_width(config: Config) -> str | None:
    if config.get("n_inner") in (None, 4 * config.get("n_embd", 0)):
        return None
    return f"has an MLP of {config['n_inner']}, mlx-lm's is 4 x {config.get('n_embd')} wide"


GPT2 = Family(
    model_type="gpt2",
    understands=frozenset(
        """n_embd n_head n_layer n_positions vocab_size layer_norm_epsilon tie_word_embeddings hidden_size
        num_attention_heads num_hidden_layers""".split()
    ),
    sizes=Sizes("n_layer", "n_head", "num_key_value_heads", "n_embd", None),
    embed="wte",
    positions="wpe",
    rope=False,
    layers="h",
    norm="ln_f",
    tied=_only(True),
    norms=Norms(before_attn="ln_1", before_mlp="ln_2"),
    attention="attn",
    qkv="fused",
    qkv_name="c_attn",
    out="c_proj",
    down="c_proj",
    activation="gelu_tanh",
    refuses={"tie_word_embeddings": frozenset({False})},
    fixed={"activation_function": frozenset({"gelu_new", "gelu_pytorch_tanh"})},
    objection=_other_width,
)

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (LLAMA, QWEN2, GEMMA2, MISTRAL, QWEN3, GEMMA, PHI3, GRANITE, GEMMA3_TEXT, GEMMA3, GPT2)
}
PACKAGED = frozenset(FAMILIES)
"""Model types that this file describes; all others were registered."""


def register(family: Family) -> Family:
    """Makes a family known for as long as this Python runs; one that was registered before is replaced.

    Raises UnsupportedModel for a model type that the package describes itself, or that mlx-lm has no class for.
    """
    if family.model_type in PACKAGED:
        raise UnsupportedModel(f"{family.model_type} is described already: change its entry in {PACKAGE_FILE}")
    if not _mlx_lm_has(family.model_type):
        raise UnsupportedModel(f"mlx-lm has no class for model type {family.model_type!r}: nothing could run it")
    FAMILIES[family.model_type] = family
    return family


def family_of(config: Config) -> Family:
    """The family of a checkpoint's config. Raises UnsupportedModel, naming what is missing."""
    model_type = config.get("model_type")
    if not model_type:
        raise UnsupportedModel("config.json has no 'model_type': it does not say which architecture it is of")
    if model_type not in FAMILIES:
        raise UnsupportedModel(f"model type {model_type!r} is not described: {_way_out(str(model_type))}")
    family = FAMILIES[model_type]
    if family.text_config is not None:
        config = config.get(family.text_config) or {}
    if objection := family.objection(config):
        raise UnsupportedModel(f"this {model_type} {objection}: mlx-lm's class cannot compute it")
    _refuse_unknown_keys(config, family)
    return family


def _way_out(model_type: str) -> str:
    described = f"{nearest(model_type, FAMILIES)}described are {', '.join(FAMILIES)}"
    if not _mlx_lm_has(model_type):
        return f"{described}; mlx-lm {version('mlx-lm')} has no class for it either, so that it cannot run under MLX"
    return f"{described}; mlx-lm has a class for it, what is missing is a Family that says where its parts are: {PAGE}"


def _mlx_lm_has(model_type: str) -> bool:
    name = MODEL_REMAPPING.get(model_type, model_type)
    return name.replace("-", "_").isidentifier() and find_spec(f"mlx_lm.models.{name}") is not None


def _refuse_unknown_keys(config: Config, family: Family) -> None:
    where = PACKAGE_FILE if family.model_type in PACKAGED else f"its Family ({PAGE})"
    if code := foreign_code(family.model_type, config.get("auto_map")):
        raise UnsupportedModel(
            f"config key 'auto_map' names {code!r}, which is none of transformers' classes for {family.model_type}: "
            "the model is what code that comes with it computes, and such code is never run"
        )
    for key, value in config.items():
        if not _may_be_left_out(key, value, config, family):
            raise UnsupportedModel(
                f"config key {key!r} = {value!r} is not understood for {family.model_type}: running the model without "
                f"it could give wrong numbers; describe it in {where}"
            )


def ignored_keys(config: Config) -> tuple[str, ...]:
    """Keys of a config that mean nothing to transformers' class of its model type, in order of name; not null ones."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return ()
    inner = config.get(family.text_config) if family.text_config is not None else None
    if not isinstance(inner, dict):
        return _without_meaning(config, family)
    outside = {key: value for key, value in config.items() if key not in (known_keys(family.model_type) or ())}
    return tuple(sorted({*_without_meaning(outside, family), *_without_meaning(inner, family)}))


def _without_meaning(config: Config, family: Family) -> tuple[str, ...]:
    keys = [key for key, value in config.items() if value is not None and not _means_something(key, family)]
    return tuple(sorted([*keys, *unread_settings(config)]))


def _means_something(key: str, family: Family) -> bool:
    """Whether a key may change a forward pass; everything may where transformers knows no such model."""
    model_type = family.model_type if family.text_config is None else f"{family.model_type}_text"
    known = known_keys(model_type)
    described = key in family.refuses or key in family.fixed or key == "rope_traditional"
    return known is None or described or key in known or key in NO_MEANING


def _may_be_left_out(key: str, value: Any, config: Config, family: Family) -> bool:
    """Whether mlx-lm's class reads the key, or computes the same without it."""
    if value is None:
        return key not in family.needs
    if value in ({}, []) or key in NO_MEANING or not _means_something(key, family):
        return True
    if isinstance(value, (dict, list)):
        return key in family.understands
    if key in family.refuses:
        return value not in family.refuses[key]
    if key in family.fixed:
        return value in family.fixed[key]
    if key in family.understands or value in HARMLESS.get(key, ()):
        return True
    # Newer configs spell out what older ones leave to be derived.
    if key == "n_inner":
        return True  # GPT-2's objection has looked at it
    return key == "head_dim" and value * config["num_attention_heads"] == config["hidden_size"]
