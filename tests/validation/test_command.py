"""`python -m validation`: its exit status, what it writes, and that each finding says what a reader needs."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

import validation
from tests.validation.fault_table import FAULTS, loaded
from validation.__main__ import main
from validation.check import float32_error, rounding_bound
from validation.suite import Report, validate


@pytest.mark.slow
def test_a_sound_model_gives_status_0_a_report_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_file = tmp_path / "new" / "found.json"
    arguments = ["--model", "tiny-gpt2", "--model", "tiny-qwen2", "--level", "quick", "--out", str(tmp_path)]
    assert main([*arguments, "--json", str(json_file)]) == 0
    found = json.loads(json_file.read_text(encoding="utf-8"))
    assert [(report["model"], report["passed"]) for report in found] == [("tiny-gpt2", True), ("tiny-qwen2", True)]
    for report in found:
        page = (tmp_path / "validation" / f"{report['model']}.md").read_text(encoding="utf-8")
        for result in report["results"]:
            assert all(result[part] for part in ("name", "measured", "bound", "why_bound", "protects", "look_at"))
            assert f"**{result['name']}** protects against" in page
    assert "tiny-qwen2, quick: passed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_failed_check_gives_status_1_and_says_what_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (fault,) = [fault for fault in FAULTS if fault.name == "steering leaks into the next run"]
    fault.inject(monkeypatch, loaded("tiny-llama"))
    monkeypatch.setattr("validation.__main__.mlx_interp.load", lambda name, memory: loaded(name))
    assert main(["--model", "tiny-llama", "--level", "quick", "--out", str(tmp_path)]) == 1
    assert "Look at mlx_interp/engine/apply_edits.py" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_gives_status_2_and_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["--model", "tiny-llamma", "--model", "tiny-gpt2"]
    assert main([*names, "--level", "quick", "--out", str(tmp_path)]) == 2
    assert "tiny-llama" in capsys.readouterr().err  # what was probably meant
    assert (tmp_path / "validation" / "tiny-gpt2.md").exists()


def test_the_bound_follows_dtype_depth_and_what_the_device_does_to_float32() -> None:
    assert float32_error() < 1e-5  # the CPU of these tests
    assert rounding_bound(mx.float32, 26, 4e-7) == 1e-4
    assert rounding_bound(mx.float32, 26, 3e-4) == rounding_bound(mx.float16, 26, 4e-7)
    assert rounding_bound(mx.bfloat16, 26, 0.0) == 8 * rounding_bound(mx.float16, 26, 0.0)


def test_why_the_bound_names_dtype_bits_and_device() -> None:
    (result,) = validate(loaded("tiny-llama, float16"), only=["padding is invisible"]).results
    assert "float16 on cpu, 4-bit, group 64 dequantised" in result.why_bound
    assert "8 layers" in result.why_bound


def test_a_report_in_which_nothing_applied_is_no_pass() -> None:
    assert not Report("empty", "quick", ()).passed
    assert not validation.validate(loaded("tiny-llama"), only=["no such check"]).passed
