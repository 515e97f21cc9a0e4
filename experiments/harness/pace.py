"""Estimated time of a run: passes of its plan times seconds a pass, and where that figure is from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.harness.experiment import ConfigT, Experiment, Plan
from experiments.harness.identity import device
from mlx_interp.deferred import mx
from mlx_interp.errors import MlxInterpError
from mlx_interp.loading.speed import best_seconds, matmul_rate
from mlx_interp.reporting.folders import EARLIER
from mlx_interp.reporting.index import Run, runs

Planned = Callable[[ConfigT], Plan]

STEPS = 30
"""Operations of a layer that take a moment each, however small they are."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a forward pass, and how they are known."""

    seconds: float
    source: str
    tokens: int | None = None
    """Of such a pass, where it was not measured on the study's own."""

    def of(self, plan: Plan) -> float:
        """Seconds that a plan takes; a pass costs as its tokens."""
        return self.seconds * plan.forward_passes * (plan.tokens / self.tokens if self.tokens else 1)


def pace_of(experiment: Experiment[ConfigT], model: Any, planned: Planned[ConfigT], folders: Sequence[Path]) -> Pace:
    """From an earlier run of the study on these weights and this kind of machine, else from the machine's speed.

    planned: what a run with a config of the study costs on this model.
    """
    for path, run in _earlier_runs(experiment.name, model, folders):
        try:
            config: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in run["identity"]["config"].items()
            }
            passes = planned(experiment.config(**config)).forward_passes
            if passes > 0:
                return Pace(run["measuring_seconds"] / passes, f"as measured by {path}")
        except (MlxInterpError, TypeError, KeyError):
            continue  # options that the study no longer has
    return estimated_pace(model)


def _earlier_runs(experiment: str, model: Any, folders: Sequence[Path]) -> Iterator[tuple[Path, Run]]:
    """Complete runs of these weights on this kind of machine, those that were kept aside last."""
    for folder in [*(out / experiment for out in folders), *(out / EARLIER / experiment for out in folders)]:
        for path, run in runs(folder).items():
            here = run["model"].get("weights_hash") == model.weights_hash and run["identity"].get("device") == device()
            if here and run["status"] == "complete" and run.get("measuring_seconds", 0) > 0:
                yield path, run


def estimated_pace(model: Any) -> Pace:
    """From products of matrices as fast as this machine forms them, and the moment that every small operation takes."""
    tokens = Plan.tokens
    rate = matmul_rate(512, mx.float32)
    small = mx.ones((tokens, 64))
    moment = best_seconds(lambda: small * 2)
    seconds = 2 * model.n_parameters * tokens / (rate * 1e9) + STEPS * model.n_layers * moment / 4
    return Pace(seconds, f"from this machine's speed, {rate:,.0f} GFLOP/s: rough", tokens)
