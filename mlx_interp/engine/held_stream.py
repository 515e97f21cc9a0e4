"""A residual stream with attention patterns and norms' divisors held as they are on one prompt: what is left is affine.

With both held, attention adds an affine function of the stream, whatever an MLP adds is a vector of its own, and what
MLPs and logits read is affine as well. So everything written into the stream has a direct effect on everything read
later, and the effects add up (Ameisen et al. 2025, transformer-circuits.pub/2025/attribution-graphs). Forward, the map
gives what biases alone make of nothing; backward, what each place of the stream contributes to what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from mlx_interp.deferred import mx
from mlx_interp.engine.frozen import bias, centred, divisor, gain
from mlx_interp.engine.network import Network
from mlx_interp.errors import UnsupportedModel

Reads: TypeAlias = Literal["mlp_in", "resid_mid", "mlp_norm"]
"""What a transcoder reads: the stream after the norm before the MLP, before that norm, or after it without its gain."""
Across: TypeAlias = "Callable[[int, mx.array], mx.array | None] | None"
"""(layer, what it reads) -> what passes an MLP's place linearly: a transcoder's skip connection."""


def captured_sites(net: Network) -> list[str]:
    """Selectors of all that `HeldStream` is made of."""
    stream = ["resid_pre"] if net.parallel else ["resid_pre", "resid_mid"]
    return [*stream, "pattern", "z", "mlp_out", f"resid_post.{net.n_layers - 1}"]


def check_held(net: Network) -> None:
    """Raises UnsupportedModel where the stream is more than what embedding, attention and MLPs add."""
    family = net.family
    own = family.mixer is not None or family.own_inputs is not None or family.layer_scalar is not None
    if own or family.attn_gate or family.latent is not None or family.v_norm is not None or net.lenders:
        raise UnsupportedModel(
            f"the stream of {family.model_type} is not held by patterns and norms alone (a mixer in attention's place, "
            "gates, latent or borrowed keys, normed values, factors on layers): take node_scores, which needs "
            "gradients alone"
        )


def read_there(net: Network, layer: int, x: mx.array, reads: Reads) -> mx.array:
    """Stream at a layer's MLP -> what a transcoder reads there, by norms as they are, not held."""
    if reads == "resid_mid":
        return x
    if reads == "mlp_in":
        return net.mlp_in(layer, x)
    name = net.family.norms.before_mlp
    if name is None:
        return x
    norm = getattr(net.layers[layer], name)
    return (centred(norm, x) / divisor(norm, x)).astype(x.dtype)


@dataclass(frozen=True)
class HeldNetwork(Network):
    """A network whose norms divide by what they divided by on one prompt."""

    divisors: Mapping[tuple[str, int], mx.array] = field(default_factory=dict, hash=False, compare=False)
    """By a norm's name and its layer (-1 of the last norm): (1, pos, 1)."""

    def final(self, x: mx.array) -> mx.array:
        return self._held(getattr(self.decoder, self.family.norm), (self.family.norm, -1), x)

    def normalised(self, layer: int, x: mx.array) -> mx.array:
        """What the MLP reads, without the gain and bias of the norm before it."""
        name = self.family.norms.before_mlp
        if name is None:
            return x
        return (centred(getattr(self.layers[layer], name), x) / self.divisors[name, layer]).astype(x.dtype)

    def _before(self, layer: int, norm: str | None, x: mx.array) -> mx.array:
        return x if norm is None else self._held(getattr(self.layers[layer], norm), (norm, layer), x)

    def _after(self, layer: int, norm: str | None, x: mx.array) -> mx.array:
        if norm is not None:
            x = self._held(getattr(self.layers[layer], norm), (norm, layer), x)
        return super()._after(layer, None, x)

    def _held(self, norm: Any, of: tuple[str, int], x: mx.array) -> mx.array:
        width = x.shape[-1]
        return (centred(norm, x) * gain(norm, width) / self.divisors[of] + bias(norm, width)).astype(x.dtype)


@dataclass(frozen=True)
class HeldStream:
    """The affine stream of one prompt. States are (row, pos, d_model); every row is the same prompt."""

    net: HeldNetwork
    patterns: tuple[mx.array, ...]
    """Of each layer (1, head, query, key)."""

    @classmethod
    def of(cls, net: Network, states: Mapping[str, mx.array]) -> HeldStream:
        """From what a run of one prompt captured at `captured_sites`. Raises UnsupportedModel as `check_held`."""
        check_held(net)
        family, divisors = net.family, {}
        before_mlp = "resid_pre" if net.parallel else "resid_mid"
        for layer in range(net.n_layers):
            module = net.layers[layer]
            reads = {family.norms.before_attn: "resid_pre", family.norms.before_mlp: before_mlp}
            for name, site in reads.items():
                if name is not None:
                    divisors[name, layer] = divisor(getattr(module, name), states[f"{site}.{layer}"])
            if (after := family.norms.after_attn) is not None:
                z = states[f"z.{layer}"]
                out = getattr(getattr(module, family.attention), family.out)(z.reshape(*z.shape[:-2], -1))
                divisors[after, layer] = divisor(getattr(module, after), out)
        last = divisor(getattr(net.decoder, family.norm), states[f"resid_post.{net.n_layers - 1}"])
        held = HeldNetwork(net.mlx_model, net.family, net.config, {**divisors, (family.norm, -1): last})
        return cls(held, tuple(states[f"pattern.{layer}"] for layer in range(net.n_layers)))

    @property
    def n_layers(self) -> int:
        return self.net.n_layers

    # The affine map, forward.

    def attention(self, layer: int, x: mx.array) -> mx.array:
        """Stream before a layer -> what its attention adds."""
        net = self.net
        v = net.qkv_pre(layer, net.attn_in(layer, x))[2].transpose(0, 2, 1, 3)
        pattern = self.patterns[layer].astype(v.dtype)
        z = net.mix(mx.broadcast_to(pattern, (v.shape[0], *pattern.shape[1:])), v)
        return net.attn_out(layer, z.transpose(0, 2, 1, 3))

    def read(self, layer: int, x: mx.array, reads: Reads) -> mx.array:
        """Stream at a layer's MLP -> what a transcoder there reads."""
        if reads == "resid_mid":
            return x
        return self.net.normalised(layer, x) if reads == "mlp_norm" else self.net.mlp_in(layer, x)

    def logits(self, x: mx.array) -> mx.array:
        """Last stream (..., d_model) at the prompt's end -> logits before a cap (..., d_vocab)."""
        net = self.net
        end = {of: by[:, -1:] for of, by in net.divisors.items() if of[1] == -1}
        ended = HeldNetwork(net.mlx_model, net.family, net.config, end)
        return net.unembed(ended.final(x[:, None]), capped=False)[:, 0]

    def forward(self, x: mx.array, added: Callable[[int, mx.array], mx.array]) -> Iterator[mx.array]:
        """The stream at each layer's MLP, and then the last one. added: (layer, that stream) -> what its MLP adds."""
        for layer in range(self.n_layers):
            mixed = x + self.attention(layer, x)
            here = x if self.net.parallel else mixed
            yield here
            x = mixed + added(layer, here)
        yield x

    # And backward.

    def of_read(self, layer: int, slope: mx.array, reads: Reads) -> mx.array:
        """Slopes by what is read at a layer's MLP -> by the stream there."""
        return self._back(lambda x: self.read(layer, x, reads), slope)

    def of_logits(self, slope: mx.array) -> mx.array:
        """Slopes by logits (row, d_vocab) -> by the last stream, at the prompt's end alone (row, d_model)."""
        return self._back(self.logits, slope, like=(slope.shape[0], self.net.d_model))

    def below(self, slope: mx.array, layer: int, across: Across = None) -> Iterator[tuple[int, mx.array]]:
        """Slopes by the stream at a layer's MLP -> (layer, slope by its `resid_post`) of every layer below, then (-1,
        slope by the embedding). What an MLP adds has the slope of its layer's resid_post. layer: n_layers for slopes
        by the last stream.
        """
        if layer < self.n_layers:
            slope = slope if self.net.parallel else slope + self._of_attention(layer, slope)
        for below in range(min(layer, self.n_layers) - 1, -1, -1):
            yield below, slope
            at_mlp = across(below, slope) if across is not None else None
            slope = self._below(below, slope, at_mlp)
        yield -1, slope

    def _below(self, layer: int, slope: mx.array, at_mlp: mx.array | None) -> mx.array:
        """Slope by resid_post, and what comes back through the MLP's place -> slope by resid_pre."""
        if at_mlp is not None and not self.net.parallel:
            slope = slope + at_mlp
        back = slope + self._of_attention(layer, slope)
        return back if at_mlp is None or not self.net.parallel else back + at_mlp

    def _of_attention(self, layer: int, slope: mx.array) -> mx.array:
        return self._back(lambda x: self.attention(layer, x), slope)

    def _back(
        self, function: Callable[[mx.array], mx.array], slope: mx.array, like: tuple[int, ...] | None = None
    ) -> mx.array:
        """An affine function's slope does not depend on where it is taken: at 0."""
        dtype = self.net.dtype
        at = mx.zeros(like or slope.shape, dtype)
        found: mx.array = mx.vjp(function, [at], [slope.astype(dtype)])[1][0]
        return found.astype(mx.float32)
