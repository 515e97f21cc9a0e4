"""Known forms of an MLP: which matrices its input passes, and what of their results enters the down projection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mlx_interp.deferred import mlx_lm, mx, nn

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"


@dataclass(frozen=True)
class Form:
    """An MLP opened: `combine` of what each of its first matrices gives."""

    matrices: tuple[str, ...]
    """Names of the first matrices: gate and up, or up alone."""
    combine: Callable[..., mx.array]
    """(gate, up) or (up) -> what enters the down projection."""
    fused: bool = False
    """Gate and up are the halves of one matrix."""
    host: Callable[..., Floats] | None = None
    """`combine` in NumPy, for `engine.host`; None where there is nothing faster."""

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


def _host_swiglu(gate: Floats, up: Floats) -> Floats:
    with np.errstate(all="ignore"):
        out = np.exp(-gate)
        out += 1
        np.divide(gate, out, out=out)
        out *= up
    return out


def _host_gelu_tanh(up: Floats) -> Floats:
    with np.errstate(all="ignore"):
        out = up * up
        out *= np.float32(0.044715)
        out += 1
        out *= up
        out *= np.float32(math.sqrt(2 / math.pi))
        np.tanh(out, out=out)
        out += 1
        out *= up
        out *= np.float32(0.5)
    return out


GATE_UP = ("gate_proj", "up_proj")
FORMS: dict[str, Form] = {
    "swiglu": Form(GATE_UP, _swiglu, host=_host_swiglu),
    "geglu_tanh": Form(
        GATE_UP, lambda gate, up: nn.gelu_approx(gate) * up, host=lambda gate, up: _host_gelu_tanh(gate) * up
    ),
    "geglu": Form(GATE_UP, lambda gate, up: nn.gelu(gate) * up),
    "fused_swiglu": Form(("gate_up_proj",), _swiglu, fused=True, host=_host_swiglu),
    "gelu_tanh": Form(("c_fc",), gelu_tanh, host=_host_gelu_tanh),
}
