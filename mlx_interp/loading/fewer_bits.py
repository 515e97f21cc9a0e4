"""A model in fewer bits on loading: what mlx_lm.convert makes of it, without a folder of its own.

1. Layers that are quantised already are made dense, as `mlx_lm.convert --dequantize` does.
2. Floating weights take the dtype that the config names, if it names one.
3. mlx-lm quantises what it would quantise (affine; layers whose rows do not divide into groups stay as they are).
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

from mlx_interp.deferred import mlx_lm, mx, nn
from mlx_interp.errors import ConfigError
from mlx_interp.loading.profile import dequantize_layers

BITS, GROUP_SIZES = (2, 3, 4, 5, 6, 8), (32, 64, 128)
"""What MLX's affine quantisation knows."""
HALVES = ("float16", "bfloat16", "float32")


def check_bits(bits: object, group_size: object, *, split: bool, adapted: bool) -> None:
    """Raises ConfigError for bits or groups that MLX does not have, and for models that are split or adapted."""
    if bits is None:
        return
    if bits not in BITS or isinstance(bits, bool):
        raise ConfigError(f"bits={bits!r}: give one of {', '.join(map(str, BITS))}, or None for weights as stored")
    if group_size not in GROUP_SIZES:
        raise ConfigError(f"group_size={group_size!r}: give one of {', '.join(map(str, GROUP_SIZES))}")
    if split or adapted:
        other = "is split over processes" if split else "has an adapter"
        raise ConfigError(f"bits={bits}: a model that {other} is not quantised on loading: use mlx_lm.convert first")


def in_fewer_bits(network: nn.Module, config: dict[str, Any], bits: int, group_size: int) -> dict[str, Any]:
    """Quantise a loaded network, in place; the config that says so. Raises ConfigError where no layer can be."""
    dequantize_layers(network, None)
    asked = config.get("torch_dtype") or config.get("dtype") or (config.get("text_config") or {}).get("dtype")
    if asked in HALVES:
        network.set_dtype(getattr(mx, asked))
    plain = {name: value for name, value in config.items() if name not in ("quantization", "quantization_config")}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints bits a weight
        _, made = mlx_lm.utils.quantize_model(network, plain, group_size, bits)
    if not any(hasattr(module, "scales") for _, module in network.named_modules()):
        raise ConfigError(f"group_size={group_size}: no matrix of this model has rows of that many: take a smaller one")
    found: dict[str, Any] = made
    return found
