"""Gradients of a metric by activations: a zero is added at every site, and the metric differentiated by it.

The metric is of the logits, or of the activation of one site (`of`). The weights stay as they are, quantised or not:
the backward pass multiplies by them as the forward pass does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mlx_interp.deferred import mx
from mlx_interp.engine.forward import Pass, forward
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import EditPlan
from mlx_interp.errors import ShapeError, SiteError
from mlx_interp.sites import Site


@dataclass(frozen=True)
class Slopes:
    """A metric, the activations it was computed through, and its derivative by each of them, in the engine's axes."""

    metric: mx.array
    activations: dict[Site, mx.array]
    slopes: dict[Site, mx.array]


def gradients(
    net: Network,
    prompts: Sequence[Sequence[int]],
    plan: EditPlan,
    wanted: Sequence[Site],
    metric: Callable[[mx.array], mx.array],
    logits: Literal["last", "all"],
    of: Site | None = None,
) -> Slopes:
    """See `Model.gradients`."""
    if unused := [site for site in wanted if not site.kind.writable]:
        raise SiteError(f"{unused[0]}: nothing is computed from it, so no metric depends on it; take 'z'")
    if of is not None and of.kind.of_edges:
        raise SiteError(f"{of}: a metric of queries and keys has no gradient here; take 'z', which they mix")
    lengths = [len(tokens) for tokens in prompts]
    n_pos = max(lengths)
    padded = mx.array([[*tokens, *[0] * (n_pos - len(tokens))] for tokens in prompts])

    def through(probes: dict[Site, mx.array]) -> tuple[mx.array, dict[Site, mx.array]]:
        held = frozenset(wanted) if of is None else frozenset(wanted) | {of}
        run = Pass(net, plan, lengths, held, probes=probes)
        values = forward(run, padded, logits) if of is None else _reached(run, padded, of)
        assert values is not None
        return values, run.captured

    return slopes_of(net, through, metric, wanted, (len(prompts), n_pos))


def slopes_of(
    net: Network,
    through: Callable[[dict[Site, mx.array]], tuple[mx.array, dict[Site, mx.array]]],
    metric: Callable[[mx.array], mx.array],
    wanted: Sequence[Site],
    shape: tuple[int, ...],
) -> Slopes:
    """A metric of what a pass gives, differentiated by what is added at sites.

    through: what is added -> what the metric gets, and the activations of the pass. shape: (row, pos) of it.
    """
    zeros = {str(site): mx.zeros(_held_shape(net, site, *shape)) for site in wanted}

    def measure(probes: dict[str, mx.array]) -> tuple[mx.array, mx.array, dict[str, mx.array]]:
        values, captured = through({site: probes[str(site)] for site in wanted})
        measured = metric(values)
        _check_metric(measured, values)
        return measured.astype(mx.float32).sum(), measured, {str(site): captured[site] for site in wanted}

    (_, measured, activations), slopes = mx.value_and_grad(measure)(zeros)
    mx.eval(measured, activations, slopes)
    return Slopes(measured, {site: activations[str(site)] for site in wanted}, {s: slopes[str(s)] for s in wanted})


def _reached(run: Pass, tokens: mx.array, site: Site) -> mx.array:
    """A site's activation after its edits; what lies above it is never evaluated."""
    forward(run, tokens, "none")
    return run.captured[site]


def _held_shape(net: Network, site: Site, n_rows: int, n_pos: int) -> tuple[int, ...]:
    """A site's axes as a pass holds it: patterns as (row, query, head, key)."""
    n_heads, width = net.site_shape(site, n_pos)
    return (n_rows, n_pos, n_heads, width) if n_heads else (n_rows, n_pos, width)


def _check_metric(measured: object, logits: mx.array) -> None:
    if not isinstance(measured, mx.array) or tuple(measured.shape) != (logits.shape[0],):
        got = tuple(measured.shape) if isinstance(measured, mx.array) else type(measured).__name__
        raise ShapeError(
            f"metric got {tuple(logits.shape)} and returned {got}; one number a prompt is needed: ({logits.shape[0]},)"
        )
