"""Edges between features: how much of an upstream latent's effect passes one downstream latent (Marks et al. 2025).

1. What a downstream node (latent or error) is worth is the mean gradient g of m along what it writes, position by
   position, as in `features`.
2. phi = sum over positions of g times the node's value is differentiated by the upstream site: one vector-Jacobian
   product for each downstream node that is kept. The edge is this slope along what the upstream node writes, times the
   upstream node's change from clean to counterfactual, summed over positions. "attribution" takes the slope on the
   clean prompt; "ig-activations" averages it along the upstream site's way, j = 0 ... steps - 1, on which all upstream
   nodes move together: on the embedded models it agrees less with patching single edges.
3. Sites with autoencoders between the two are held at their clean values: their share belongs to their own edges. All
   else between, stream, attention and MLPs, hands on what reaches it. What the stream alone hands on (decoder times
   downstream encoder) is given beside it.
4. The logits are the last target: what reaches m past all later autoencoders.

Across a stream site that has an autoencoder nothing can pass, so there are no edges there. `feature_edge_effects` is
the exact counterpart: the upstream node takes its counterfactual value, but only as the one downstream node sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_interp.circuits.attribution import metric_errors, require_slope, rows_at_once
from mlx_interp.circuits.exact import sweep_metric
from mlx_interp.circuits.features import (
    IG_STEPS,
    FeatureMethod,
    Floats,
    check_saes,
    flat,
    gradients_of,
    mean_slope,
    node_changes,
    parts,
    replaced,
)
from mlx_interp.circuits.pairs import Metric, Pair, log_odds
from mlx_interp.deferred import mx
from mlx_interp.errors import CircuitError
from mlx_interp.interventions import Intervention, Patch
from mlx_interp.model import Model
from mlx_interp.sae import SAE
from mlx_interp.sites import parse_one

STREAM = ("resid_pre", "resid_mid", "resid_post")
WRITERS = (*STREAM, "attn_out", "mlp_out")
"""Sites whose activation is part of the stream as it is."""
Link = tuple[int, int]
"""Places of the upstream and the downstream autoencoder; as many as there are stands for the logits."""
FeatureEdge = tuple[int, int, int, int]
"""Place of the upstream autoencoder and number of its node; place of the downstream one and number of its node."""


@dataclass(frozen=True)
class FeatureEdges:
    """Estimated effects of the edges of one link, in units of the metric: (n_pairs, n_targets, d_sae + 1).

    targets: numbers of the downstream nodes; of the logits (0,). stream: what the stream alone hands on, of `values`.
    """

    link: Link
    targets: tuple[int, ...]
    values: Floats
    stream: Floats


def links(model: Model, saes: Sequence[SAE]) -> list[Link]:
    """Pairs of sites with edges between them: no third autoencoder sits on the stream in between."""
    depths = [parse_one(sae.site, model.n_layers).depth for sae in saes]
    walls = [depth for depth, sae in zip(depths, saes, strict=True) if sae.site.partition(".")[0] in STREAM]
    ends = [*depths, (2_000_000, 0)]
    return [
        (first, last)
        for first, start in enumerate(depths)
        for last, end in enumerate(ends)
        if start < end and not any(start < wall < end for wall in walls)
    ]


def feature_edges(
    model: Model,
    pairs: Sequence[Pair],
    saes: Sequence[SAE],
    kept: Sequence[Sequence[int]],
    *,
    metric: Metric | None = None,
    method: FeatureMethod = "attribution",
    steps: int = IG_STEPS,
) -> list[FeatureEdges]:
    """Estimated effect of every edge into the nodes kept of each autoencoder, and into the logits.

    kept: numbers of downstream nodes of each autoencoder, its error being number d_sae; one backward pass for each of
    them, pair and link. Raises CircuitError for numbers that are no nodes, and as `feature_scores`.
    """
    check_saes(model, saes)
    _check_kept(saes, kept)
    steps = gradients_of(method, steps)
    metric = metric or log_odds(model)
    found = []
    for link in links(model, saes):
        targets = tuple(kept[link[1]]) if link[1] < len(saes) else (0,)
        if targets:
            shape = (len(pairs), len(targets), saes[link[0]].d_sae + 1)
            found.append(FeatureEdges(link, targets, np.zeros(shape, np.float32), np.zeros(shape, np.float32)))
    for row, pair in enumerate(pairs):
        ends = _Ends(model, pair, saes, metric, steps)
        for edges in found:
            edges.values[row], edges.stream[row] = ends.edges(edges.link, edges.targets)
    if found:
        require_slope(np.concatenate([edges.values.ravel() for edges in found]))
    return found


def _check_kept(saes: Sequence[SAE], kept: Sequence[Sequence[int]]) -> None:
    if len(kept) != len(saes):
        raise CircuitError(f"kept names nodes of {len(kept)} autoencoders, there are {len(saes)}: give a list for each")
    for sae, numbers in zip(saes, kept, strict=True):
        if outside := [number for number in numbers if not 0 <= number <= sae.d_sae]:
            raise CircuitError(f"{sae} has nodes 0 to {sae.d_sae} (the last one is its error), not {outside[0]}")


class _Ends:
    """One pair's activations at all sites, clean and counterfactual, and the gradients of m there."""

    def __init__(self, model: Model, pair: Pair, saes: Sequence[SAE], metric: Metric, steps: int) -> None:
        self.model, self.pair, self.saes, self.metric, self.steps = model, pair, saes, metric, steps
        sites = [sae.site for sae in saes]
        self.here, self.there = (model.run(p, capture=sites, logits="none") for p in (pair.clean, pair.counterfactual))
        self.slopes: dict[str, mx.array] = {}

    def slope(self, sae: SAE) -> mx.array:
        """Mean gradient of m at a site (pos, width), nothing held."""
        if sae.site not in self.slopes:
            a, b = self.here[sae.site], self.there[sae.site]
            self.slopes[sae.site] = flat(mean_slope(self.model, self.pair, sae, a, b, self.metric, self.steps))
        return self.slopes[sae.site]

    def held(self, link: Link) -> list[Intervention]:
        """Sites between the two ends at their clean values."""
        return [Patch(self.saes[i].site, self.here[self.saes[i].site][0]) for i in between(self.model, self.saes, link)]

    def way(self, sae: SAE, n: int) -> list[Intervention]:
        """The upstream site from clean to counterfactual, for n targets: rows are (target, step)."""
        if self.steps == 1:
            return []
        a, b = self.here[sae.site], self.there[sae.site]
        shares = mx.array([j / self.steps for j in range(self.steps)]).reshape(-1, *[1] * (a.ndim - 1))
        return [Patch(sae.site, mx.concatenate([a + shares * (b - a)] * n))]

    def edges(self, link: Link, targets: Sequence[int]) -> tuple[Floats, Floats]:
        """(n_targets, d_sae + 1) twice: all that passes, and what the stream alone hands on."""
        sae, last = self.saes[link[0]], len(self.saes) == link[1]
        a, b = flat(self.here[sae.site]), flat(self.there[sae.site])
        found: list[list[Floats]] = [[], []]
        step = rows_at_once(self.model, self.pair.length, self.steps)
        for start in range(0, len(targets), step):
            some = targets[start : start + step]
            slopes = self._to_logits(link) if last else self._to_nodes(link, some)
            for rows, slope in zip(found, slopes, strict=True):
                rows += [node_changes(sae, a, b, one) for one in slope]
        return np.stack(found[0]), np.stack(found[1])

    def _to_nodes(self, link: Link, targets: Sequence[int]) -> tuple[mx.array, mx.array]:
        first, last = (self.saes[place] for place in link)
        phi = _of_nodes(last, targets, self.slope(last), self.steps)
        through = last.site if passes_by_stream(first, last) else None
        return self._slopes(first, phi, len(targets), self.held(link), through, of=last.site)

    def _to_logits(self, link: Link) -> tuple[mx.array, mx.array]:
        first, end = self.saes[link[0]], f"resid_post.{self.model.n_layers - 1}"
        through = end if first.site.partition(".")[0] in WRITERS else None
        return self._slopes(first, self.metric([self.pair] * self.steps), 1, self.held(link), through)

    def _slopes(
        self,
        first: SAE,
        phi: Callable[[mx.array], mx.array],
        n: int,
        held: Sequence[Intervention],
        through: str | None,
        of: str | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Mean slopes of phi at the upstream site, and where the stream ends: (target, pos, width) twice."""
        sites = [first.site] if through in (None, first.site) else [first.site, str(through)]
        prompts = [self.pair.clean] * (n * self.steps)
        with metric_errors():
            found = self.model.gradients(prompts, phi, sites, interventions=[*self.way(first, n), *held], of=of)

        def mean(site: str) -> mx.array:
            slope = found[site]
            return slope.reshape(n, self.steps, slope.shape[1], -1).mean(1)

        whole = mean(first.site)
        return whole, mx.zeros_like(whole) if through is None else mean(through)


def between(model: Model, saes: Sequence[SAE], link: Link) -> list[int]:
    """Places of the autoencoders whose sites lie between the two ends of a link."""
    depths = [parse_one(sae.site, model.n_layers).depth for sae in saes]
    end = depths[link[1]] if link[1] < len(saes) else (2_000_000, 0)
    return [place for place, depth in enumerate(depths) if depths[link[0]] < depth < end]


def passes_by_stream(first: SAE, last: SAE) -> bool:
    """Whether what the first writes is part of what the last one reads."""
    return first.site.partition(".")[0] in WRITERS and last.site.partition(".")[0] in STREAM


def _of_nodes(sae: SAE, targets: Sequence[int], slope: mx.array, steps: int) -> Callable[[mx.array], mx.array]:
    """phi of every row (target, step): the target's value at each position, weighted by what it is worth there."""
    errors = mx.repeat(mx.array([target == sae.d_sae for target in targets]), steps)
    numbers = mx.repeat(mx.array([min(target, sae.d_sae - 1) for target in targets]), steps)
    worth = slope @ sae.directions[numbers].T  # (pos, row)

    def phi(x: mx.array) -> mx.array:
        rows = x.reshape(*x.shape[:2], -1).astype(mx.float32)
        f = sae.encode(rows)
        index = mx.broadcast_to(numbers[:, None, None], (*rows.shape[:2], 1))
        latents = (mx.take_along_axis(f, index, axis=-1)[..., 0] * worth.T).sum(-1)
        return mx.where(errors, ((rows - sae.decode(f)) * slope).sum((1, 2)), latents)

    return phi


def feature_edge_effects(
    model: Model,
    pairs: Sequence[Pair],
    saes: Sequence[SAE],
    edges: Sequence[FeatureEdge],
    *,
    metric: Metric | None = None,
) -> Floats:
    """Exact effect of each edge: (n_pairs, n_edges), in units of the metric.

    The upstream node takes its counterfactual value, sites between are held; what the downstream node becomes is put,
    alone, into the clean run. Raises CircuitError for an edge between sites that have no edges.
    """
    check_saes(model, saes)
    metric = metric or log_odds(model)
    known = set(links(model, saes))
    for first, _, last, _ in edges:
        if (first, last) not in known:
            raise CircuitError(f"no edges lead from autoencoder {first} to {last}: there are {sorted(known)}")
    return np.array([_exact(_Ends(model, pair, saes, metric, 1), edges) for pair in pairs])


def _exact(ends: _Ends, edges: Sequence[FeatureEdge]) -> Floats:
    found = np.zeros(len(edges))
    clean = sweep_metric(ends.model, ends.pair, [[]], ends.metric)[0]
    for link in dict.fromkeys((first, last) for first, _, last, _ in edges):
        mine = [n for n, edge in enumerate(edges) if (edge[0], edge[2]) == link]
        sources = list(dict.fromkeys(edges[n][1] for n in mine))
        changed = [[_counterfactual(ends, link[0], node), *ends.held(link)] for node in sources]
        if link[1] == len(ends.saes):
            measured = sweep_metric(ends.model, ends.pair, changed, ends.metric)
            found[mine] = [measured[sources.index(edges[n][1])] - clean for n in mine]
            continue
        seen = list(_seen(ends, link, changed))
        variants = [[_node_at(ends.saes[link[1]], edges[n][3], *seen[sources.index(edges[n][1])])] for n in mine]
        found[mine] = sweep_metric(ends.model, ends.pair, variants, ends.metric) - clean
    return found


def _counterfactual(ends: _Ends, place: int, node: int) -> Intervention:
    """One upstream node at its counterfactual value."""
    sae = ends.saes[place]
    return _node_at(sae, node, *parts(sae, flat(ends.there[sae.site])))


def _node_at(sae: SAE, node: int, latents: mx.array, error: mx.array) -> Intervention:
    """One node, latent or error, at given values (pos, ...)."""
    if node < sae.d_sae:
        return sae.patch([node], latents[:, node : node + 1])
    return replaced(sae, np.arange(sae.d_sae + 1) < sae.d_sae, latents, error)


def _seen(ends: _Ends, link: Link, changed: Sequence[Sequence[Intervention]]) -> Iterator[tuple[mx.array, mx.array]]:
    """Latents and error of the downstream site in every run with an upstream node changed."""
    sae = ends.saes[link[1]]
    out: Any = ends.model.sweep(ends.pair.clean, changed, capture=sae.site, logits="none")
    for row in range(len(changed)):
        yield parts(sae, flat(out[sae.site][row : row + 1]))
