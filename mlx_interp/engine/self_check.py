"""Does the wrapped model compute what mlx-lm's does, and are its sites what they are called? Asked of a short probe.

1. The wrapped forward is mlx-lm's own, bit for bit, and finite.
2. The lens of the last layer (`resid_post`, last norm, unembedding) is the logits.
3. Patterns rebuild what attention mixed (pattern times v is z), their rows sum to 1 (to less beside a sink), and none
   looks ahead.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlx_interp.deferred import mx
from mlx_interp.engine.forward import Pass, forward
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import EditPlan
from mlx_interp.sites import Site

PROBE = (1, 2, 3, 5, 8, 13, 21)


def first_fault(net: Network, probe: Sequence[int] = PROBE) -> str | None:
    """What is wrong with a wrapped model, in a sentence; None if nothing was found."""
    tokens = mx.array([[token % net.d_vocab for token in probe]])
    layers = [layer for layer in range(net.n_layers) if net.attends(layer)]
    lends = {layer: net.kv_source(layer) for layer in layers}
    sites = [Site(*one) for layer in layers for one in (("v", lends[layer]), ("pattern", layer), ("z", layer))]
    run = Pass(net, EditPlan(), [len(probe)], frozenset([*sites, Site("resid_post", net.n_layers - 1)]))
    own, ours = net.mlx_model(tokens), forward(run, tokens, "all")
    assert ours is not None
    mx.eval(own, ours, run.captured)
    if not bool(mx.all(mx.isfinite(own))):
        return "the model's logits on a probe are not finite; its weights may be damaged"
    if not bool(mx.array_equal(own, ours)):
        return (
            f"the wrapped forward differs from mlx-lm's own by {_largest(own, ours):.3g} on a probe; "
            f"the description of {net.family.model_type} in mlx_interp/architectures does not fit this model"
        )
    lens = net.unembed(net.final(run.captured[Site("resid_post", net.n_layers - 1)]))
    if (error := _relative(lens, ours)) > _bound(net):
        return f"the lens of the last layer differs from the logits by {error:.2g} (relative) on a probe"
    for layer in layers:
        v = run.captured[Site("v", lends[layer])]
        pattern, z = (run.captured[Site(name, layer)] for name in ("pattern", "z"))
        if fault := _attention_fault(net, v, pattern, z):
            return f"layer {layer}: {fault} on a probe: the description of its attention does not fit this model"
    return None


def _attention_fault(net: Network, v: mx.array, pattern: mx.array, z: mx.array) -> str | None:
    """v (batch, pos, kv head, d_head), pattern (batch, query, head, key) and z (batch, pos, head, d_head)."""
    weights = pattern.swapaxes(1, 2)
    rows = weights.astype(mx.float32).sum(axis=-1)
    if net.family.sinks:
        rows = mx.maximum(rows, 1)  # a sink takes its part
    if (error := _largest(rows, mx.ones(1))) > _bound(net):
        return f"rows of the attention pattern differ from 1 by {error:.2g}"
    n = weights.shape[-1]
    ahead = mx.where(mx.arange(n)[None] > mx.arange(n)[:, None], weights, mx.zeros(1, weights.dtype))
    if (most := float(mx.abs(ahead).max())) > 0:
        return f"attention looks ahead with {most:.2g}"
    mixed = net.mix(weights, v.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    if (error := _relative(mixed, z)) > _bound(net):
        return f"pattern times v differs from z by {error:.2g} (relative)"
    return None


def _bound(net: Network) -> float:
    """Relative error that another order of summation may bring."""
    return 1e-4 if net.dtype == mx.float32 else float(16 * mx.finfo(net.dtype).eps)


def _largest(a: mx.array, b: mx.array) -> float:
    return float(mx.max(mx.abs(a.astype(mx.float32) - b.astype(mx.float32))))


def _relative(a: mx.array, b: mx.array) -> float:
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    return float(mx.linalg.norm((a - b).reshape(-1)) / mx.linalg.norm(b.reshape(-1)))
