"""The steps of latent attention: what its keys and values are made of, and of what its queries and keys RoPE turns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlx_interp.architectures.latent import Latent
from mlx_interp.deferred import mx
from mlx_interp.engine.experts import ExpertMLPs


@dataclass(frozen=True)
class LatentAttention(ExpertMLPs):
    """Attention whose keys and values are made of one vector a position."""

    def latent_in(self, layer: int, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """What attention reads (..., d_model) -> queries (..., head, d_head), the latent, and keys' shared part."""
        attention = self._attention(layer)
        both = getattr(attention, self._latent.down)(x)
        latent, shared = mx.split(both, [self.d_latent], axis=-1)
        q = self._queries(attention, x).reshape(*x.shape[:-1], self.n_heads, self.d_head)
        return q, getattr(attention, self._latent.norm)(latent), shared

    def latent_kv(self, layer: int, latent: mx.array, shared: mx.array) -> tuple[mx.array, mx.array]:
        """The latent, and keys' shared part -> keys before RoPE (..., head, d_head), values (..., head, d_v)."""
        made = getattr(self._attention(layer), self._latent.up)(latent).reshape(*latent.shape[:-1], self.n_heads, -1)
        plain, v = mx.split(made, [self.d_plain], axis=-1)
        shared = mx.broadcast_to(shared[..., None, :], (*plain.shape[:-1], shared.shape[-1]))
        return mx.concatenate([plain, shared], axis=-1), v

    @cached_property
    def d_plain(self) -> int:
        """Numbers at the beginning of a query or key that RoPE leaves alone."""
        return 0 if self.family.latent is None else int(getattr(self.args, self._latent.d_plain))

    def _queries(self, attention: Any, x: mx.array) -> mx.array:
        if getattr(self.args, self._latent.q_rank) is None:
            q: mx.array = attention.q_proj(x)
            return q
        for name in self._latent.q_parts:
            x = getattr(attention, name)(x)
        return x

    @property
    def _latent(self) -> Latent:
        assert self.family.latent is not None
        return self.family.latent
