"""Circuits made of edges between features, evaluated exactly: each node reads only what its own edges carry.

1. At the lowest site the nodes that an edge leaves are as on the clean prompt, all others as on the counterfactual one.
2. At the next site each node that an edge reaches takes the value that it has when its edges carry what their nodes
   now are, and everything else the counterfactual run: one variant for each such node, all of them one sweep. Nodes
   that no edge reaches are as on the counterfactual prompt.
3. So upward to the logits. No edge is the counterfactual run, every edge into every node the clean one.

Sites must form a chain on the stream, so that each is all that the next one reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from mlx_interp.circuits.exact import sweep_metric
from mlx_interp.circuits.feature_edges import FeatureEdge, links
from mlx_interp.circuits.features import Floats, check_saes, flat, parts
from mlx_interp.circuits.pairs import Metric, Pair, log_odds
from mlx_interp.deferred import mx
from mlx_interp.errors import CircuitError
from mlx_interp.interventions import Intervention, Patch
from mlx_interp.model import Model
from mlx_interp.sae import SAE

State: TypeAlias = "tuple[mx.array, mx.array]"
"""Latents (pos, d_sae) and error (pos, width) of a site."""


def feature_edge_circuits(
    model: Model,
    pairs: Sequence[Pair],
    saes: Sequence[SAE],
    circuits: Sequence[Sequence[FeatureEdge]],
    *,
    metric: Metric | None = None,
) -> Floats:
    """The metric with every edge outside a circuit carrying the counterfactual: (n_pairs, n_circuits).

    saes: from below. Raises CircuitError where they are no chain on the stream.
    """
    check_saes(model, saes)
    chain = [(place, place + 1) for place in range(len(saes))]
    if links(model, saes) != chain:
        raise CircuitError(
            f"circuits of edges need autoencoders on the stream, from below; {', '.join(sae.site for sae in saes)} "
            "have other edges too"
        )
    metric = metric or log_odds(model)
    return np.array([[_evaluated(model, pair, saes, edges, metric) for edges in circuits] for pair in pairs])


def _evaluated(model: Model, pair: Pair, saes: Sequence[SAE], edges: Sequence[FeatureEdge], metric: Metric) -> float:
    sites = [sae.site for sae in saes]
    here, there = (model.run(p, capture=sites, logits="none") for p in (pair.clean, pair.counterfactual))
    other = [parts(sae, flat(there[sae.site])) for sae in saes]
    into: dict[tuple[int, int], list[int]] = {}
    for _, source, last, target in edges:
        into.setdefault((last, target), []).append(source)
    left = {source for first, source, _, _ in edges if first == 0}
    now = _mixed(other[0], parts(saes[0], flat(here[sites[0]])), sorted(left))
    for place in range(1, len(saes)):
        targets = sorted(target for last, target in into if last == place)
        upstream = place - 1
        variants = [
            [_as(saes[upstream], _mixed(other[upstream], now, into[place, target]), there[sites[upstream]])]
            for target in targets
        ]
        now = _reached(model, pair, saes[place], targets, variants, other[place])
    read = _mixed(other[-1], now, into.get((len(saes), 0), []))
    return float(sweep_metric(model, pair, [[_as(saes[-1], read, there[sites[-1]])]], metric)[0])


def _mixed(base: State, taken: State, nodes: Sequence[int]) -> State:
    """A site's state with some nodes taken from another one."""
    d_sae = base[0].shape[1]
    mask = np.zeros(d_sae + 1, bool)
    mask[list(nodes)] = True
    return mx.where(mx.array(mask[:-1]), taken[0], base[0]), taken[1] if mask[-1] else base[1]


def _as(sae: SAE, state: State, like: mx.array) -> Intervention:
    """The site's activation set to a state."""
    return Patch(sae.site, (sae.decode(state[0]) + state[1]).reshape(like.shape)[0])


def _reached(
    model: Model,
    pair: Pair,
    sae: SAE,
    targets: Sequence[int],
    variants: Sequence[Sequence[Intervention]],
    other: State,
) -> State:
    """The counterfactual state with each target as its own variant has it."""
    if not targets:
        return other
    out: Any = model.sweep(pair.clean, variants, capture=sae.site, logits="none")
    state = other
    for row, target in enumerate(targets):
        state = _mixed(state, parts(sae, flat(out[sae.site][row : row + 1])), [target])
    return state
