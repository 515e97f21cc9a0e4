"""Workers on this machine make the records of one process, are started where they save time, and end with the run."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.harness import local_pool, registry, run_all
from experiments.harness.local_pool import LocalPool, n_workers, workers_here
from experiments.harness.state import Run
from mlx_interp.errors import ConfigError, MlxInterpError, RunError

MODEL, STUDY = "tiny-qwen2", "exp3"
LIMIT = 4
MODEL_OF_A_MEGABYTE = SimpleNamespace(weight_bytes=2**20, weights_hash="")


def outcomes(out: Path, workers: str) -> list[str]:
    cells = run_all.run_experiment_suite(MODEL, [STUDY], out=out, limit=LIMIT, validate=False, workers=workers)
    return [cell.outcome for cell in cells]


def records(out: Path) -> list[dict[str, Any]]:
    """The records of a study, without the seconds that they took."""
    path = next(out.rglob("records.jsonl"))
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_workers_make_the_records_of_one_process_also_after_one_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked = LocalPool._ask, []

    def ask_and_kill(self: LocalPool, *work: Any) -> Any:
        asked.append(work)
        if len(asked) == 3:
            self.processes[0].send_signal(signal.SIGKILL)
            self.processes[1].send_signal(signal.SIGKILL)
        return ask(self, *work)

    with monkeypatch.context() as patched:
        patched.setattr(LocalPool, "_ask", ask_and_kill)
        (outcome,) = outcomes(tmp_path / "two", "2")
    assert "ended with status -9" in outcome
    assert "--workers" in outcome
    asked.clear()
    assert outcomes(tmp_path / "two", "2") == ["done"]
    assert outcomes(tmp_path / "one", "1") == ["done"]
    assert records(tmp_path / "two") == records(tmp_path / "one")
    assert len(records(tmp_path / "one")) > LIMIT


@pytest.mark.slow
def test_what_a_worker_raises_is_the_error_of_the_run() -> None:
    pool = LocalPool((STUDY, None, MODEL, "other weights"), 1, eager=True)
    stage = registry.experiment(STUDY).stages[0]
    with pytest.raises(MlxInterpError, match="other weights on a worker"):
        list(pool.measured(stage, Run(None, None), [("a query", None)]))  # type: ignore[type-var,arg-type]
    assert pool.processes == []


@pytest.mark.slow
def test_a_worker_ends_with_its_input(tmp_path: Path) -> None:
    """So none outlives a run that was killed."""
    worker = [sys.executable, "-m", "experiments.harness.worker"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for said in (b"", pickle.dumps((STUDY, None, MODEL, ""))):
        done = subprocess.run(worker, input=said, env=env, capture_output=True, timeout=120, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def saving(seconds: list[float], n_left: int, n: int = 2) -> bool:
    return LocalPool(("", None, "", ""), n, eager=False)._saves(seconds, n_left)


def test_workers_are_started_where_they_save_more_than_they_cost() -> None:
    assert not saving([9.0], 1000)  # the first item alone says nothing of the others
    assert saving([1.0, 1.0], 30)
    assert not saving([1.0, 1.0], 10)
    assert not saving([100.0, 1.0], 60)  # what all share takes 99 seconds, again in each worker
    assert saving([100.0, 1.0], 300)
    assert saving([9.0, 1.0, 1.0], 60)
    assert not saving([1.0, 1.0], 16, n=2)
    assert saving([1.0, 1.0], 16, n=4)


@pytest.mark.parametrize(("cores", "load", "found"), [(8, 0.1, 8), (8, 3.2, 5), (2, 2.0, 1), (2, 7.0, 1), (64, 0.0, 8)])
def test_auto_takes_the_idle_cores(monkeypatch: pytest.MonkeyPatch, cores: int, load: float, found: int) -> None:
    monkeypatch.setattr(local_pool.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(local_pool.os, "getloadavg", lambda: (load, 9.0, 9.0), raising=False)
    monkeypatch.setattr(local_pool, "free_memory", lambda: 2**36)
    assert n_workers("auto", MODEL_OF_A_MEGABYTE) == found


def test_auto_leaves_half_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_pool.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(local_pool.os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr(local_pool, "free_memory", lambda: 20 * 2**30)
    assert n_workers("auto", SimpleNamespace(weight_bytes=3 * 2**30)) == 3


@pytest.mark.parametrize("asked", ["0", "-1", "two", "", "1.5"])
def test_a_number_of_workers_that_is_none_is_refused(asked: str) -> None:
    with pytest.raises(ConfigError, match="--workers"):
        n_workers(asked, MODEL_OF_A_MEGABYTE)


def test_a_study_of_one_process_says_why() -> None:
    study = registry.experiment("exp16")
    with (
        pytest.raises(ConfigError, match="writes and times stores of activations"),
        workers_here(study, study.config(), MODEL, MODEL_OF_A_MEGABYTE, "2"),
    ):
        pass
    with workers_here(study, study.config(), MODEL, MODEL_OF_A_MEGABYTE, "auto") as pool:
        assert pool is None


def test_a_dead_worker_is_named_by_the_item_it_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is gone at once stands for one that was killed."""
    popen = subprocess.Popen
    monkeypatch.setattr(
        local_pool.subprocess, "Popen", lambda command, **how: popen([sys.executable, "-c", "exit(3)"], **how)
    )
    pool = LocalPool((STUDY, None, MODEL, ""), 2, eager=True)
    stage = registry.experiment(STUDY).stages[0]
    with pytest.raises(RunError, match=r"a query: .* ended with status 3"):
        list(pool.measured(stage, Run(None, None), [("a query", None)]))  # type: ignore[type-var,arg-type]
