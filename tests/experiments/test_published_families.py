"""A study is planned for the first published checkpoint of a family from its config alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from experiments.exp9_back_patching import EXPERIMENT
from experiments.harness.runner import run
from mlx_interp.architectures import PACKAGED
from mlx_interp.loading.names import EMBEDDED_ROOT
from mlx_interp.loading.outline import outline
from tests.loading.checkpoints import write_tokenizer
from tests.loading.published import PUBLISHED, config_of


@pytest.mark.slow
@pytest.mark.parametrize("family", PUBLISHED)
def test_exp9_plans_a_run_and_counts_the_parameters_of_the_model_card(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / family
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_of(family)))
    # transformers reads any tokenizer of these types as the family's own, which words alone are not
    if family in ("qwen2", "qwen3_5"):
        for file in (EMBEDDED_ROOT / "tiny-qwen2").glob("tokenizer*"):
            shutil.copy(file, folder)
    else:
        write_tokenizer(folder)
    model = outline(folder)
    assert model.family == family
    assert model.n_parameters / 1e9 == pytest.approx(PUBLISHED[family].billions, rel=0.01)
    with pytest.raises(SystemExit, match="0"):
        run(EXPERIMENT, ["--model", str(folder), "--dry-run", "--limit", "2", "--out", str(tmp_path / "none")])
    assert "forward passes" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("family", ["gemma3", "gemma3_text"])
def test_a_head_that_is_tied_without_a_word_is_neither_refused_nor_counted_twice(family: str, tmp_path: Path) -> None:
    assert "tie_word_embeddings" not in json.dumps(config_of(family))
    (tmp_path / "config.json").write_text(json.dumps(config_of(family)))
    write_tokenizer(tmp_path)
    assert outline(tmp_path).n_parameters / 1e9 == pytest.approx(PUBLISHED[family].billions, rel=0.01)


def test_every_family_that_is_described_is_there() -> None:
    assert PUBLISHED.keys() == PACKAGED
