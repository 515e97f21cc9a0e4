"""Faults of families that no embedded model is of, injected into random models of theirs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from mlx_interp.engine.generate import Cache
from mlx_interp.engine.network import Network
from mlx_interp.engine.prefix_tree import Layout
from mlx_interp.model import Model
from tests.validation.faults import FORWARD, SWEEP, fault, wrap
from tests.validation.more_faults import CACHE

WINDOWED = "random-gemma3_text"
BEYOND = "beyond the window"


def described_as(patch: pytest.MonkeyPatch, model: Model, **changes: Any) -> None:
    """The model with another description of its family."""
    patch.setattr(model, "network", replace(model.network, family=replace(model.network.family, **changes)))


@fault("sliding window ignored", FORWARD, WINDOWED)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Network, "window", lambda net, layer: None)


@fault("sliding window one position too wide", FORWARD, WINDOWED)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def wider(window: Any, net: Network, layer: int) -> int | None:
        found = window(net, layer)
        return found + 1 if found else None

    wrap(patch, Network, "window", wider)


@fault("one RoPE base for layers of both kinds", FORWARD, WINDOWED)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Network, "rotate", lambda rotate, net, layer, *rest, **of: rotate(net, 0, *rest, **of))


@fault("cached generation: sliding window ignored", CACHE, WINDOWED)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Cache, "_mask", lambda mask, cache, window: mask(cache, None))


@fault("sweep: sliding window ignored", BEYOND, WINDOWED, "full")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Layout, "allowed", lambda allowed, layout, queries, window: allowed(layout, queries, None))


@fault("sweep: sliding window one position too narrow", BEYOND, WINDOWED, "full")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def narrower(allowed: Any, layout: Layout, queries: Any, window: int | None) -> Any:
        return allowed(layout, queries, window - 1 if window else None)

    wrap(patch, Layout, "allowed", narrower)


@fault("cached generation: a window that only just fills is ignored", BEYOND, WINDOWED, "full")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Cache, "_mask", lambda mask, cache, window: mask(cache, window + 2 if window else None))


@fault("patterns reach beyond the window", BEYOND, WINDOWED, "full")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(
        patch,
        Network,
        "pattern",
        lambda pattern, net, layer, q, k, mask, *rest: pattern(net, layer, q, k, "causal", *rest),
    )


@fault("norms of queries and keys left out", FORWARD, "random-qwen3")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    described_as(patch, model, qk_norm=False)


@fault("multiplier of the residual stream left out", FORWARD, "random-granite")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    described_as(patch, model, residual_scale=None)


@fault("divisor of the logits left out", FORWARD, "random-granite")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    described_as(patch, model, logits_divisor=None)


@fault("keys and values of a fused projection swapped", FORWARD, "random-phi3")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def swapped(qkv: Any, net: Network, layer: int, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        q, k, v = qkv(net, layer, x)
        return q, v, k

    wrap(patch, Network, "qkv", swapped)


@fault("the MLP reads what attention wrote, where both stand side by side", FORWARD, "random-gpt_neox")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    described_as(patch, model, parallel=False)


@fault("queries, keys and values of all heads taken for those of each head", FORWARD, "random-gpt_neox")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    described_as(patch, model, qkv="fused")


@fault("sweep: an edit of attention is kept from the layer's sum", SWEEP, "random-phi")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def of_clean(add: Any, net: Network, layer: int, x: mx.array, attn_out: mx.array, mlp_out: mx.array) -> mx.array:
        return add(net, layer, x, attn_out[:1] if attn_out.shape[0] > 1 else attn_out, mlp_out)

    wrap(patch, Network, "add_both", of_clean)


LENGTHS = "random-llama, LongRoPE"


@fault("RoPE of a padded batch by its longest prompt", "padding is invisible", LENGTHS)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def by_width(rotate: Any, net: Network, layer: int, x: Any, offset: Any = 0, lengths: Any = None, **of: Any) -> Any:
        return rotate(net, layer, x, offset, **of)

    wrap(patch, Network, "rotate", by_width)


@fault("RoPE of prompts that begin alike by the longest of them", "prompts swept together are each alone", LENGTHS)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Network, "rope_regime", lambda net, length: None)
