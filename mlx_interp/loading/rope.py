"""The RoPE that a config means, in every layer of mlx-lm's network: kept where it is that already, else put there.

Frequencies are those of transformers 5 (`modeling_rope_utils.py`), type by type and in float32 as there; mlx-lm's own
module is asked to turn a probe, and stays if it turns it equally. What no type here describes is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlx_interp.authority import ROPE_SETTINGS, rope_type
from mlx_interp.deferred import mx, nn
from mlx_interp.engine.network import Network
from mlx_interp.engine.rope import DynamicRoPE, FixedRoPE, LengthRoPE, LongRoPE
from mlx_interp.errors import CheckpointError, UnsupportedModel

Settings = Mapping[str, Any]
PROBED = (0, 1, 7, 60, 509, 2053)
"""Positions at which two RoPEs are compared."""


def put_ropes_right(net: Network) -> str | None:
    """Gives every layer the RoPE that the config means; in place. Returns what was changed, in words, or None.

    Raises UnsupportedModel for a type or share of the head that is not described, CheckpointError for a bad value.
    """
    text = net.family.text_config
    config: Settings = net.config[text] if text is not None else net.config
    ropes = config.get("rope_parameters")
    if not net.family.rope or not isinstance(ropes, dict):
        return None
    kinds = config.get("layer_types") or []
    nested = "full_attention" in ropes
    attending = [layer for layer in range(net.n_layers) if net.attends(layer)]
    d_heads = {kinds[layer] if nested else "": net.d_head_at(layer) - net.d_plain for layer in attending}
    meant = {
        kind: _rope(net, config, settings, nested, d_heads[kind])
        for kind, settings in (ropes if nested else {"": ropes}).items()
        if kind in d_heads
    }
    changed = set()
    for layer, block in enumerate(net.layers):
        kind = kinds[layer] if nested else ""
        if not net.attends(layer):
            continue
        attention = getattr(block, net.family.attention)
        if net.family.unturned(net.decoder, layer):
            continue
        neighbours = getattr(attention.rope, "traditional", net.family.latent is not None)
        if not _equal(attention.rope, meant[kind], d_heads[kind], neighbours=neighbours):
            if neighbours or config.get("rope_traditional"):
                raise UnsupportedModel(
                    f"RoPE of type {rope_type(ropes.get(kind, ropes))!r} where pairs of neighbours are turned "
                    "('rope_traditional'): mlx-lm's class turns them by another RoPE alone"
                )
            attention.rope = meant[kind]
            changed.add(rope_type(ropes[kind] if nested else ropes))
    return ", ".join(sorted(changed)) or None


def _equal(theirs: nn.Module, ours: nn.Module, d_head: int, *, neighbours: bool) -> bool:
    """Whether two modules turn alike, up to the rounding of an angle."""
    if isinstance(ours, LengthRoPE):
        return False  # mlx-lm's know one length for a whole batch
    if neighbours:
        ours = _as_neighbours(ours)
    x = mx.ones((1, 1, 1, d_head))
    return all(
        float(mx.abs(theirs(x, offset=position) - ours(x, offset=position)).max()) < 1e-4 + 3e-6 * position
        for position in PROBED
    )


def _as_neighbours(rope: nn.Module) -> Callable[..., mx.array]:
    """A RoPE that turns halves, as one that turns neighbours (mlx-lm's `rope_traditional`)."""

    def turned(x: mx.array, offset: int) -> mx.array:
        n = rope.dims
        halves = mx.concatenate([x[..., 0:n:2], x[..., 1:n:2], x[..., n:]], axis=-1)
        out = rope(halves, offset=offset)
        return mx.concatenate([mx.stack([out[..., : n // 2], out[..., n // 2 : n]], -1).flatten(-2), out[..., n:]], -1)

    return turned


def _rope(net: Network, config: Settings, settings: Settings, nested: bool, d_head: int) -> nn.Module:
    kind = rope_type(settings)
    if kind not in ROPE_SETTINGS:
        raise UnsupportedModel(
            f"RoPE of type {kind!r} is not described for {net.family.model_type}: {', '.join(ROPE_SETTINGS)}"
        )
    share = _number(settings, "partial_rotary_factor", 1.0)
    if share != 1.0 and "partial_rotary_factor" not in net.family.understands:
        raise UnsupportedModel(
            f"config key 'partial_rotary_factor' = {share!r} is not understood for {net.family.model_type}: "
            "its RoPE turns the whole head"
        )
    dims = int(d_head * share)
    base = _number(settings, "rope_theta")
    if kind == "proportional":
        return FixedRoPE(_proportional(d_head, base, share, _number(settings, "factor", 1.0)))
    if kind == "longrope":
        return _long(settings, config, dims, base, rereads=net.family.rereads)
    if kind == "dynamic":
        trained = int(_number(config, "max_position_embeddings"))
        return DynamicRoPE(dims, base, _number(settings, "factor"), trained=trained)
    inverse = _plain(dims, base)
    if kind == "linear":
        return FixedRoPE(inverse / np.float32(_number(settings, "factor")))
    if kind == "llama3":
        return FixedRoPE(_llama3(inverse, settings))
    if kind == "yarn":
        # transformers looks for `truncate` beside the kinds of layers, where there are some, and finds none.
        return _yarn(settings, config, dims, base, truncate=nested or settings.get("truncate", True))
    return FixedRoPE(inverse)


def _plain(dims: int, base: float) -> np.ndarray:
    return (1 / np.float32(base) ** (np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims))).astype(np.float32)


def _proportional(d_head: int, base: float, share: float, factor: float) -> np.ndarray:
    """A share of the planes of whole heads is turned, those that turn most; the others stand still."""
    inverse = _plain(d_head, base) / np.float32(factor)
    inverse[int(share * d_head // 2) :] = 0
    return inverse


def _llama3(inverse: np.ndarray, settings: Settings) -> np.ndarray:
    """Long waves are slowed down by the factor, short ones kept, those between in between."""
    factor, original = _number(settings, "factor"), _number(settings, "original_max_position_embeddings")
    low, high = _number(settings, "low_freq_factor"), _number(settings, "high_freq_factor")
    waves = 2 * math.pi / inverse
    smooth = (original / waves - low) / (high - low)
    between = (1 - smooth) * inverse / factor + smooth * inverse
    found = np.where(waves > original / low, inverse / factor, inverse)
    return np.where((waves >= original / high) & (waves <= original / low), between, found).astype(np.float32)


def _yarn(settings: Settings, config: Settings, dims: int, base: float, truncate: bool) -> nn.Module:
    """YaRN (Peng et al. 2023): planes that turn often are kept, those that turn seldom slowed down, a ramp between."""
    original = _number(settings, "original_max_position_embeddings")
    factor = _number(settings, "factor", _number(config, "max_position_embeddings") / original)

    def plane(turns: float) -> float:
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = plane(_number(settings, "beta_fast", 32) or 32), plane(_number(settings, "beta_slow", 1) or 1)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    ramp = np.clip((np.arange(dims // 2) - low) / ((high - low) or 0.001), 0, 1).astype(np.float32)
    inverse = _plain(dims, base)
    return FixedRoPE(inverse / np.float32(factor) * ramp + inverse * (1 - ramp), _yarn_attention(settings, factor))


def _yarn_attention(settings: Settings, factor: float) -> float:
    def mscale(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1 if factor > 1 else 1.0

    if settings.get("attention_factor") is not None:
        return _number(settings, "attention_factor")
    if settings.get("mscale") and settings.get("mscale_all_dim"):
        return mscale(_number(settings, "mscale")) / mscale(_number(settings, "mscale_all_dim"))
    return mscale(1)


def _long(settings: Settings, config: Settings, dims: int, base: float, *, rereads: bool) -> nn.Module:
    original = int(_number(settings, "original_max_position_embeddings"))
    factor = _number(settings, "factor", _number(config, "max_position_embeddings") / original)
    attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    short, long = (
        _plain(dims, base) / np.array(_numbers(settings, name, dims // 2), dtype=np.float32)
        for name in ("short_factor", "long_factor")
    )
    return LongRoPE(short, long, _number(settings, "attention_factor", attention), original=original, rereads=rereads)


def _number(settings: Settings, name: str, default: float | None = None) -> float:
    value = settings.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0 or not math.isfinite(value):
        raise CheckpointError(f"config.json: RoPE's {name!r} is {value!r}, a positive number is needed")
    return float(value)


def _numbers(settings: Settings, name: str, n: int) -> list[float]:
    values = settings.get(name)
    if not isinstance(values, list) or len(values) != n:
        got = f"{len(values)} of them" if isinstance(values, list) else repr(values)
        raise CheckpointError(f"config.json: RoPE's {name!r} needs {n} numbers, one for each plane it turns; {got}")
    return [_number({name: value}, name) for value in values]
