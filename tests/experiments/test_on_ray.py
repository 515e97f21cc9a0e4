"""Workers of a Ray cluster make the records of one process, also where one of them is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.harness import on_ray, registry, run_all
from experiments.harness.on_ray import RayPool
from experiments.harness.state import Run
from mlx_interp.errors import ConfigError, RunError

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install '.[ray]'"
)
LIMIT = 4
MODEL, STUDY = "tiny-qwen2", "exp3"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers' worth of a local cluster; its workers find this checkout."""
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}},
    )
    yield
    ray.shutdown()


def measured(out: Path, **options: Any) -> list[dict[str, Any]]:
    """The records of a study, without the seconds that they took."""
    cells = run_all.run_experiment_suite(MODEL, [STUDY], out=out, limit=LIMIT, validate=False, **options)
    assert [cell.outcome for cell in cells] == ["done"]
    path = next(out.rglob("records.jsonl"))
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


@with_ray
@pytest.mark.slow
def test_two_workers_one_of_them_killed_make_the_records_of_one_process(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    start = RayPool.start

    def start_and_kill(self: RayPool) -> None:
        start(self)
        killed.append(self.processes()[0])
        os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(RayPool, "start", start_and_kill)
    found = measured(tmp_path / "ray", ray_workers=2)
    assert len(killed) == 1
    assert found == measured(tmp_path / "here")
    assert len(found) > LIMIT


@with_ray
@pytest.mark.slow
def test_what_a_worker_says_is_the_error(cluster: None) -> None:
    pool = RayPool((STUDY, None, MODEL, "other weights"), 1)
    with pytest.raises(RunError, match="other weights on a worker"):
        list(pool.measured(registry.experiment(STUDY).stages[0], Run(None, None), [("a query", None)]))  # type: ignore[type-var,arg-type]
    pool.stop()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray.importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(ConfigError, match=r"pip install '\.\[ray\]'"),
        on_ray.workers(registry.experiment(STUDY), None, MODEL, "", 2),  # type: ignore[type-var]
    ):
        pass


def test_nothing_of_ray_is_asked_for_where_all_is_measured_here() -> None:
    with on_ray.workers(registry.experiment(STUDY), None, MODEL, "", None) as pool:  # type: ignore[type-var]
        assert pool is None
