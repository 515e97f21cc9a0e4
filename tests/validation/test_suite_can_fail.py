"""The suite passes on sound models and catches every injected fault: a check that cannot fail would protect nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_interp
import validation
from tests.tiny import FAMILY_CONFIGS
from tests.validation.fault_table import FAULTS, PAGE, Fault, caught, loaded
from validation import directions, knowledge
from validation.check import LEVELS
from validation.suite import CHECKS

EMBEDDED_MODELS = ["tiny-llama", "tiny-gemma2", "tiny-qwen2", "tiny-mistral", "tiny-gpt2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_embedded_models_pass_with_nothing_left_out(name: str) -> None:
    report = validation.validate(loaded(name), "standard")
    assert report.passed, report.failed
    left_out = {result.name for result in report.results if result.status != "passed"}
    assert left_out == ({"one BOS"} if loaded(name).tokenizer.bos_token_id is None else set())


BEHAVIOUR = {check.name for check in [*knowledge.CHECKS, *directions.CHECKS]}
"""What a model must have learned; all else holds of random weights as well."""


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILY_CONFIGS))
def test_random_models_of_every_family_pass_what_needs_no_training(family: str) -> None:
    names = [check.name for check in CHECKS if check.name not in BEHAVIOUR]
    report = validation.validate(loaded(f"random-{family}"), "standard", only=names)
    assert report.passed, report.failed
    left_out = {result.name for result in report.results if result.status == "not applicable"}
    assert left_out <= {"answers are spelled as the model writes them"}  # it answers nothing


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_an_injected_fault_is_caught_by_its_check(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    result = caught(fault, monkeypatch)
    assert result.status == "failed"
    assert "positional argument" not in result.note, "the fault itself no longer fits what it replaces"


@pytest.mark.slow
def test_without_a_fault_the_same_checks_pass() -> None:
    for name, level in {(fault.model, fault.level) for fault in FAULTS}:
        checks = {fault.caught_by for fault in FAULTS if (fault.model, fault.level) == (name, level)}
        report = validation.validate(loaded(name), level, only=checks)
        assert {result.status for result in report.results} == {"passed"}, report.failed


def test_the_page_lists_every_fault_with_its_check() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in PAGE.read_text("utf-8").splitlines()]
    listed = [tuple(row) for row in rows if len(row) == 3][2:]
    assert listed == [(fault.name, fault.model, fault.caught_by) for fault in FAULTS]


def test_at_least_thirty_five_faults_are_injected() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 35


@pytest.mark.slow
def test_two_processes_that_pass_at_the_same_time_do_not_take_each_others_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlx_interp.load("tiny-llama")
    partials = []

    def replace(partial: Path, path: Path) -> None:
        partials.append(partial.name)
        partial.rename(path)

    monkeypatch.setattr("mlx_interp.reporting.files.os.replace", replace)
    for number in (11, 12):
        monkeypatch.setattr("validation.suite.os.getpid", lambda number=number: number)
        for known in tmp_path.glob("*.json"):
            known.unlink()
        assert not validation.gate(model, cache_dir=tmp_path).remembered
    assert len(set(partials)) == 2


def test_a_pass_is_remembered_and_a_failure_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("tiny-llama")
    with monkeypatch.context() as patch:
        FAULTS[5].inject(patch, model)
        assert not validation.gate(model, cache_dir=tmp_path).passed
    first = validation.gate(model, cache_dir=tmp_path)
    second = validation.gate(model, cache_dir=tmp_path)
    assert first.passed
    assert not first.remembered
    assert second.passed
    assert second.remembered
    assert second.results == first.results
    monkeypatch.setattr(model, "weights_hash", "other")
    assert not validation.gate(model, cache_dir=tmp_path).remembered


@pytest.mark.slow
def test_the_next_process_finds_the_pass_of_the_last_one(tmp_path: Path) -> None:
    """What a pass is remembered by holds no address and no order of a set: both change from process to process."""
    ask = "import sys, validation, mlx_interp as mi; from pathlib import Path; "
    ask += "print(validation.gate(mi.load('tiny-gemma2'), cache_dir=Path(sys.argv[1])).remembered)"
    found = []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", ask, str(tmp_path)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        found.append(
            subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
        )
    assert found == ["False", "True"]


@pytest.mark.slow
def test_a_registered_family_is_checked_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("tiny-llama")
    monkeypatch.setattr("validation.suite.PACKAGED", frozenset({"gemma2"}))
    assert not any(validation.gate(model, cache_dir=tmp_path).remembered for _ in range(2))


@pytest.mark.slow
def test_a_damaged_memory_of_a_pass_is_not_a_pass(tmp_path: Path) -> None:
    model = loaded("tiny-llama")
    validation.gate(model, cache_dir=tmp_path)
    (remembered,) = tmp_path.iterdir()
    remembered.write_text(json.dumps({"model": "x", "level": "quick", "results": []}), encoding="utf-8")
    assert not validation.gate(model, cache_dir=tmp_path).remembered


def test_what_cannot_be_checked_is_not_applicable_with_a_reason_never_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlx_interp.load("tiny-llama")
    monkeypatch.setattr(model.tokenizer._tokenizer, "chat_template", None)
    names = ["a direction moves refusals both ways", "chat template present"]
    report = validation.validate(model, "standard", only=names)
    assert [result.status for result in report.results] == ["not applicable"] * 2
    assert all(result.note for result in report.results)
    assert not report.passed


def test_the_first_undefined_activation_is_located_by_layer_and_site(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("tiny-llama")
    down = model.network.layers[3].mlp.down_proj
    monkeypatch.setitem(down, "weight", down.weight * mx.array(float("nan")))
    (result,) = validation.validate(model, only=["all activations are finite"]).results
    assert (result.status, result.note) == ("failed", "first at mlp_out.3")


def test_a_model_that_knows_nothing_is_not_judged_by_its_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlx_interp.load("tiny-llama")
    for layer in model.network.layers:
        norm = layer.post_attention_layernorm
        monkeypatch.setitem(norm, "weight", norm.weight * -3)
    report = validation.validate(model, "standard", only=["lens finds known facts", "two-hop entities appear"])
    assert {result.status for result in report.results} == {"not applicable"}


@pytest.mark.slow
def test_a_level_carries_out_all_checks_below_it() -> None:
    names = [{check.name for check in CHECKS if check.belongs_to(level)} for level in LEVELS]
    assert names[0] < names[1] < names[2]
    assert {result.name for result in validation.validate(loaded("tiny-llama"), "quick").results} == names[0]
