"""Workers on this machine: processes that each hold the model and measure items, so that no core stands idle.

Several processes of one thread each are faster here than one process of several: small products hardly gain by threads,
while items are independent of each other. On a GPU one process has all of it, and none are started.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import IO, Any

from experiments.harness import registry
from experiments.harness.experiment import ConfigT, Experiment, Stage
from experiments.harness.measuring import Measured, measure_one
from experiments.harness.state import Run
from mlx_interp.deferred import mx
from mlx_interp.engine.memory import free_memory
from mlx_interp.errors import ConfigError, RunError
from mlx_interp.loading.profile import Memory
from mlx_interp.ranks import launched

START_SECONDS = 10.0
"""About what a worker takes to start: libraries, weights, self-check."""
SHARE = 0.5
"""Of the free memory, what the workers' copies of the model may take."""
LEAST = 2**28
"""Bytes that a worker is taken to need, however small its model: Python with its libraries."""
MOST = 8
"""Workers that are started unasked."""


def n_workers(asked: str, model: Any) -> int:
    """How many workers to measure with; 1 is none beside this process. Raises ConfigError.

    asked: a number, or "auto": as many as cores are idle now and half of the free memory holds models.
    """
    if (number := asked_for(asked)) is not None:
        return number
    if mx.default_device() == mx.Device(mx.gpu) or not hasattr(os, "getloadavg"):
        return 1
    idle = (os.cpu_count() or 1) - os.getloadavg()[0]
    held = int(free_memory() * SHARE) // max(int(model.weight_bytes), LEAST)
    return max(1, min(round(idle), held, MOST))


def asked_for(workers: str) -> int | None:
    """The number behind --workers; None for "auto". Raises ConfigError for what is neither."""
    if workers == "auto":
        return None
    if not workers.isdecimal() or int(workers) < 1:
        raise ConfigError(f"--workers {workers}: give a number of processes from 1 on, or auto")
    return int(workers)


class LocalPool:
    """Workers of one study on one model. With `eager` off they are started once that saves more time than it takes."""

    def __init__(self, arguments: tuple[Any, ...], n_workers: int, *, eager: bool) -> None:
        self.arguments = arguments
        """Of `Worker`."""
        self.n_workers = n_workers
        self.eager = eager
        self.processes: list[subprocess.Popen[bytes]] = []
        self.idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self.peak: Mapping[str, int] = {}
        """Bytes at the peak of the largest worker, by who counts."""

    def start(self) -> None:
        """Start the workers; each loads the model when its first item comes."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        threads = str(max(1, (os.cpu_count() or 1) // self.n_workers))
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment.setdefault(name, threads)
        for _ in range(self.n_workers):
            worker = subprocess.Popen(
                [sys.executable, "-m", "experiments.harness.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            self.processes.append(worker)
            with suppress(BrokenPipeError):  # one that is gone already is told of when it is asked
                _send(worker, self.arguments)
            self.idle.put(worker)

    def measured(
        self, stage: Stage[Any, Any, Any], under: Run[Any], left: Sequence[tuple[str, Any]]
    ) -> Iterator[tuple[str, Measured]]:
        """Every key with its records and seconds, in order. Raises what a worker raised, RunError for a dead one."""
        seconds: list[float] = []
        todo = list(left)
        while todo and not self.processes:
            if self.eager or self._saves(seconds, len(todo)):
                self.start()
                break
            key, item = todo.pop(0)
            found = measure_one(stage, under, key, item)
            seconds.append(found[1])
            yield key, found
        if todo:
            yield from self._shared_out(stage.name, todo)

    def _saves(self, seconds: Sequence[float], n_left: int) -> bool:
        """Whether workers save more than their start costs, by the two items before. The first of a stage may have
        computed what the others share: each worker computes that again.
        """
        if len(seconds) < 2:
            return False
        once = max(seconds[0] - seconds[1], 0)
        each = min(seconds[-2:])
        return each * n_left * (1 - 1 / self.n_workers) > START_SECONDS + once

    def _shared_out(self, stage: str, left: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Measured]]:
        with ThreadPoolExecutor(self.n_workers) as threads:
            asked: list[tuple[str, Future[Measured]]] = [
                (key, threads.submit(self._ask, stage, key, item)) for key, item in left
            ]
            try:
                for key, answer in asked:
                    yield key, answer.result()
            except BaseException:
                for _, answer in asked:
                    answer.cancel()
                self.stop()  # the threads wait for them
                raise

    def _ask(self, stage: str, key: str, item: Any) -> Measured:
        worker = self.idle.get()
        try:
            _send(worker, (stage, key, item))
            found, error, peak = pickle.load(_open(worker.stdout))
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            status = worker.wait()
            raise RunError(
                f"{key}: the process that measured it ended with status {status} (-9: killed, perhaps for memory, of "
                "which fewer --workers need less); what was measured is kept, the same command goes on"
            ) from None
        finally:
            self.idle.put(worker)
        self.peak = {name: max(size, self.peak.get(name, 0)) for name, size in peak.items()} or self.peak
        if error is not None:
            raise error
        measured: Measured = found
        return measured

    def stop(self) -> None:
        """End the workers, whatever they do."""
        for worker in self.processes:
            worker.kill()
        for worker in self.processes:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                with suppress(BrokenPipeError):  # what was still to be sent to it
                    _open(pipe).close()
        self.processes = []


def _send(worker: subprocess.Popen[bytes], message: object) -> None:
    pipe = _open(worker.stdin)
    pickle.dump(message, pipe)
    pipe.flush()


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


@contextmanager
def workers_here(
    experiment: Experiment[ConfigT], config: ConfigT, model: str, loaded: Any, asked: str, memory: Memory = "auto"
) -> Iterator[LocalPool | None]:
    """The workers of a run on this machine, ended after it; None where one process measures. Raises ConfigError.

    memory: "low" has none unless they are asked for: each holds the model once more.
    """
    if launched().size > 1:
        if (asked_for(asked) or 1) > 1:
            raise ConfigError("--workers under mlx.launch: take one of the two, both share the work out")
        yield None
        return
    n = 1 if memory == "low" and asked == "auto" else n_workers(asked, loaded)
    if asked != "auto" and n > 1 and experiment.alone:
        raise ConfigError(f"--workers {asked}: {experiment.name} {experiment.alone}, so one process measures it")
    if n == 1 or experiment.alone or experiment.name not in registry.names():
        yield None
        return
    pool = LocalPool((experiment.name, config, model, loaded.weights_hash, memory), n, eager=asked != "auto")
    try:
        yield pool
    finally:
        pool.stop()
