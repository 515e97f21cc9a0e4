"""Known forms of an MLP's activation: (mlx-lm's MLP, its input) -> what enters its down projection."""

from __future__ import annotations

from typing import Any

from mlx_interp.deferred import mlx_lm, mx, nn


def _fused_swiglu(mlp: Any, x: mx.array) -> mx.array:
    gate, up = mx.split(mlp.gate_up_proj(x), 2, axis=-1)
    out: mx.array = mlx_lm.models.activations.swiglu(gate, up)
    return out


ACTIVATIONS: dict[str, Any] = {
    "swiglu": lambda mlp, x: mlx_lm.models.activations.swiglu(mlp.gate_proj(x), mlp.up_proj(x)),
    "geglu_tanh": lambda mlp, x: nn.gelu_approx(mlp.gate_proj(x)) * mlp.up_proj(x),
    "geglu": lambda mlp, x: nn.gelu(mlp.gate_proj(x)) * mlp.up_proj(x),
    "fused_swiglu": _fused_swiglu,
    "gelu_tanh": lambda mlp, x: nn.gelu_approx(mlp.c_fc(x)),
}
