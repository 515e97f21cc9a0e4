"""An outline answers what needs no weights as the loaded model does, and refuses the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_interp as mi
from experiments.harness import registry
from experiments.harness.options import parse
from experiments.harness.runner import plan_of, run_experiment
from mlx_interp.errors import UnknownModel
from mlx_interp.loading.names import EMBEDDED, EMBEDDED_ROOT
from mlx_interp.loading.outline import NeedsWeights, outline

WITH_WEIGHTS = ("exp9_back_patching", "exp13_steering_reliability", "exp15_contrastive_steering")
WITH_WEIGHTS += ("exp16_collect_activations", "exp18_discover_circuits")
"""Studies whose plan looks at states, or measures its speed."""
ON_EMBEDDED_ALONE = ("exp17_train_saes", "exp19_lenses")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Config and tokenizer of tiny-llama, without its weights."""
    folder = tmp_path / "bare"
    shutil.copytree(EMBEDDED_ROOT / "tiny-llama", folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    return folder


@pytest.mark.parametrize("name", EMBEDDED)
def test_sizes_prompts_hash_and_costs_are_the_loaded_models(name: str) -> None:
    model, bones = mi.load(name), outline(name)
    for figure in ("n_layers", "n_heads", "d_model", "d_vocab", "n_parameters", "weight_bytes", "weights_hash", "name"):
        assert getattr(bones, figure) == getattr(model, figure), figure
    text = "The capital of France is"
    assert bones.prompt(text).tokens == model.prompt(text).tokens
    assert bones.memory(text, capture="z") == model.memory(text, capture="z")


def test_what_needs_numbers_is_refused_by_name() -> None:
    bones = outline("tiny-llama")
    for call in (lambda: bones.run("a"), lambda: bones.generate("a"), lambda: bones.sweep("a", [[]])):
        with pytest.raises(NeedsWeights, match=r"tiny-llama: .* needs the weights"):
            call()


def test_nothing_is_computed_however_large_the_config(bare: Path) -> None:
    config = json.loads((bare / "config.json").read_text())
    config |= {"num_hidden_layers": 40, "hidden_size": 8192, "intermediate_size": 32768, "head_dim": 128}
    (bare / "config.json").write_text(json.dumps(config))
    before = mx.get_active_memory()
    bones = outline(bare)
    assert bones.n_parameters > 3 * 10**10
    assert mx.get_active_memory() - before < 10**6


@pytest.mark.parametrize("name", [name for name in registry.names() if name not in WITH_WEIGHTS + ON_EMBEDDED_ALONE])
def test_a_plan_needs_config_and_tokenizer_only(name: str, bare: Path) -> None:
    study = registry.experiment(name)
    plan = plan_of(study, parse(study, ["--limit", "4"]), outline(bare))
    assert plan.forward_passes > 0


def test_a_dry_run_reads_no_weights_and_tells_the_time(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = registry.experiment("exp6")
    run_experiment(study, parse(study, ["--model", str(bare), "--dry-run", "--out", str(tmp_path / "runs")]))
    said = capsys.readouterr().out
    assert "about (s)" in said
    assert "from this machine's speed" in " ".join(said.split())
    assert not (tmp_path / "runs").exists()


def test_a_complete_run_is_shown_without_loading_and_times_the_next_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = registry.experiment("exp6")
    arguments = ["--model", "tiny-qwen2", "--limit", "8", "--no-validate", "--out", str(tmp_path)]
    run_experiment(study, parse(study, arguments))
    table = capsys.readouterr().out
    monkeypatch.setattr("experiments.harness.runner.load_model", lambda name: pytest.fail("the weights were read"))
    run_experiment(study, parse(study, arguments))
    shown = capsys.readouterr()
    assert shown.out == table
    assert "complete since" in shown.err
    run_experiment(study, parse(study, [*arguments, "--dry-run"]))
    assert "as measured by" in " ".join(capsys.readouterr().out.split())


def test_a_misspelled_model_is_said_before_the_first_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("experiments.harness.runner.load_model", lambda name: pytest.fail("a model was loaded"))
    study = registry.experiment("exp6")
    with pytest.raises(UnknownModel, match="did you mean 'tiny-llama'"):
        run_experiment(study, parse(study, ["--model", "tiny-qwen2", "--model", "tiny-lama", "--out", str(tmp_path)]))
