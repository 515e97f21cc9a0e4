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
    out: str = "out_proj"

    def is_in(self, block: Any) -> bool:
        return self.name in block


DELTA_NET = Mixer(
    "linear_attn",
    ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "conv1d", "norm", "out_proj"),
    conv="conv1d",
    kernel="linear_conv_kernel_dim",
    noun="a gated DeltaNet",
)
"""Gated DeltaNet (Yang et al. 2024): a state that each position changes."""
SHORT_CONV = Mixer(
    "conv", ("in_proj", "conv", "out_proj"), conv="conv", kernel="conv_L_cache", noun="a short convolution"
)
"""A convolution between two gates (LFM2): it reaches a few positions, and holds no state beyond them."""


@dataclass(frozen=True)
class DeltaSizes:
    """Sizes of a Gated DeltaNet."""

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
