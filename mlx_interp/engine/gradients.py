"""Gradients of a metric by activations: a zero is added at every site, and the metric differentiated by it.

The weights stay as they are, quantised or not: the backward pass multiplies by them as the forward pass does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from mlx_interp.engine.forward import Pass, forward
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import EditPlan, site_shape
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
) -> Slopes:
    """See `Model.gradients`."""
    if unused := [site for site in wanted if not site.kind.writable]:
        raise SiteError(f"{unused[0]}: nothing is computed from it, so no metric depends on it; take 'z'")
    lengths = [len(tokens) for tokens in prompts]
    n_pos = max(lengths)
    padded = mx.array([[*tokens, *[0] * (n_pos - len(tokens))] for tokens in prompts])
    zeros = {str(site): mx.zeros(_held_shape(net, site, len(prompts), n_pos)) for site in wanted}

    def measure(probes: dict[str, mx.array]) -> tuple[mx.array, mx.array, dict[str, mx.array]]:
        added = {site: probes[str(site)] for site in wanted}
        run = Pass(net, plan, lengths, frozenset(wanted), probes=added)
        values = forward(run, padded, logits)
        assert values is not None
        measured = metric(values)
        _check_metric(measured, values)
        return measured.astype(mx.float32).sum(), measured, {str(site): x for site, x in run.captured.items()}

    (_, measured, activations), slopes = mx.value_and_grad(measure)(zeros)
    mx.eval(measured, activations, slopes)
    return Slopes(measured, {site: activations[str(site)] for site in wanted}, {s: slopes[str(s)] for s in wanted})


def _held_shape(net: Network, site: Site, n_rows: int, n_pos: int) -> tuple[int, ...]:
    """A site's axes as a pass holds it: patterns as (row, query, head, key)."""
    n_heads, width = site_shape(net, site, n_pos)
    return (n_rows, n_pos, n_heads, width) if n_heads else (n_rows, n_pos, width)


def _check_metric(measured: object, logits: mx.array) -> None:
    if not isinstance(measured, mx.array) or tuple(measured.shape) != (logits.shape[0],):
        got = tuple(measured.shape) if isinstance(measured, mx.array) else type(measured).__name__
        raise ShapeError(
            f"metric got logits {tuple(logits.shape)} and returned {got}; one number a prompt is needed: "
            f"({logits.shape[0]},)"
        )
