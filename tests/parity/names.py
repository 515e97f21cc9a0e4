"""Where transformers keeps what is recorded, by family."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Names:
    """Where transformers keeps what is recorded."""

    decoder: str = "model"
    layers: str = "layers"
    norm: str = "norm"
    before_attn: str | None = "input_layernorm"
    """None: attention reads the stream itself."""
    before_mlp: str | None = "post_attention_layernorm"
    """None: attention and MLP side by side, so that there is no stream between them."""
    out: str = "self_attn.o_proj"
    down: str = "mlp.down_proj"
    attention: str = "self_attn"
    mlp: str = "mlp"
    qkv: str | None = None
    """The matrix of all queries, keys and values; None where there are three."""
    by_head: bool = False
    """Its rows are head by head: each one's query, key and value."""
    gate: str | None = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    """The same one: its halves are gate and up."""
    mixer: str | None = None
    """What some layers have in attention's place."""
    scaled: bool = False
    """A layer scales what it gives, and may add to it from its own embedding of the token."""
    gated: bool = False
    """Attention's query matrix gives each head's query and its gate."""
    latent: bool = False
    """Keys and values are made of one vector a position."""
    router: str | None = None
    """The router of an MLP that is made of experts; these are beside it."""


AFTER_ALONE = Names(before_attn=None, before_mlp="mlp")
"""No norm stands before the MLP: it reads the stream itself."""
SANDWICH = Names(before_mlp="pre_feedforward_layernorm")
NAMES = {
    "gemma2": SANDWICH,
    "gemma3": SANDWICH,
    "gemma3_text": SANDWICH,
    "gpt2": Names(
        "transformer",
        "h",
        "ln_f",
        "ln_1",
        "ln_2",
        "attn.c_proj",
        "mlp.c_proj",
        attention="attn",
        qkv="attn.c_attn",
        gate=None,
        up="mlp.c_fc",
    ),
    "gpt_neox": Names(
        "gpt_neox",
        norm="final_layer_norm",
        before_mlp=None,
        out="attention.dense",
        down="mlp.dense_4h_to_h",
        attention="attention",
        qkv="attention.query_key_value",
        by_head=True,
        gate=None,
        up="mlp.dense_h_to_4h",
    ),
    "olmo2": AFTER_ALONE,
    "olmo3": AFTER_ALONE,
    "phi": Names(
        norm="final_layernorm", before_mlp=None, out="self_attn.dense", down="mlp.fc2", gate=None, up="mlp.fc1"
    ),
    "cohere": Names(before_mlp=None),
    "cohere2": Names(before_mlp=None),
    "gptj": Names(
        "transformer",
        "h",
        "ln_f",
        "ln_1",
        None,
        "attn.out_proj",
        "mlp.fc_out",
        attention="attn",
        gate=None,
        up="mlp.fc_in",
    ),
    "qwen3_moe": Names(router="gate"),
    "mixtral": Names(router="gate"),
    "olmoe": Names(router="gate"),
    "gpt_oss": Names(router="router"),
    "deepseek_v2": Names(latent=True, router="gate"),
    "gemma4_text": replace(SANDWICH, scaled=True),
    "gemma4": replace(SANDWICH, scaled=True),
    "lfm2": Names(
        norm="embedding_norm",
        before_attn="operator_norm",
        before_mlp="ffn_norm",
        out="self_attn.out_proj",
        down="feed_forward.w2",
        mlp="feed_forward",
        gate="feed_forward.w1",
        up="feed_forward.w3",
        mixer="conv",
    ),
    "granitemoehybrid": Names(
        mlp="shared_mlp",
        gate="shared_mlp.input_linear",
        up="shared_mlp.input_linear",
        down="shared_mlp.output_linear",
        mixer="mamba",
    ),
    "qwen3_5": Names(mixer="linear_attn", gated=True),
    "phi3": Names(qkv="self_attn.qkv_proj", gate="mlp.gate_up_proj", up="mlp.gate_up_proj"),
}
