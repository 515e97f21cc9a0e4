"""What a model family is: where mlx-lm's class keeps a model's parts, and which of the known forms they have.

mlx-lm's modules already carry weights, scales, RoPE and norms; a `Family` says where they are and how the few known
forms of attention, MLP, block and logits are combined. Everything that is a family's own is one of its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from mlx_interp.architectures.activations import FORMS, Form
from mlx_interp.architectures.experts import Experts
from mlx_interp.architectures.latent import Latent
from mlx_interp.architectures.mixers import Mixer
from mlx_interp.architectures.own_inputs import OwnInputs
from mlx_interp.deferred import mx

Config = Mapping[str, Any]
Activation: TypeAlias = "Callable[[Any, mx.array], mx.array]"
Stored: TypeAlias = "Callable[[dict[str, mx.array]], dict[str, mx.array]]"


@dataclass(frozen=True)
class Norms:
    """Attribute names of a block's norms; None where a family has none."""

    before_attn: str | None = "input_layernorm"
    after_attn: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    after_mlp: str | None = None


@dataclass(frozen=True)
class Sizes:
    """Names of a model's sizes among the arguments of mlx-lm's class, which are the names in config.json."""

    n_layers: str = "num_hidden_layers"
    n_heads: str = "num_attention_heads"
    n_kv_heads: str = "num_key_value_heads"
    d_model: str = "hidden_size"
    d_mlp: str | None = "intermediate_size"
    """None: four times d_model; "": as wide as the weights are, whatever the config says."""


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
    text_type: str | None = None
    """Model type of the language model there; None: the checkpoint's with `_text` behind it."""
    sizes: Sizes = Sizes()
    decoder: str = "model"
    embed: str = "embed_tokens"
    positions: str | None = None
    """Embedding of learned positions, added to the tokens'; None where positions enter by RoPE alone."""
    rope: bool = True
    unturned: Callable[[Any, int], bool] = lambda decoder, layer: False
    """(mlx-lm's decoder, layer) -> whether the layer has no positions at all, where others have RoPE."""
    query_scale: Callable[[Any, mx.array], mx.array] | None = None
    """(arguments of mlx-lm's model, positions) -> what queries there are multiplied by behind RoPE."""
    layers: str = "layers"
    norm: str = "norm"
    head: str = "lm_head"
    """The unembedding, by its path in mlx-lm's model; one that has no such part, or ties it, uses the embedding."""
    tied: Callable[[Config], bool] = lambda config: bool(config.get("tie_word_embeddings", True))
    norms: Norms = Norms()
    parallel: bool | str = False
    """Attention and MLP both read the layer's input, and are added up: True, or the config key that says so."""
    attention: str = "self_attn"
    mlp: str = "mlp"
    qkv: Literal["separate", "fused", "fused by head"] = "separate"
    """Three matrices; one, of all queries, keys, values; or one, of each head's query, key, value in turn."""
    qkv_name: str = "qkv_proj"
    qk_norm: bool | Literal["all heads"] | str = False
    """Queries and keys are normed before RoPE: each head by itself (True, or the config key that says so), or all heads
    as one vector."""
    q_norm: str = "q_norm"
    k_norm: str = "k_norm"
    """What mlx-lm's attention calls them."""
    v_norm: str | None = None
    """What mlx-lm's attention calls the norm of each head's values."""
    kv_source: Callable[[Any, int], int] = lambda decoder, layer: layer
    """(mlx-lm's decoder, layer) -> the layer whose keys and values it attends to: an earlier one's, or its own."""
    head_dim: str | None = None
    """What mlx-lm's attention calls the size of its heads, where that differs from layer to layer."""
    scale: str | None = "scale"
    """What mlx-lm's attention calls its scale; None where it works out the usual one, 1 / root of d_head."""
    wide_scores: bool | Literal["of float16"] = False
    """Attention is computed in float32, whatever the model computes in, or where that is float16."""
    sinks: str | None = None
    """Attention's scores, one a head, of something that holds nothing: what it takes of a row is in no pattern."""
    out: str = "o_proj"
    down: str = "down_proj"
    activation: Literal["swiglu", "geglu_tanh", "geglu", "fused_swiglu", "gelu_tanh"] | Form | Activation = "swiglu"
    """A known form, its parts, or a function (mlx-lm's MLP, its input) -> what enters its down projection: without
    parts there are no sites `mlp_gate` and `mlp_up`."""
    own_inputs: OwnInputs | None = None
    """Each layer's own embedding of the token, which enters the stream behind the MLP."""
    layer_scalar: str | None = None
    """What mlx-lm's layer calls a factor on all that it gives to the next one."""
    mixer: Mixer | None = None
    """What stands in attention's place in the layers of mlx-lm's model that have a part of its name."""
    latent: Latent | None = None
    """Keys and values are made of one vector a position."""
    attn_gate: bool = False
    """Heads' mixed values pass a gate before the output projection; each query's matrix gives it, behind the query."""
    experts: Experts | None = None
    """The parts of an MLP that is made of experts; `sizes.d_mlp` is then the width of one. Layers that lack them have
    one MLP, as `activation` says."""
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
    logits_factor: str | None = None
    """Config key of what logits are multiplied by."""
    read_as: Mapping[str, str] = field(default_factory=dict)
    """Config keys, settings of RoPE too, that mlx-lm's class reads under another name: {"rope_theta": its name}."""
    reads_rope: bool = False
    """mlx-lm's class reads RoPE under `rope_parameters`, in the form of transformers 5."""
    pattern_of_types: str | None = None
    """Config key of the distance between layers with full attention, if mlx-lm's class knows them by that alone:
    `layer_types` gives it."""
    rereads: bool = False
    """transformers reads a text anew where generation crosses the length that LongRoPE was made from."""
    dropped_prefix: str = ""
    """How tensors' names begin in newer checkpoints; mlx-lm's class reads them without, as the oldest ones are."""
    as_stored: Stored | None = None
    """Tensors as transformers stores them -> as mlx-lm's class takes them, where it has no eye for that."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Config keys that mlx-lm's class leaves out although they mean something: what it does instead."""
    refuses: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    """Config keys with values under which mlx-lm would compute something else than the checkpoint means."""
    needs: frozenset[str] = frozenset()
    """Config keys for which null means something else than being absent, and that mlx-lm's class needs a number for."""
    adapted: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: {}
    """Config fields that mlx-lm's class reads, worked out of what transformers writes in another form."""
    fixed: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    """Config keys that mlx-lm's class does not read, with the values that mean what it computes."""
    objection: Callable[[Config], str | None] = lambda config: None
    """What else in a config mlx-lm's class cannot compute; None if nothing."""

    @property
    def form(self) -> Form | None:
        """The parts of an MLP that is not made of experts; None where a function stands for all of them."""
        if isinstance(self.activation, str):
            return FORMS[self.activation]
        return self.activation if isinstance(self.activation, Form) else None

    @property
    def text_model_type(self) -> str:
        """The model type whose config class says what the language model's config means."""
        if self.text_config is None:
            return self.model_type
        return self.text_type or f"{self.model_type}_text"

    @property
    def head_name(self) -> str:
        """The unembedding's own name, without the path to it."""
        return self.head.rpartition(".")[2]
