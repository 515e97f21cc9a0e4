"""Faults of families that no embedded model is of, injected into random models of theirs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from mlx_interp.engine import spaces, sweep_batch
from mlx_interp.engine.generate import Cache
from mlx_interp.engine.network import Network
from mlx_interp.engine.prefix_tree import Layout
from mlx_interp.engine.sweep_batch import Sweep
from mlx_interp.model import Model
from tests.validation.faults import FORWARD, SWEEP, fault, wrap
from tests.validation.more_faults import BATCH, CACHE

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


@fault("sinks take no part of a row", FORWARD, "random-gpt_oss")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    described_as(patch, model, sinks=None)


@fault("weights of the chosen experts not made to sum to one", FORWARD, "random-qwen3_moe")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    described_as(patch, model, experts=replace(model.network.family.experts, renormalised=None))


@fault("factor on experts' weights left out", FORWARD, "random-deepseek_v2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    described_as(patch, model, experts=replace(model.network.family.experts, factor=None))


@fault("experts that every token takes left out", FORWARD, "random-deepseek_v2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Network, "shared_out", lambda shared, net, layer, x: mx.zeros_like(shared(net, layer, x)))


@fault("latent keys turned at their beginning", FORWARD, "random-deepseek_v2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def at_the_beginning(rotate: Any, net: Network, layer: int, x: mx.array, *rest: Any, **of: Any) -> mx.array:
        n = x.shape[-1] - net.d_plain
        swapped = rotate(net, layer, mx.concatenate([x[..., n:], x[..., :n]], axis=-1), *rest, **of)
        return mx.concatenate([swapped[..., net.d_plain :], swapped[..., : net.d_plain]], axis=-1)

    wrap(patch, Network, "rotate", at_the_beginning)


@fault("late queries not scaled", FORWARD, "random-ministral3")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    described_as(patch, model, query_scale=None)


@fault("a layer's factor on all that it gives left out", FORWARD, "random-gemma4_text")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Network, "add_scaled", Network.add)


@fault("values not normed", FORWARD, "random-gemma4_text")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    described_as(patch, model, v_norm=None)


@fault("sweep: borrowed keys are the clean run's in every variant", SWEEP, "random-gemma4_text")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def of_clean(borrowed: Any, sweep: Sweep, source: int, q: list[mx.array]) -> Any:
        k, v = borrowed(sweep, source, q)
        clean = [kept[source].transpose(0, 2, 1, 3) for kept in (sweep.clean.k, sweep.clean.v)]
        return tuple(
            [mx.broadcast_to(own[:, own.shape[1] - x.shape[1] :], x.shape) for x in part]
            for own, part in zip(clean, (k, v), strict=True)
        )

    wrap(patch, Sweep, "_borrowed", of_clean)


@fault("the gate on what heads mix left out", FORWARD, "random-qwen3_5")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Network, "attn_out", lambda attn_out, net, layer, z, *gate: attn_out(net, layer, z))


@fault("cached generation: a state that no token changes", CACHE, "random-qwen3_5")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def kept(recurred: Any, cache: Cache, net: Network, layer: int, *rest: Any) -> Any:
        before = cache.v[layer]
        found = recurred(cache, net, layer, *rest)
        cache.v[layer] = before
        return found

    wrap(patch, Cache, "recurred", kept)


@fault("cached generation: a state of a padded prompt's end", BATCH, "random-qwen3_5")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(
        patch,
        Network,
        "recurred",
        lambda recurred, net, layer, inputs, state=None, real=None: recurred(net, layer, inputs, state),
    )


@fault("sweep: a recurrence begins from nothing where a variant does", SWEEP, "random-granitemoehybrid")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def forgetful(scan: Any, net: Network, layer: int, clean: Any, *rest: Any) -> Any:
        return scan(net, layer, [mx.zeros_like(a) for a in clean], *rest)

    wrap(patch, sweep_batch, "scan_groups", forgetful)


@fault("a state space that forgets nothing", FORWARD, "random-granitemoehybrid")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(
        patch,
        spaces,
        "_chunk",
        lambda chunk, q, k, written, logs, state: chunk(q, k, written, mx.zeros_like(logs), state),
    )


@fault("a convolution's gate left out", FORWARD, "random-lfm2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Network, "short_out", lambda out, net, layer, made, gate: out(net, layer, made, mx.ones_like(gate)))


@fault("sweep: a convolution reads nothing before a variant's first position", SWEEP, "random-lfm2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(
        patch,
        Network,
        "convolved",
        lambda convolved, net, layer, before, x: convolved(net, layer, None, x),
    )
