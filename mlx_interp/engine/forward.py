"""One forward pass over a batch of prompts, with every site open for reading and changing.

Prompts of different lengths are padded on the right: under causal attention no real position sees a position after it,
so padding cannot enter any result. Without edits each operation is the one mlx-lm performs, on the same arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import mlx.core as mx
import numpy as np

from mlx_interp.engine.edits import apply_edits, blocked_mask
from mlx_interp.engine.memory import LARGE, bytes_per_position
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import EditPlan
from mlx_interp.sites import Site

Logits = Literal["last", "all", "none"]


@dataclass
class Pass:
    """One pass under way: what it changes, and what it keeps."""

    network: Network
    plan: EditPlan
    lengths: Sequence[int]
    wanted: frozenset[Site] = frozenset()
    captured: dict[Site, mx.array] = field(default_factory=dict)
    keep: Callable[[int, mx.array, mx.array], None] | None = None
    """Gets each layer's keys and values after their edits, for a cache."""
    probes: Mapping[Site, mx.array] = field(default_factory=dict)
    """What is added at sites, after their edits: the zeros that a metric is differentiated by."""

    def site(self, name: str, layer: int, x: mx.array) -> mx.array:
        """An activation (batch, pos, ...) after the edits of its site, kept if it was asked for."""
        site = Site(name, layer)
        if edits := self.plan.at(site):
            x = apply_edits(x, edits, self.plan, lengths=self.lengths)
        if site in self.probes:
            x = x + self.probes[site].astype(x.dtype)
        if site in self.wanted:
            self.captured[site] = x
        return x

    def head_site(self, name: str, layer: int, x: mx.array) -> mx.array:
        """A site of (batch, pos, head, d_head) on an array that attention holds with head before pos."""
        if not self.touched(name, layer):
            return x
        edited = self.site(name, layer, x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
        # Rotated arrays lie in memory head by head. A BLAS may sum in another order where the rows of a matrix lie
        # further apart, so that an edit that changes nothing would change the last bit.
        return mx.contiguous(edited) if name in ROTATED and self.network.family.rope else edited

    def touched(self, name: str, layer: int) -> bool:
        site = Site(name, layer)
        return site in self.wanted or bool(self.plan.at(site))


ROTATED = ("q", "k")
"""Sites that are read after RoPE."""

Attention = Callable[[Pass, int, mx.array], mx.array]
"""(pass, layer, residual stream) -> z (batch, pos, head, d_head)."""


def forward(run: Pass, tokens: mx.array, logits: Logits) -> mx.array | None:
    """Token ids (batch, pos) -> logits: (batch, d_vocab) at each prompt's end, (batch, pos, d_vocab), or None."""
    net = run.network
    x = net.embed(tokens)
    large = bytes_per_position(net) * tokens.size > LARGE and not run.probes
    for layer in range(net.n_layers):
        x = block(run, layer, x, attention_over_prompts)
        if large:
            mx.eval(x, run.captured)  # Python sees a Ctrl-C only between evaluations
    x = run.site("final", -1, net.final(x))
    if logits == "none":
        return None
    return net.unembed(last_positions(x, run.lengths) if logits == "last" else x)


def block(run: Pass, layer: int, x: mx.array, attention: Attention) -> mx.array:
    """One layer: residual stream in, residual stream out; `attention` says what there is to attend to."""
    net = run.network
    x = run.site("resid_pre", layer, x)
    z = run.site("z", layer, attention(run, layer, x))
    if run.touched("head_out", layer):
        run.site("head_out", layer, net.head_out(layer, z))
    x = run.site("resid_mid", layer, net.add(x, run.site("attn_out", layer, net.attn_out(layer, z))))
    act = run.site("mlp_act", layer, net.mlp_act(layer, x))
    return run.site("resid_post", layer, net.add(x, run.site("mlp_out", layer, net.mlp_out(layer, act))))


def attention_over_prompts(run: Pass, layer: int, x: mx.array) -> mx.array:
    """Residual stream (batch, pos, d_model) -> z (batch, pos, head, d_head)."""
    net, length = run.network, x.shape[1]
    q, k, v = (a.transpose(0, 2, 1, 3) for a in net.qkv(layer, x))
    q, k = net.rotate(layer, q, 0, run.lengths), net.rotate(layer, k, 0, run.lengths)
    q, k, v = (run.head_site(name, layer, a) for name, a in (("q", q), ("k", k), ("v", v)))
    if run.keep is not None:
        run.keep(layer, k, v)
    mask = net.mask(layer, length)
    z = net.attend(layer, q, k, v, mask)
    if run.touched("pattern", layer) or layer in run.plan.blocked:
        z = z + pattern_change(run, layer, q, k, v, mask).astype(z.dtype)
    return z.transpose(0, 2, 1, 3)


def pattern_change(
    run: Pass, layer: int, q: mx.array, k: mx.array, v: mx.array, mask: mx.array | str | None
) -> mx.array:
    """What edits of the pattern add to z: exactly zero where they change nothing, whatever kernel computed z."""
    net, n_keys = run.network, k.shape[2]
    clean = pattern = net.pattern(layer, q, k, mask)
    if blocks := run.plan.blocked.get(layer):
        queries = range(n_keys - q.shape[2], n_keys)
        allowed = blocked_mask(
            blocks,
            run.plan,
            n_rows=q.shape[0],
            n_heads=net.n_heads,
            queries=queries,
            n_keys=n_keys,
            sees=np.asarray(mask) if isinstance(mask, mx.array) else None,  # windows, and empty slots of a cache
        )
        pattern = net.pattern(layer, q, k, mask, allowed)
    edited = run.site("pattern", layer, pattern.swapaxes(1, 2)).swapaxes(1, 2)
    site = Site("pattern", layer)
    if not blocks and not run.plan.at(site) and site not in run.probes:
        return mx.zeros((1,), dtype=q.dtype)
    return net.mix(edited.astype(mx.float32) - clean.astype(mx.float32), v.astype(mx.float32))


def last_positions(x: mx.array, lengths: Sequence[int]) -> mx.array:
    """(batch, pos, width) -> (batch, width) at each prompt's last position."""
    if len(set(lengths)) == 1:
        return x[:, lengths[0] - 1]
    return x[mx.arange(len(lengths)), mx.array([length - 1 for length in lengths])]
