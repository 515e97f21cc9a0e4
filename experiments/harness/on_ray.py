"""Workers of a Ray cluster: each loads the model and measures items; a dead one is started anew and loses nothing.

The process that was started by hand keeps the run folder, gates the model and writes; no file system need be shared. A
cluster that runs already is used (`ray start`), else one is started on this machine.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from experiments.harness.experiment import ConfigT, Experiment, Stage
from experiments.harness.measuring import Measured
from experiments.harness.state import Run
from experiments.harness.worker import Worker
from mlx_interp.errors import ConfigError, RunError
from mlx_interp.loading.profile import Memory
from mlx_interp.ranks import launched

RETRIES = 3
"""How often an item whose worker died is measured again before the run stops."""


class RayPool:
    """Workers of one study on one model, started when the first item is to be measured."""

    def __init__(self, arguments: tuple[Any, ...], n_workers: int) -> None:
        self.arguments = arguments
        self.n_workers = n_workers
        self.actors: list[Any] = []

    def start(self) -> None:
        """Start the workers; each loads the model."""
        import ray

        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False)
        every: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        machines = sum(node["Alive"] for node in every)
        remote = ray.remote(Worker).options(
            num_cpus=1, max_restarts=-1, max_task_retries=RETRIES, scheduling_strategy="SPREAD"
        )
        n_workers = self.n_workers or max(machines, 2)
        self.actors = [remote.remote(*self.arguments) for _ in range(n_workers)]

    def processes(self) -> list[int]:
        """The workers' process numbers."""
        import ray

        return [int(ray.get(actor.process.remote())) for actor in self.actors]

    @property
    def peak(self) -> Mapping[str, int]:
        """Nothing: what a worker on another machine takes is no peak of this one."""
        return {}

    def measured(
        self, stage: Stage[Any, Any, Any], under: Run[Any], left: Sequence[tuple[str, Any]]
    ) -> Iterator[tuple[str, Measured]]:
        """Every key with its records and seconds, in order.

        Raises RunError with what a worker said, or for an item that ended its worker again and again.
        """
        if not left:
            return
        import ray
        from ray.util import ActorPool

        if not self.actors:
            self.start()
        found = ActorPool(self.actors).map(lambda actor, work: actor.measure.remote(stage.name, *work), list(left))
        for key, _ in left:
            try:
                yield key, next(found)
            except ray.exceptions.RayTaskError as error:
                raise RunError(f"{key}: a worker failed: {type(error.cause).__name__}: {error.cause}") from error
            except ray.exceptions.RayActorError as error:
                raise RunError(
                    f"{key}: its worker died {RETRIES + 1} times or could not start; what was measured is kept: {error}"
                ) from error

    def stop(self) -> None:
        """End the workers."""
        if self.actors:
            import ray

            for actor in self.actors:
                ray.kill(actor)


@contextmanager
def workers(
    experiment: Experiment[ConfigT],
    config: ConfigT,
    model: str,
    weights_hash: str,
    n_workers: int | None,
    memory: Memory = "auto",
) -> Iterator[RayPool | None]:
    """The workers of a run, ended after it; None where it is to be measured here. Raises ConfigError without Ray,
    or under mlx.launch, which shares the work out itself.
    """
    if n_workers is None:
        yield None
        return
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--on ray needs Ray: pip install '.[ray]'")
    if launched().size > 1:
        raise ConfigError("--on ray under mlx.launch: take one of the two, both share the work out")
    if experiment.alone:
        raise ConfigError(f"--on ray: {experiment.name} {experiment.alone}, so one process measures it")
    if n_workers < 0:
        raise ConfigError(f"--workers {n_workers}: give 1 or more, or 0 for one a machine")
    pool = RayPool((experiment.name, config, model, weights_hash, memory), n_workers)
    try:
        yield pool
    finally:
        pool.stop()
