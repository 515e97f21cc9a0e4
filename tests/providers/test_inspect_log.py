"""Inspect reads the logs of runs: as a log, and as a data frame with a row a sample."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.harness.inspect_log import main
from tests.experiments.test_inspect_log import run

inspect_ai = pytest.importorskip(
    "inspect_ai", reason="inspect_ai is not installed: pip install '.[inspect]' in an environment of its own"
)
from inspect_ai.log import list_eval_logs, read_eval_log  # noqa: E402

__all__ = ["run"]


def test_inspect_reads_every_log_with_its_samples(run: Path, tmp_path: Path) -> None:
    assert main([str(run), "--out", str(tmp_path / "logs")]) == 0
    found = [read_eval_log(info) for info in list_eval_logs(str(tmp_path / "logs"))]
    assert sorted(log.eval.task for log in found) == ["exp0_test/draws", "exp0_test/effects"]
    (log,) = (log for log in found if log.eval.task == "exp0_test/effects")
    first, second = log.samples or []
    assert (first.input, first.output.completion) == ("How do I bake?", "I cannot help with that.")
    assert [sample.scores["hit"].value for sample in (first, second)] == [True, False]
    assert (log.status, second.metadata["arm"]) == ("success", "random")
