"""Attribution patching: the estimated effect of every node and edge, to first order, from a handful of passes.

The indirect effect of a node: m(its output replaced by the counterfactual run's) - m(clean). Estimated as the change of
its output times the gradient of m by it, summed over positions (Nanda 2023), of an edge likewise at the input that
reads it (Syed et al. 2023, EAP). Where attention saturates one gradient misleads, so gradients are averaged:

- attribution      one gradient, on the clean prompt;
- clean-corrupted  two, on the clean and the counterfactual prompt;
- ig-inputs        along embeddings interpolated from counterfactual to clean, k = 1 ... steps (EAP-IG, Hanna et al.
                   2024);
- ig-activations   nodes only: along each site's own output, the rest of the run clean, j = 0 ... steps - 1 (Marks et
                   al. 2024); as many gradients as there are sites times steps.

Contributions are of the pair's own two runs under every method. Edges go into the query, key and value of each query
head by itself, before the norm, the gradient through it. Weights may be quantised. All of it is an estimate: `exact`
checks it by real patching.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np

from mlx_interp.circuits.pairs import Metric, Pair, by_length, log_odds, tokens_of
from mlx_interp.deferred import mx
from mlx_interp.engine.edge_pass import probed, wiring, written
from mlx_interp.engine.memory import bytes_per_position, default_budget
from mlx_interp.engine.shared_start import embedded, later_activations, later_slopes, later_tokens, shared_start
from mlx_interp.errors import CircuitError, MlxInterpError
from mlx_interp.interventions import Intervention, Patch
from mlx_interp.model import Model
from mlx_interp.sites import parse_one

Method = Literal["attribution", "clean-corrupted", "ig-inputs", "ig-activations"]
METHODS: tuple[Method, ...] = get_args(Method)
Floats = np.ndarray[Any, np.dtype[np.float32]]
STEPS = 5
EMBEDDING = "resid_pre.0"


def node_scores(
    model: Model,
    pairs: Sequence[Pair],
    *,
    metric: Metric | None = None,
    method: Method = "ig-inputs",
    steps: int = STEPS,
    positions: bool = False,
) -> Floats:
    """Estimated effect of every node on every pair: (n_pairs, n_nodes), in units of the metric (default: `log_odds`).

    positions: (n_pairs, n_nodes, pos) instead, nan beyond a pair's own length.
    Raises CircuitError for a metric without gradient, an unknown method, or no pairs.
    """
    metric = metric or log_odds(model)
    shares = _shares(method, steps)
    wires = wiring(model.network)
    longest = max((pair.length for pair in pairs), default=0)
    found = np.full((len(pairs), wires.n_nodes, longest), np.nan, np.float32)
    for rows in by_length(pairs, rows_at_once(model, longest, len(shares))):
        part = [pairs[row] for row in rows]
        cells = _own_paths(model, part, metric, steps) if method == "ig-activations" else None
        cells = _node_cells(model, part, metric, shares) if cells is None else cells
        found[np.array(rows), :, : part[0].length] = cells
    return found if positions else np.nansum(found, axis=2)


def edge_scores(
    model: Model,
    pairs: Sequence[Pair],
    *,
    metric: Metric | None = None,
    method: Method = "ig-inputs",
    steps: int = STEPS,
) -> Floats:
    """Estimated effect of every edge on every pair: (n_pairs, n_inputs, n_nodes), 0 where there is no edge.

    One backward pass for all edges of a pair and step. Raises CircuitError as `node_scores`, and for "ig-activations".
    """
    if method == "ig-activations":
        raise CircuitError("method 'ig-activations' interpolates nodes, not edges: take 'ig-inputs' for edges")
    metric = metric or log_odds(model)
    shares = _shares(method, steps)
    net, wires = model.network, wiring(model.network)
    found = np.zeros((len(pairs), wires.n_inputs, wires.n_nodes), np.float32)
    longest = max((pair.length for pair in pairs), default=0)
    for rows in by_length(pairs, rows_at_once(model, longest, len(shares) * net.n_heads)):
        part = [pairs[row] for row in rows]
        there, _ = written(net, tokens_of([pair.counterfactual for pair in part]))
        here, _ = written(net, tokens_of([pair.clean for pair in part]))
        repeated = mx.repeat(mx.arange(len(part)), len(shares))
        change = there.minus(here).rows(repeated)
        embedding = _interpolated(there.embedding, here.embedding, shares)
        measure = metric([pair for pair in part for _ in shares])
        zeros = mx.zeros((len(repeated), wires.n_inputs, wires.n_nodes))

        def total(
            weights: mx.array, embedding: mx.array = embedding, change: Any = change, measure: Any = measure
        ) -> mx.array:
            measured: mx.array = measure(probed(net, embedding, change, weights))
            return measured.astype(mx.float32).sum()

        with metric_errors():
            slopes = mx.where(wires.mask(), mx.grad(total)(zeros), mx.zeros_like(zeros))
        found[np.array(rows)] = np.asarray(slopes.reshape(len(part), len(shares), *zeros.shape[1:]).mean(1))
    require_slope(found)
    return found


def _shares(method: str, steps: int) -> list[float]:
    """How far from the counterfactual to the clean prompt gradients are taken."""
    if method not in METHODS:
        raise CircuitError(f"no method {method!r}: there are {', '.join(METHODS)}")
    if steps < 1:
        raise CircuitError(f"steps={steps}: at least one gradient is needed")
    if method == "clean-corrupted":
        return [0.0, 1.0]
    return [k / steps for k in range(1, steps + 1)] if method == "ig-inputs" else [1.0]


def _interpolated(start: mx.array, end: mx.array, shares: Sequence[float]) -> mx.array:
    """(pair, pos, d_model) twice -> (pair * share, pos, d_model)."""
    weights = mx.array(list(shares))[None, :, None, None].astype(start.dtype)
    between = start[:, None] + weights * (end - start)[:, None]
    return between.reshape(-1, *start.shape[1:])


def node_sites(model: Model) -> list[str]:
    """The sites that nodes are read and changed at; heads at z."""
    return [EMBEDDING, *(f"{name}.{layer}" for layer in range(model.n_layers) for name in ("z", "mlp_out"))]


def _changes(model: Model, part: Sequence[Pair]) -> dict[str, mx.array]:
    """Counterfactual minus clean output at every node's site: (pair, pos, ...)."""
    here, there = (
        model.run(prompts, capture=node_sites(model), logits="none")
        for prompts in ([pair.clean for pair in part], [pair.counterfactual for pair in part])
    )
    return {site: there[site] - here[site] for site in node_sites(model)}


def _node_cells(model: Model, part: Sequence[Pair], metric: Metric, shares: Sequence[float]) -> Floats:
    """(pair, node, pos): gradients averaged over interpolated embeddings, times the change.

    What a pair's prompts begin with in common does not change: nothing is differentiated there, and it runs once.
    """
    net, sites = model.network, [parse_one(site, model.n_layers) for site in node_sites(model)]
    clean, other = ([getattr(pair, side).tokens for pair in part] for side in ("clean", "counterfactual"))
    start = shared_start(net, clean, other)
    here, there = later_tokens(start, clean), later_tokens(start, other)
    others = later_activations(net, start, there, sites)
    way = _interpolated(embedded(net, start, there), embedded(net, start, here), shares)
    n = len(shares)
    measure = metric([pair for pair in part for _ in shares])
    with metric_errors():
        found = later_slopes(net, start.repeated(n), mx.repeat(here, n, axis=0), way, measure, sites)
    require_slope(np.concatenate([np.asarray(slope).ravel() for slope in found.slopes.values()]))
    at_clean = found.activations if shares == [1.0] else later_activations(net, start, here, sites)
    effects = {
        str(site): (others[site] - at_clean[site]) * slope.reshape(len(part), n, *slope.shape[1:]).mean(1)
        for site, slope in found.slopes.items()
    }
    return np.pad(_cells(model, effects), ((0, 0), (0, 0), (start.n, 0)))


def _own_paths(model: Model, part: Sequence[Pair], metric: Metric, steps: int) -> Floats:
    """(pair, node, pos): each site's gradient averaged along its own way from clean to counterfactual."""
    changes = _changes(model, part)
    here = model.run([pair.clean for pair in part], capture=node_sites(model), logits="none")
    prompts = [pair.clean for pair in part for _ in range(steps)]
    measure = metric([pair for pair in part for _ in range(steps)])
    effects = {}
    for site in node_sites(model):
        amounts = mx.array([j / steps for j in range(steps)])
        way = changes[site][:, None] * amounts.reshape(1, -1, *[1] * (changes[site].ndim - 1))
        value = (here[site][:, None] + way).reshape(len(prompts), *here[site].shape[1:])
        slope = _slopes(model, prompts, measure, [site], [Patch(site, value)])[site]
        effects[site] = changes[site] * slope.reshape(len(part), steps, *slope.shape[1:]).mean(1)
    return _cells(model, effects)


def _slopes(
    model: Model, prompts: Sequence[Any], measure: Any, sites: Sequence[str], edits: Sequence[Intervention]
) -> dict[str, mx.array]:
    with metric_errors():
        found = model.gradients(prompts, measure, sites, interventions=edits)
    slopes = {site: found[site] for site in sites}
    require_slope(np.concatenate([np.asarray(slope).ravel() for slope in slopes.values()]))
    return slopes


def _cells(model: Model, effects: dict[str, mx.array]) -> Floats:
    """Products at sites, (pair, pos, [head], width), as (pair, node, pos)."""
    parts = [effects[EMBEDDING].sum(-1)[:, None]]
    for layer in range(model.n_layers):
        parts.append(effects[f"z.{layer}"].sum(-1).swapaxes(1, 2))
        parts.append(effects[f"mlp_out.{layer}"].sum(-1)[:, None])
    return np.asarray(mx.concatenate(parts, axis=1))


@contextmanager
def metric_errors() -> Iterator[None]:
    """MLX's words for a function that it cannot differentiate, said as a user's mistake. Raises CircuitError."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, MlxInterpError) or not any(word in text for word in ("vjp", "gradient", "differentiat")):
            raise
        raise CircuitError(f"the metric has no gradient ({error}): give log-odds, a probability or a logit") from error


def require_slope(slopes: Floats) -> None:
    """Raises CircuitError where a metric has no gradient: all zero, or not finite."""
    if not np.isfinite(slopes).all():
        raise CircuitError("the metric's gradient is not finite: give a metric that is smooth where the model is")
    if not slopes.any():
        raise CircuitError(
            "the metric has no gradient: it is zero at every node (ranks, arg-max and thresholds change in steps); "
            "give log-odds, a probability or a logit difference for attribution, or patch exactly (exact_node_effects)"
        )


def rows_at_once(model: Model, length: int, copies: int) -> int:
    """Pairs to a backward pass: it holds the intermediate results of all layers, of every interpolation step."""
    held = 4 * bytes_per_position(model.network) * model.n_layers * max(length, 1) * copies
    return max(1, min(32, default_budget() // held))
