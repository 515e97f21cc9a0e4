"""Activations, logits and gradients that reading a model gives back, as plain arrays."""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_interp import sites
from mlx_interp.deferred import mx
from mlx_interp.errors import SiteError
from mlx_interp.shapes import shown
from mlx_interp.sites import Site
from mlx_interp.transformer_lens_names import Names, own_name, transformer_lens_name


class BySite(Mapping[str, "mx.array"]):
    """Arrays by the name of their site: keys in the order of the forward pass, any of a site's names to look one up."""

    n_layers: int
    names: Names = "own"
    """By whose names arrays are given; both are taken."""
    sites: tuple[str, ...] = ()
    """Names of the sites that the model has."""

    @property
    def _held(self) -> Mapping[Site, mx.array]:
        raise NotImplementedError

    def __getitem__(self, name: str) -> mx.array:
        """One site's array, by any of its names. Raises SiteError if it was not captured."""
        return _of(self._held, self._own(name), self.n_layers)

    def _own(self, name: str) -> str:
        return own_name(name, self.sites) if self.names == "transformer_lens" else name

    def __iter__(self) -> Iterator[str]:
        told = (str(site) for site in _in_order(self._held))
        return (transformer_lens_name(name, self.sites) for name in told) if self.names != "own" else told

    def __len__(self) -> int:
        return len(self._held)

    def __bool__(self) -> bool:
        return True  # logits alone are something too

    def __contains__(self, name: object) -> bool:
        try:
            return sites.parse_one(self._own(name), self.n_layers) in self._held  # type: ignore[arg-type]
        except SiteError:
            return False

    def get(self, name: str, default: Any = None) -> Any:
        """One site's array, or `default` if it was not captured."""
        try:
            return self[name]
        except SiteError:
            return default

    def keys(self) -> KeysView[str]:
        """Names of what was captured."""
        return dict.fromkeys(self).keys()  # a dict's own view shows the names, and no array

    def stack(self, name: str) -> mx.array:
        """All layers of a site as one array (n_layers, batch, pos, ...)."""
        return _stacked(self._held, name, self.n_layers)

    def _told(self, **others: Any) -> str:
        """Name, lengths and shapes; the layers of a site, which are alike, in one line."""
        sizes: dict[str, tuple[int, ...]] = {}
        layers: dict[str, list[int]] = {}
        for site in _in_order(self._held):
            sizes[site.name] = tuple(self._held[site].shape)
            layers.setdefault(site.name, []).append(site.layer)
        head = ", ".join(f"{name}={shown(value)}" for name, value in others.items() if value is not None)
        lines = [f"  {_span(name, layers[name])}  {sizes[name]}" for name in sizes]
        return "\n".join([f"{type(self).__name__}({head})" + (":" if lines else ", nothing captured"), *lines])


@dataclass(frozen=True, eq=False, repr=False)
class Activations(BySite):
    """Logits and captured sites of a run or a sweep, as plain arrays: a mapping from names of sites.

    Rows are prompts (or variants). Shorter prompts are left-aligned: row i holds `lengths[i]` positions, then zeros.
    """

    logits: mx.array | None
    lengths: list[int]
    n_layers: int
    captured: dict[Site, mx.array]
    names: Names = "own"
    sites: tuple[str, ...] = ()

    @property
    def _held(self) -> Mapping[Site, mx.array]:
        return self.captured

    def __repr__(self) -> str:
        return self._told(logits=self.logits, lengths=self.lengths)


@dataclass(frozen=True, eq=False, repr=False)
class Gradients(BySite):
    """Gradients of a metric by activations, from `Model.gradients`: what it would gain per unit of change at each site.

    A mapping from names of sites. Rows are prompts; row i holds `lengths[i]` positions, then zeros. Gradients are
    float32.
    """

    metric: mx.array
    """(batch,)"""
    activations: Mapping[Site, mx.array]
    slopes: Mapping[Site, mx.array]
    lengths: list[int]
    n_layers: int

    @property
    def _held(self) -> Mapping[Site, mx.array]:
        return self.slopes

    def activation(self, name: str) -> mx.array:
        """The activation itself. Raises SiteError if it was not captured."""
        return _of(self.activations, name, self.n_layers)

    def __repr__(self) -> str:
        return self._told(metric=self.metric, lengths=self.lengths)


def _in_order(held: Mapping[Site, mx.array]) -> list[Site]:
    return sorted(held, key=lambda site: site.depth)


def _span(name: str, layers: Sequence[int]) -> str:
    """The selector of some layers of a site: `resid_post.0-11`, `z.3`."""
    if layers == [-1]:
        return name
    whole = len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{name}.{layers[0]}-{layers[-1]}" if whole else f"{name}.{','.join(map(str, layers))}"


def _of(captured: Mapping[Site, mx.array], name: str, n_layers: int) -> mx.array:
    site = sites.parse_one(name, n_layers)
    if site not in captured:
        held = ", ".join(map(str, _in_order(captured))) or "nothing"
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
    if site.kind.of_edges:  # held as (batch, query, head, key)
        x = x.swapaxes(1, 2)
    numbers = plain(x)
    assert numbers is not None
    return numbers


def without_padding(x: mx.array, lengths: list[int]) -> mx.array:
    if len(set(lengths)) == 1:
        return x
    real = mx.arange(x.shape[1])[None] < mx.array(lengths)[:, None]
    return mx.where(real.reshape(*real.shape, *(1,) * (x.ndim - 2)), x, mx.zeros((), dtype=x.dtype))
