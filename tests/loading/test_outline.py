"""An outline answers what needs no weights as the loaded model does, and refuses the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_interp as mi
from experiments import exp9_back_patching as exp9
from experiments import exp13_steering_reliability as exp13
from experiments.exp9_back_patching import back_patching
from experiments.exp13_steering_reliability import steering_runs
from experiments.harness import registry
from experiments.harness.options import parse
from experiments.harness.run_all import run_experiment_suite
from experiments.harness.runner import run_experiment
from experiments.harness.state import Run
from experiments.shared.two_hop.queries import Case
from mlx_interp import store
from mlx_interp.embedded import load_world
from mlx_interp.errors import UnknownModel
from mlx_interp.loading.names import EMBEDDED, EMBEDDED_ROOT
from mlx_interp.loading.outline import NeedsWeights, outline


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Config and tokenizer of tiny-llama without its weights, by its name: some studies know embedded models alone."""
    folder = tmp_path / "tiny-llama"
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


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def test_a_dry_run_needs_config_and_tokenizer_only_and_tells_time_and_memory(
    name: str, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = registry.experiment(name)
    out = ["--out", str(tmp_path / "runs")]
    run_experiment(study, parse(study, ["--model", str(bare), "--limit", "4", "--dry-run", *out]))
    said = " ".join(capsys.readouterr().out.split())
    assert "about (s)" in said
    assert "memory (GB)" in said
    assert "from this machine's speed" in said
    assert not (tmp_path / "runs").exists()


def test_a_plan_of_everything_reads_no_weights(bare: Path, tmp_path: Path) -> None:
    cells = run_experiment_suite(str(bare), ["exp9", "exp18"], out=tmp_path / "runs", limit=4, dry_run=True)
    assert [cell.outcome for cell in cells] == ["planned", "planned"]
    assert all(cell.plan and cell.pace and cell.pace.of(cell.plan) > 0 for cell in cells)
    assert not (tmp_path / "runs").exists()


def test_a_plan_counts_what_a_run_does() -> None:
    model = mi.load("tiny-llama")
    run = Run(model, exp13.Config(n_train=8))
    asked = steering_runs.steered(run, ())
    assert exp13.plan(run, asked).counterfactuals == len(asked) * len(steering_runs.edits(run))


def test_a_plan_of_patching_has_the_cells_of_the_run(bare: Path) -> None:
    model = mi.load("tiny-llama")
    query = load_world().queries[0]
    case = Case(query, "failure", load_world().queries[7])
    planned, done = (
        [
            ((grid.study, grid.arm, grid.position, grid.length), [str(v[0].site) for v in grid.variants])
            for grid in back_patching.grids_of(run, case, *states)
        ]
        for run, states in (
            (Run(outline(bare), exp9.Config()), [back_patching.any_states]),
            (Run(model, exp9.Config()), []),
        )
    )
    assert planned == done


def test_a_collection_is_no_larger_than_its_plan_says() -> None:
    model, prompts = mi.load("tiny-llama"), ["The capital of France is", "Hello"]
    timed = store.estimate(model, prompts, "resid_post", positions="all")
    sized = store.size(outline("tiny-llama"), prompts, "resid_post", positions="all")
    assert vars(sized) == {name: value for name, value in vars(timed).items() if name != "seconds"}
    longer = store.size(outline("tiny-llama"), prompts, "resid_post", positions="all", max_new_tokens=5)
    assert longer.n_rows == sized.n_rows + 10


@pytest.mark.slow
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
