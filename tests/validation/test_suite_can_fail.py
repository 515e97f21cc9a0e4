"""The suite passes on sound models and catches every injected fault: a check that cannot fail would protect nothing."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

import mlx_interp
import validation
from mlx_interp.model import Model
from tests.validation.faults import FAULTS, Fault


@cache
def loaded(name: str) -> Model:
    return mlx_interp.load(name)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2", "tiny-qwen2"])
def test_embedded_models_pass_with_nothing_left_out(name: str) -> None:
    report = validation.validate(loaded(name), "standard")
    assert report.passed, report.failed
    assert {result.status for result in report.results} == {"passed"}


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_an_injected_fault_is_caught_by_its_check(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(fault.model)
    fault.inject(monkeypatch, model)
    report = validation.validate(model, "quick")
    assert not report.passed
    assert fault.caught_by in {result.name for result in report.failed}


def test_faults_leave_no_trace() -> None:
    for name in {fault.model for fault in FAULTS}:
        assert validation.validate(loaded(name), "quick").passed


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


def test_a_damaged_memory_of_a_pass_is_not_a_pass(tmp_path: Path) -> None:
    model = loaded("tiny-llama")
    validation.gate(model, cache_dir=tmp_path)
    (remembered,) = tmp_path.iterdir()
    remembered.write_text(json.dumps({"model": "x", "level": "quick", "results": []}), encoding="utf-8")
    assert not validation.gate(model, cache_dir=tmp_path).remembered
