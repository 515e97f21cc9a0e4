"""Norms frozen at the scale that they have on a prompt: what is then left of them is linear, and can be taken apart.

An RMS norm divides by the root mean square of what it reads, a LayerNorm by the standard deviation, after the mean was
taken off; then each channel has its gain. With the divisor held as it is on this prompt, what a sum is normed to is the
sum of what its parts are normed to, but for a LayerNorm's bias.
"""

from __future__ import annotations

from typing import Any

from mlx_interp.deferred import mx, nn


def centres(norm: Any) -> bool:
    """Whether a norm takes the mean off."""
    return isinstance(norm, nn.LayerNorm) or _by_head(norm)


def _by_head(norm: Any) -> bool:
    """Cohere's LayerNorm of queries and keys: each head by itself, with a gain of its own (head, d_head)."""
    return "weight" in norm and bool(norm.weight.ndim == 2)


def gain(norm: Any, width: int) -> mx.array:
    """What a norm multiplies each channel by (width,), float32; some families keep it as 1 + weight.

    (head, d_head) of a norm that has a gain for each head.
    """
    if centres(norm):
        weight: mx.array = norm.weight if "weight" in norm else mx.ones((width,))
        return weight.astype(mx.float32)
    of_ones: mx.array = norm(mx.ones((width,)))  # their root mean square is 1, but for epsilon
    gains: mx.array = of_ones.astype(mx.float32) * (1 + norm.eps) ** 0.5
    return gains


def bias(norm: Any, width: int) -> mx.array:
    """What a norm adds to each channel (width,), float32: 0 in all but LayerNorms."""
    if not (centres(norm) and "bias" in norm):
        return mx.zeros((width,))
    added: mx.array = norm.bias
    return added.astype(mx.float32)


def divisor(norm: Any, x: mx.array) -> mx.array:
    """What a norm divides states (..., width) by: (..., 1), float32."""
    x = x.astype(mx.float32)
    size = mx.var(x, axis=-1, keepdims=True) if centres(norm) else (x * x).mean(axis=-1, keepdims=True)
    return mx.sqrt(size + norm.eps)


def centred(norm: Any, x: mx.array) -> mx.array:
    """States (..., width) without their mean where the norm takes it off, float32."""
    x = x.astype(mx.float32)
    return x - x.mean(axis=-1, keepdims=True) if centres(norm) else x
