"""Known forms of an MLP: which matrices its input passes, and what of their results enters the down projection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlx_interp.deferred import mlx_lm, mx, nn


@dataclass(frozen=True)
class Form:
    """An MLP opened: `combine` of what each of its first matrices gives."""

    matrices: tuple[str, ...]
    """Names of the first matrices: gate and up, or up alone."""
    combine: Callable[..., mx.array]
    """(gate, up) or (up) -> what enters the down projection."""
    fused: bool = False
    """Gate and up are the halves of one matrix."""

    @property
    def gated(self) -> bool:
        return self.fused or len(self.matrices) == 2

    def opened(self, mlp: Any, x: mx.array) -> tuple[mx.array, ...]:
        """What the MLP reads (..., d_model) -> gate and up, or up alone, (..., d_mlp) each."""
        if self.fused:
            gate, up = mx.split(getattr(mlp, self.matrices[0])(x), 2, axis=-1)
            return gate, up
        return tuple(getattr(mlp, name)(x) for name in self.matrices)


def _swiglu(gate: mx.array, up: mx.array) -> mx.array:
    out: mx.array = mlx_lm.models.activations.swiglu(gate, up)
    return out


def gelu_tanh(up: mx.array) -> mx.array:
    """GELU's tanh approximation."""
    out: mx.array = nn.gelu_approx(up)
    return out


GATE_UP = ("gate_proj", "up_proj")
FORMS: dict[str, Form] = {
    "swiglu": Form(GATE_UP, _swiglu),
    "geglu_tanh": Form(GATE_UP, lambda gate, up: nn.gelu_approx(gate) * up),
    "geglu": Form(GATE_UP, lambda gate, up: nn.gelu(gate) * up),
    "fused_swiglu": Form(("gate_up_proj",), _swiglu, fused=True),
    "gelu_tanh": Form(("c_fc",), gelu_tanh),
}
