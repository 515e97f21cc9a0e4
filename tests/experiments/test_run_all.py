"""Many experiments on many models: each model loaded once, what fails told at the end, the rest measured."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mlx_interp as mi
from experiments.harness import registry, run_all
from experiments.harness.options import parse
from experiments.harness.run_all import run_experiment_suite
from mlx_interp.errors import ConfigError, UnknownModel

SMALL: dict[str, Any] = {"limit": 12, "validate": False}


def test_short_names_lead_to_experiments_and_unknown_ones_to_the_nearest() -> None:
    assert registry.experiment("exp9").name == registry.experiment("exp9_back_patching").name == "exp9_back_patching"
    assert all(registry.experiment(name).name == name for name in registry.names())
    with pytest.raises(ConfigError, match="did you mean 'exp9_back_patching'"):
        registry.experiment("exp9_backpatching")


@pytest.mark.slow
def test_a_model_is_loaded_once_for_all_experiments(tmp_path: Path) -> None:
    loaded: list[str] = []

    def load(name: str) -> Any:
        loaded.append(name)
        return mi.load(name)

    cells = run_experiment_suite("tiny-qwen2", ["exp3", "exp6"], out=tmp_path, load=load, **SMALL)
    assert [cell.outcome for cell in cells] == ["done", "done"]
    assert loaded == ["tiny-qwen2"]
    for name in ("exp3_two_hop", "exp6_twohop_scaling"):
        assert (tmp_path / name / "tiny-qwen2" / "table.md").is_file()
        assert (tmp_path / name / "table.md").is_file()


@pytest.mark.parametrize("ray_workers", [None, 2])
def test_a_study_of_one_process_is_measured_here_whatever_was_asked_for_the_others(ray_workers: int | None) -> None:
    alone = registry.experiment("exp16")
    assert alone.alone
    with run_all._pool(alone, parse(alone, ["--workers=2"]), None, ray_workers) as pool:
        assert pool is None


def test_model_and_workers_load_with_the_memory_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def load(name: str, *, memory: str) -> Any:
        asked.append(memory)
        return mi.load(name)

    def pool(*arguments: object) -> AbstractContextManager[None]:
        asked.append(arguments[-1])
        return nullcontext()

    monkeypatch.setattr(run_all, "load_model", load)
    monkeypatch.setattr(run_all, "workers_here", pool)
    monkeypatch.setattr(run_all, "run_model", lambda *_: None)
    arguments = ["--model", "tiny-qwen2", "--experiments", "exp3", "--memory", "low", "--out", str(tmp_path)]
    assert run_all.main(arguments) == 0
    assert asked == ["low", "low"]


@pytest.mark.slow
def test_a_failing_cell_is_reported_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = registry.experiment

    def broken(name: str) -> Any:
        found = right(name)
        return replace(found, headline=lambda records, config: 1 / 0) if name == "exp3" else found

    monkeypatch.setattr(registry, "experiment", broken)
    arguments = ["--model", "tiny-qwen2", "--experiments", "exp3,exp6", "--limit", "12", "--no-validate"]
    assert run_all.main([*arguments, "--out", str(tmp_path)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert (tmp_path / "exp6_twohop_scaling" / "tiny-qwen2" / "table.md").is_file()
    monkeypatch.setattr(registry, "experiment", right)
    assert run_all.main([*arguments, "--out", str(tmp_path)]) == 0  # goes on where it stopped
    assert "UNVALIDATED" in (tmp_path / "exp3_two_hop" / "table.md").read_text()


def test_a_plan_says_time_and_memory_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none"
    arguments = ["--model", "tiny-llama", "--experiments", "exp3", "--dry-run", "--out", str(out)]
    assert run_all.main(arguments) == 0
    assert "1,200" in capsys.readouterr().out
    assert not out.exists()


def test_names_are_checked_before_anything_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownModel, match="tiny-llama"):
        run_experiment_suite("tiny-lama", ["exp3"], out=tmp_path)
    assert run_all.main(["--model", "tiny-llama", "--experiments", "exp33"]) == 2
    assert "no experiment 'exp33'" in capsys.readouterr().err
    assert run_all.main(["--model", "tiny-llama", "--model", "nothing-here"]) == 2


def test_a_model_that_cannot_be_loaded_fails_its_cells_alone(tmp_path: Path) -> None:
    def load(name: str) -> Any:
        raise mi.errors.CheckpointError("truncated")

    cells = run_experiment_suite("tiny-llama", ["exp3", "exp6"], out=tmp_path, load=load)
    assert [cell.outcome for cell in cells] == ["not loaded: truncated"] * 2
    assert all(cell.failed for cell in cells)
