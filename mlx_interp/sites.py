"""Names of sites: where an activation can be read or changed. Parsed here and nowhere else.

A site is `name.layer` ("resid_post.7"); `final` has no layer. Layers count from 0, negative layers from the end. A
selector names several sites at once:

    resid_post            every layer            resid_post.8-20     a range, both ends included
    resid_post.0,5,10     a list                 resid_post.60%      by depth: 0% is the first layer, 100% the last
    residuals_5           = resid_pre.5          residuals_all, all  = resid_pre, every layer
    mlp_5, attention_5    = mlp_out.5, attn_out.5 (and mlp_all, attention_10-21, ...)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from mlx_interp.errors import SiteError, nearest


@dataclass(frozen=True)
class SiteKind:
    """What a site's name means."""

    name: str
    axes: tuple[str, ...]
    """Axes after (batch, pos), or (head, query, key) after batch (`of_edges`). kv_head: heads that share keys."""
    meaning: str
    writable: bool = True
    layered: bool = True
    stepwise: bool = False
    """Made position by position, each from the one before: what is done to one is in all that follow."""

    @property
    def has_heads(self) -> bool:
        return len(self.axes) > 1 and self.axes[0] in ("head", "kv_head", "key_head", "value_head", "slot")

    @property
    def of_edges(self) -> bool:
        """Whether it says something of every query and key, so that its positions are queries."""
        return self.axes[-1] == "key"


# In the order in which a layer computes them where its MLP reads what attention wrote. When each is computed, of what,
# is said by `engine/tables.py`.
KINDS: dict[str, SiteKind] = {
    kind.name: kind
    for kind in (
        SiteKind("resid_pre", ("d_model",), "residual stream before the layer"),
        SiteKind(
            "attn_in", ("d_model",), "what attention (or the mixer in its place) reads: the stream after its norm"
        ),
        SiteKind("conv_in", ("d_conv",), "what a mixer's convolution reads: queries, keys and values, or one vector"),
        SiteKind("conv_gate", ("d_conv",), "the gate on what a short convolution gives"),
        SiteKind("conv_out", ("d_conv",), "what a short convolution gives"),
        SiteKind("lin_q", ("key_head", "d_key"), "a linear layer's queries, as they read its state"),
        SiteKind("lin_k", ("key_head", "d_key"), "its keys, under which values are written"),
        SiteKind("lin_v", ("value_head", "d_value"), "its values"),
        SiteKind(
            "decay", ("value_head",), "what its state is multiplied by before a position writes: 1 forgets nothing"
        ),
        SiteKind("write", ("value_head",), "how much of a value is written, of what the state lacks of it: 0 to 1"),
        SiteKind(
            "time_step",
            ("value_head",),
            "a state space's time step: how much of a value is written, and how much is forgotten before",
        ),
        SiteKind(
            "state",
            ("value_head", "d_state"),
            "its state after a position wrote, (d_value, d_key) row by row: all later positions read it",
            stepwise=True,
        ),
        SiteKind(
            "mixed",
            ("value_head", "d_value"),
            "what queries read in the state; of a state space with a share of the value",
        ),
        SiteKind("mixer_gate", ("value_head", "d_value"), "the gate on it, before the non-linearity"),
        SiteKind("mixer_out", ("d_model",), "what a mixer that is no attention adds to the residual stream"),
        SiteKind("kv_latent", ("d_latent",), "the vector of which latent attention makes all heads' keys and values"),
        SiteKind("q_pre", ("head", "d_head"), "queries as their matrix gives them, before norm and RoPE"),
        SiteKind("k_pre", ("kv_head", "d_head"), "keys as their matrix gives them, before norm and RoPE"),
        SiteKind("q", ("head", "d_head"), "queries as they enter attention"),
        SiteKind("k", ("kv_head", "d_head"), "keys as they enter attention"),
        SiteKind("v", ("kv_head", "d_v"), "values as they enter attention"),
        SiteKind(
            "scores",
            ("head", "query", "key"),
            "what the softmax reads, scaled and capped; 0 where a query does not look",
        ),
        SiteKind("pattern", ("head", "query", "key"), "attention probabilities"),
        SiteKind("z", ("head", "d_v"), "each head's mixed values, before the output projection"),
        SiteKind("attn_gate", ("head", "d_v"), "the gate on z, before the sigmoid: the output projection reads both"),
        SiteKind("head_out", ("head", "d_model"), "each head's share of the output projection", writable=False),
        SiteKind("attn_out", ("d_model",), "what attention adds to the residual stream"),
        SiteKind("resid_mid", ("d_model",), "residual stream after attention"),
        SiteKind("mlp_in", ("d_model",), "what the MLP reads: the stream after the norm before it"),
        SiteKind("router", ("expert",), "the router's logit for each expert"),
        SiteKind("choice", ("expert",), "what experts are chosen by, the largest ones; weights do not follow it"),
        SiteKind("expert_weights", ("expert",), "each expert's weight in the MLP's output, 0 if it was not chosen"),
        SiteKind("experts", ("slot",), "numbers of the experts that are computed", writable=False),
        SiteKind("expert_out", ("slot", "d_model"), "what each of them gives, in the order of `experts`, not weighted"),
        SiteKind("shared_out", ("d_model",), "what the experts that every token takes give together"),
        SiteKind("mlp_gate", ("d_mlp",), "what the MLP's gate projection gives, before the non-linearity"),
        SiteKind("mlp_up", ("d_mlp",), "what its up projection gives; without a gate, before the non-linearity"),
        SiteKind("mlp_act", ("d_mlp",), "the MLP's hidden activations, before the down projection"),
        SiteKind("mlp_out", ("d_model",), "what the MLP adds to the residual stream"),
        SiteKind("ple_in", ("d_model",), "residual stream after the MLP, where a layer has an embedding of its own"),
        SiteKind("ple_gate", ("d_ple",), "the gate on that embedding, before its non-linearity"),
        SiteKind("ple", ("d_ple",), "a layer's own embedding of the token"),
        SiteKind("ple_out", ("d_model",), "what it adds to the residual stream, behind gate, projection and norm"),
        SiteKind("resid_post", ("d_model",), "residual stream after the layer"),
        SiteKind("final", ("d_model",), "after the last norm", layered=False),
    )
}
ALIASES = {"residuals": "resid_pre", "mlp": "mlp_out", "attention": "attn_out"}


@dataclass(frozen=True, order=True)
class Site:
    """One site of one layer; `layer` is -1 for `final`, which has none. Prints as it is written."""

    name: str
    layer: int

    @property
    def kind(self) -> SiteKind:
        return KINDS[self.name]

    @property
    def depth(self) -> tuple[int, int]:
        """Sorts sites in the order in which a forward pass meets them."""
        return (self.layer if self.kind.layered else 1_000_000, list(KINDS).index(self.name))

    def __str__(self) -> str:
        return f"{self.name}.{self.layer}" if self.kind.layered else self.name


def parse(selector: str, n_layers: int) -> list[Site]:
    """The sites that a selector names, in layer order. Raises SiteError, with the nearest names, for anything else."""
    return list(_parsed(_text(selector), n_layers))


@lru_cache(maxsize=4096)
def _parsed(selector: str, n_layers: int) -> tuple[Site, ...]:
    """Kept: a sweep's thousand variants name the same few sites again and again."""
    name, layers = _split(selector)
    if name not in KINDS:
        raise SiteError(f"no site {selector!r}: {nearest(name, [*KINDS, *ALIASES])}sites are {', '.join(KINDS)}")
    if not KINDS[name].layered:
        if layers not in ("", "all"):
            raise SiteError(f"site {name!r} has no layers: write {name!r} instead of {selector!r}")
        return (Site(name, -1),)
    return tuple(Site(name, layer) for layer in parse_layers(layers, n_layers, context=selector))


def parse_one(selector: str, n_layers: int) -> Site:
    """Like `parse`, for a selector that must name exactly one site."""
    sites = parse(selector, n_layers)
    if len(sites) != 1:
        raise SiteError(f"{selector!r} names {len(sites)} sites, one is needed: add a layer, e.g. {str(sites[0])!r}")
    return sites[0]


def names_layers(selector: str) -> bool:
    """Whether a selector says which layers: "pattern" and "pattern.all" name those that have the site."""
    return _split(_text(selector))[1] not in ("", "all")


def parse_all(selectors: str | Iterable[str], n_layers: int) -> list[Site]:
    """The sites of several selectors, each once, in the order of the forward pass."""
    chosen = [selectors] if isinstance(selectors, str) else selectors
    return sorted({site for selector in chosen for site in parse(selector, n_layers)}, key=lambda site: site.depth)


def parse_layers(text: str, n_layers: int, *, context: str = "") -> list[int]:
    """Layers from "all", "7", "-1", "8-20", "0,5,10" or "60%", in order, each once. Raises SiteError."""
    if text in ("", "all"):
        return list(range(n_layers))
    layers: set[int] = set()
    for part in text.split(","):
        layers.update(_part(part.strip(), n_layers, context or text))
    return sorted(layers)


def _text(selector: object) -> str:
    if isinstance(selector, str):
        return selector
    raise SiteError(f"a site is a string such as 'resid_post.7', not {selector!r}")


def _split(selector: str) -> tuple[str, str]:
    if selector == "all":
        return "resid_pre", ""
    name, _, layers = selector.partition(".")
    if name in KINDS:
        return name, layers
    alias, _, rest = selector.partition("_")
    if alias in ALIASES and rest and "." not in selector:
        return ALIASES[alias], rest
    return name, layers


def _part(part: str, n_layers: int, context: str) -> range | list[int]:
    if match := re.fullmatch(r"(-?\d+)", part):
        return [_layer(int(match[1]), n_layers, context)]
    if match := re.fullmatch(r"(\d+)-(\d+)", part):
        first, last = (_layer(int(text), n_layers, context) for text in match.groups())
        if first > last:
            raise SiteError(f"{context!r}: the range {part!r} runs backwards")
        return range(first, last + 1)
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)%", part):
        depth = float(match[1])
        if depth <= 100:
            return [round(depth / 100 * (n_layers - 1))]
    raise SiteError(f"{context!r}: {part!r} is no layer; write 7, -1, 8-20, 0,5,10, 60% or all")


def _layer(layer: int, n_layers: int, context: str) -> int:
    if not -n_layers <= layer < n_layers:
        raise SiteError(f"{context!r}: layer {layer} does not exist, the model has layers 0 to {n_layers - 1}")
    return layer % n_layers
