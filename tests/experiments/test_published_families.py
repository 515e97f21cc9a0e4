"""A study is planned for the first published checkpoint of a family from its config alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.exp9_back_patching import EXPERIMENT
from experiments.harness.runner import run
from mlx_interp.loading.outline import outline
from tests.loading.checkpoints import write_tokenizer
from tests.loading.published import PUBLISHED

BILLIONS = {
    "olmo2": 7.30,
    "olmo3": 7.30,
    "smollm3": 3.08,
    "cohere": 35.0,
    "cohere2": 8.03,
    "gptj": 6.05,
    "qwen3_moe": 30.5,
    "mixtral": 46.7,
    "olmoe": 6.92,
    "gpt_oss": 20.9,
    "deepseek_v2": 15.7,
}
"""Parameters that the models' cards name, in 10^9."""


@pytest.mark.slow
@pytest.mark.parametrize("family", PUBLISHED)
def test_exp9_plans_a_run_and_counts_the_parameters_of_the_model_card(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / family
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PUBLISHED[family][1]))
    write_tokenizer(folder)
    model = outline(folder)
    assert model.family == family
    assert model.n_parameters / 1e9 == pytest.approx(BILLIONS[family], rel=0.01)
    with pytest.raises(SystemExit, match="0"):
        run(EXPERIMENT, ["--model", str(folder), "--dry-run", "--limit", "2", "--out", str(tmp_path / "none")])
    assert "forward passes" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_every_family_that_was_added_with_experts_sinks_or_layers_of_its_own_is_there() -> None:
    assert PUBLISHED.keys() == BILLIONS.keys()
