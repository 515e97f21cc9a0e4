"""Activation functions in NumPy where MLX computes on the CPU: sweeps and passes of no gradient spend their time there.

MLX's exponential takes some 25 ns a number on Linux (as long as the matrix product before it), NumPy's .6 ns. Both
round to float32, so that logits differ in the last bits, as they do between batches of different size. A run keeps
MLX's own, and is mlx-lm's bit for bit; on a GPU, on a Mac and in other dtypes so does everything.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.network import Network

WORTH = 2**16
"""Numbers from which on NumPy is taken: before, waiting for the array costs more than MLX's exponential."""
MADE = "made_on_host"


@dataclass(frozen=True)
class HostNetwork(Network):
    """A network whose MLPs combine gate and up in NumPy. Nothing can be differentiated through it."""

    def combined(self, layer: int, *gate_up: mx.array) -> mx.array:
        form = self.family.form
        assert form is not None
        if form.host is None or gate_up[0].size < WORTH or (self.relay is not None and self.relay.absent):
            return super().combined(layer, *gate_up)
        return mx.array(form.host(*(np.asarray(x) for x in gate_up)))


def on_host(net: Network) -> Network:
    """The same network with activation functions in NumPy, where that is faster and equal."""
    form = net.family.form
    slow = sys.platform == "linux" and mx.default_device() == mx.Device(mx.cpu)
    if not slow or type(net) is not Network or form is None or form.host is None or net.dtype != mx.float32:
        return net
    held = vars(net)  # beside its cached properties: small sweeps would notice one made anew
    if MADE not in held:
        held[MADE] = HostNetwork(*(getattr(net, field.name) for field in fields(net)))
    made: HostNetwork = held[MADE]
    return made
