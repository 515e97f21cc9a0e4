"""Latent attention (DeepSeek-AI 2024, "DeepSeek-V2"): keys and values of all heads are made of one vector a position.

1. One matrix gives a latent, which is normed, and beside it a part of keys that all heads share.
2. Another makes of the latent each head's key and value. A key is that with the shared part behind it.
3. RoPE turns the shared part, and as much at the end of each query; the rest has no positions.

So queries and keys are wider than values, and than what a head mixes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Latent:
    """Which attributes of mlx-lm's attention these are, and which config keys have their sizes."""

    down: str = "kv_a_proj_with_mqa"
    norm: str = "kv_a_layernorm"
    up: str = "kv_b_proj"
    rank: str = "kv_lora_rank"
    d_plain: str = "qk_nope_head_dim"
    """Numbers of a query or key without positions."""
    d_turned: str = "qk_rope_head_dim"
    d_value: str = "v_head_dim"
    q_rank: str = "q_lora_rank"
    """Where queries are made of a latent of their own: its size."""
    q_parts: tuple[str, str, str] = ("q_a_proj", "q_a_layernorm", "q_b_proj")
