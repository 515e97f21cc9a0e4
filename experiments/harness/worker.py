"""A worker: a process with a model of its own that measures the items it is handed.

Started by a pool, on this machine (`local_pool.py`) or by Ray (`on_ray.py`). As a program it reads what to do from its
standard input and answers on its standard output, one pickled message each; it ends when its input does, so that it
outlives no run, however that ended.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from typing import Any

from experiments.harness import registry
from experiments.harness.experiment import ExperimentConfig
from experiments.harness.identity import peak_memory
from experiments.harness.measuring import Measured, measure_one
from experiments.harness.state import Run
from mlx_interp.errors import RanksDiffer
from mlx_interp.loading.load import load
from mlx_interp.loading.profile import Memory


class Worker:
    """A study on a model, loaded here."""

    def __init__(
        self, experiment: str, config: ExperimentConfig, model: str, weights_hash: str, memory: Memory = "auto"
    ) -> None:
        self.experiment = registry.experiment(experiment)
        self.run = Run(load(model, memory=memory), config)
        if self.run.model.weights_hash != weights_hash:
            raise RanksDiffer(f"{model} has other weights on a worker than where the run was started")

    def process(self) -> int:
        """The number of its process."""
        return os.getpid()

    def measure(self, stage: str, key: str, item: Any) -> Measured:
        """The records of one item."""
        return measure_one(next(one for one in self.experiment.stages if one.name == stage), self.run, key, item)


def main() -> None:
    # Ctrl-C goes to the whole group; the run that started this process ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a study prints is no answer
    questions = sys.stdin.buffer
    with contextlib.suppress(EOFError, BrokenPipeError):
        arguments = pickle.load(questions)
        worker: Worker | None = None
        while True:
            stage, key, item = pickle.load(questions)
            answer: tuple[Measured | None, Exception | None, dict[str, int]]
            try:
                worker = worker or Worker(*arguments)
                answer = worker.measure(stage, key, item), None, peak_memory({})
            except Exception as error:
                answer = None, error, {}
            pickle.dump(answer, answers)
            answers.flush()


if __name__ == "__main__":
    main()
