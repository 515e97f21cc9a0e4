"""Mixers that are no attention: which parts of mlx-lm's layer they are, and under which names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mixer:
    """A mixer in the layers of mlx-lm's model that have a part of its name."""

    name: str
    parts: tuple[str, ...]
    conv: str
    """Its convolution over a few positions."""
    kernel: str
    """Config key of how many positions that reads, its own included."""
    noun: str
    """What it is called in messages."""
    sizes: tuple[str, str, str, str] | None = None
    """Config keys of a state's sizes: heads of keys and of values, numbers of a key and of a value; None: no state."""
    out: str = "out_proj"

    def is_in(self, block: Any) -> bool:
        return self.name in block


DELTA_NET = Mixer(
    "linear_attn",
    ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "conv1d", "norm", "out_proj"),
    conv="conv1d",
    kernel="linear_conv_kernel_dim",
    noun="a gated DeltaNet",
    sizes=("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim"),
)
"""Gated DeltaNet (Yang et al. 2024): a state that each position changes."""
SHORT_CONV = Mixer(
    "conv", ("in_proj", "conv", "out_proj"), conv="conv", kernel="conv_L_cache", noun="a short convolution"
)
"""A convolution between two gates (LFM2): it reaches a few positions, and holds no state beyond them."""
MAMBA2 = Mixer(
    "mamba",
    ("in_proj", "conv1d", "norm", "out_proj"),
    conv="conv1d",
    kernel="mamba_d_conv",
    noun="a state space (Mamba 2)",
    sizes=("mamba_n_groups", "mamba_n_heads", "mamba_d_state", "mamba_d_head"),
)
"""Mamba 2 (Dao and Gu 2024): a state to which each position adds, and which forgets at a pace of its own."""


@dataclass(frozen=True)
class StateSizes:
    """Sizes of a state, and of what is written to it and reads it."""

    n_key_heads: int
    n_heads: int
    """Of values; several share a key head."""
    d_key: int
    d_value: int

    @property
    def d_conv(self) -> int:
        """Channels of the convolution: all queries, keys, values."""
        return 2 * self.n_key_heads * self.d_key + self.n_heads * self.d_value

    @property
    def d_state(self) -> int:
        """Numbers of a head's state."""
        return self.d_key * self.d_value
