"""Mixers that are no attention: which parts of mlx-lm's layer they are, and under which names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DeltaNet:
    """Gated DeltaNet (Yang et al. 2024), in the layers of mlx-lm's model that have a part of its name."""

    name: str = "linear_attn"
    parts: tuple[str, ...] = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "conv1d", "norm", "out_proj")
    out: str = "out_proj"

    def is_in(self, block: Any) -> bool:
        return self.name in block


@dataclass(frozen=True)
class DeltaSizes:
    """Sizes of a Gated DeltaNet."""

    n_key_heads: int
    n_heads: int
    """Of values; several share a key head."""
    d_key: int
    d_value: int
    kernel: int
    """Positions that its convolution reads, its own included."""

    @property
    def d_conv(self) -> int:
        """Channels of the convolution: all queries, keys, values."""
        return 2 * self.n_key_heads * self.d_key + self.n_heads * self.d_value

    @property
    def d_state(self) -> int:
        """Numbers of a head's state."""
        return self.d_key * self.d_value
