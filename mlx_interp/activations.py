"""Activations, logits and gradients that reading a model gives back, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_interp import sites
from mlx_interp.deferred import mx
from mlx_interp.errors import SiteError
from mlx_interp.sites import Site


@dataclass(frozen=True)
class Activations:
    """Logits and captured sites of a run or a sweep, as plain arrays.

    Rows are prompts (or variants). Shorter prompts are left-aligned: row i holds `lengths[i]` positions, then zeros.
    """

    logits: mx.array | None
    lengths: list[int]
    n_layers: int
    captured: dict[Site, mx.array]

    def __getitem__(self, name: str) -> mx.array:
        """One site's activations, by any of its names. Raises SiteError if it was not captured."""
        return _of(self.captured, name, self.n_layers)

    def stack(self, name: str) -> mx.array:
        """All layers of a site as one array (n_layers, batch, pos, ...)."""
        return _stacked(self.captured, name, self.n_layers)


@dataclass(frozen=True)
class Gradients:
    """Gradients of a metric by activations, from `Model.gradients`: what it would gain per unit of change at each site.

    Rows are prompts; row i holds `lengths[i]` positions, then zeros. Gradients are float32.
    """

    metric: mx.array
    """(batch,)"""
    activations: Mapping[Site, mx.array]
    slopes: Mapping[Site, mx.array]
    lengths: list[int]
    n_layers: int

    def __getitem__(self, name: str) -> mx.array:
        """d metric / d activation of one site, in its shape. Raises SiteError if it was not captured."""
        return _of(self.slopes, name, self.n_layers)

    def activation(self, name: str) -> mx.array:
        """The activation itself. Raises SiteError if it was not captured."""
        return _of(self.activations, name, self.n_layers)

    def stack(self, name: str) -> mx.array:
        """The gradients of all layers of a site as one array (n_layers, batch, pos, ...)."""
        return _stacked(self.slopes, name, self.n_layers)


def _of(captured: Mapping[Site, mx.array], name: str, n_layers: int) -> mx.array:
    site = sites.parse_one(name, n_layers)
    if site not in captured:
        held = ", ".join(str(s) for s in sorted(captured, key=lambda s: s.depth)) or "nothing"
        raise SiteError(f"{site} was not captured (captured: {held}): add capture=[{str(site)!r}]")
    return captured[site]


def _stacked(captured: Mapping[Site, mx.array], name: str, n_layers: int) -> mx.array:
    return mx.stack([_of(captured, str(site), n_layers) for site in sites.parse(name, n_layers)])


def plain(x: mx.array | None) -> mx.array | None:
    """bfloat16 becomes float32, which holds it exactly: numpy knows no bfloat16."""
    return x.astype(mx.float32) if x is not None and x.dtype == mx.bfloat16 else x


def readable(site: Site, x: mx.array, lengths: list[int]) -> mx.array:
    """A captured activation in its site's axes, zero where a prompt has no position."""
    x = without_padding(x, lengths)
    if site.name == "pattern":  # held as (batch, query, head, key)
        x = x.swapaxes(1, 2)
    numbers = plain(x)
    assert numbers is not None
    return numbers


def without_padding(x: mx.array, lengths: list[int]) -> mx.array:
    if len(set(lengths)) == 1:
        return x
    real = mx.arange(x.shape[1])[None] < mx.array(lengths)[:, None]
    return mx.where(real.reshape(*real.shape, *(1,) * (x.ndim - 2)), x, mx.zeros((), dtype=x.dtype))
