"""Known forms of an MLP's activation: (mlx-lm's MLP, its input) -> what enters its down projection."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.activations import swiglu


def _fused_swiglu(mlp: Any, x: mx.array) -> mx.array:
    gate, up = mx.split(mlp.gate_up_proj(x), 2, axis=-1)
    out: mx.array = swiglu(gate, up)
    return out


ACTIVATIONS: dict[str, Any] = {
    "swiglu": lambda mlp, x: swiglu(mlp.gate_proj(x), mlp.up_proj(x)),
    "geglu_tanh": lambda mlp, x: nn.gelu_approx(mlp.gate_proj(x)) * mlp.up_proj(x),
    "geglu": lambda mlp, x: nn.gelu(mlp.gate_proj(x)) * mlp.up_proj(x),
    "fused_swiglu": _fused_swiglu,
    "gelu_tanh": lambda mlp, x: nn.gelu_approx(mlp.c_fc(x)),
}
