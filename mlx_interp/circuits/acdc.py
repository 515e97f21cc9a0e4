"""ACDC: a circuit by really removing every edge in turn (Conmy et al. 2023), the baseline that attribution replaces.

1. Edges are taken from the logits downward, of each input the latest node first. An edge is removed, that is, carries
   the counterfactual run, if the divergence of the circuit's answers from the model's grows by less than a threshold.
2. Divergence: KL(model || circuit) of the next token, in nats, mean over pairs.
3. Edges into a node that no kept edge leaves are removed without a look.

Removals are tried many at a time: edge after edge on top of each other, up to the first that has to stay. What comes
out is what one at a time gives, for a pass of many rows instead of many passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_interp.circuits.discovery import existing
from mlx_interp.circuits.exact import edge_metric
from mlx_interp.circuits.pairs import Metric, Pair
from mlx_interp.deferred import mx
from mlx_interp.engine.edge_pass import wiring
from mlx_interp.errors import CircuitError
from mlx_interp.model import Model
from mlx_interp.patching.nodes import reader

Bools = np.ndarray[Any, np.dtype[np.bool_]]
AT_ONCE = 24
"""Removals tried on top of each other."""


@dataclass(frozen=True)
class Pruned:
    """A circuit, its divergence from the model in nats, and how many circuits were evaluated on the way."""

    edges: Bools
    divergence: float
    evaluated: int


def divergence(model: Model, pairs: Sequence[Pair]) -> Metric:
    """KL(model on the clean prompt || logits at hand), in nats, as a metric of pairs."""
    logits = {pair.key: model.run(pair.clean).logits for pair in pairs}

    def of(some: Sequence[Pair]) -> Any:
        found = [logits[pair.key] for pair in some]
        rows = mx.concatenate([row for row in found if row is not None]).astype(mx.float32)
        whole = rows - mx.logsumexp(rows, axis=-1, keepdims=True)

        def measure(x: mx.array) -> mx.array:
            x = x.astype(mx.float32)
            return (mx.exp(whole) * (whole - x + mx.logsumexp(x, axis=-1, keepdims=True))).sum(-1)

        return measure

    return of


def acdc(model: Model, pairs: Sequence[Pair], threshold: float, *, metric: Metric | None = None) -> Pruned:
    """The circuit that is left: (n_inputs, n_nodes). metric: a divergence, 0 for the model; default `divergence`.

    Raises CircuitError for a threshold that is not positive, or no pairs.
    """
    if threshold <= 0 or not pairs:
        raise CircuitError(f"ACDC needs pairs and a threshold above 0, not {len(pairs)} pairs and {threshold}")
    metric = metric or divergence(model, pairs)
    wires = wiring(model.network)
    owner = np.array(reader(wires))
    kept = existing(wires).copy()
    evaluated, now = 0, 0.0
    for number in reversed(range(wires.n_inputs)):
        if owner[number] < wires.n_nodes and not kept[:, owner[number]].any():
            kept[number] = False
            continue
        waiting = np.flatnonzero(kept[number])[::-1].tolist()
        while waiting:
            tried = waiting[:AT_ONCE]
            found = _removed(model, pairs, kept, number, tried, metric)
            evaluated += len(tried)
            steps = np.diff([now, *found])
            stays = next((n for n, step in enumerate(steps) if step >= threshold), len(tried))
            kept[number, tried[:stays]] = False
            now = float(found[stays - 1]) if stays else now
            waiting = waiting[stays + 1 :]
    return Pruned(kept, now, evaluated)


def _removed(
    model: Model, pairs: Sequence[Pair], kept: Bools, number: int, tried: Sequence[int], metric: Metric
) -> np.ndarray[Any, np.dtype[np.floating[Any]]]:
    """Mean divergence with the first edge removed, the first two, and so on."""
    weights = np.repeat(kept[None].astype(np.float32), len(tried), axis=0)
    for n, node in enumerate(tried):
        weights[n:, number, node] = 0
    found: np.ndarray[Any, np.dtype[np.floating[Any]]] = edge_metric(
        model, pairs, mx.array(weights), metric=metric
    ).mean(0)
    return found
