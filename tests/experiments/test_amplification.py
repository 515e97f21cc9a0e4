"""exp14 runs from the first record to the last figure, and says where its prompts end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import exp14_logit_diff_amplification as module
from experiments.runner import run
from mlx_interp.errors import DataError
from tests.tiny import tiny_model


def test_the_study_runs_and_the_difference_shows_what_a_alone_does_not(tmp_path: Path) -> None:
    arguments = ["--model", "tiny-llama", "--out", str(tmp_path), "--no-validate", "--n-prompts", "8"]
    with pytest.raises(SystemExit) as ended:
        run(module.EXPERIMENT, [*arguments, "--alphas", "0,2", "--pairs", "firm,refusal"])
    assert ended.value.code == 0
    folder = tmp_path / module.EXPERIMENT.name / "tiny-llama"
    found = json.loads((folder / "run.json").read_text())
    rows = {(row[0], row[1]): [int(cell.split()[0]) for cell in row[3:]] for row in found["tables"][0]["rows"]}
    assert rows["firm", ".0"][0] == 0
    assert rows["firm", "2.0"][0] >= rows["firm", ".0"][0] + 30
    assert rows["firm", "2.0"][2] < rows["firm", "2.0"][0]
    assert len(list((folder / "figures").glob("*.png"))) == 2


def test_models_of_unknown_behaviour_are_refused() -> None:
    with pytest.raises(DataError, match="embedded models"):
        module.asks(tiny_model("llama"), module.Config(), "firm")
