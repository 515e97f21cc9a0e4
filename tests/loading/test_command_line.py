"""`python -m mlx_interp` answers questions, and mistakes without a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_interp import __main__ as command_line
from mlx_interp.loading import blas, doctor
from mlx_interp.loading.names import MODELS
from mlx_interp.loading.speed import MATMUL, READING, Speed, measured_speeds
from tests.loading.checkpoints import write_checkpoint


def test_models_lists_every_short_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["models"]) == 0
    output = capsys.readouterr().out
    assert [name for name in MODELS if name not in output] == []


def test_doctor_measures_and_answers_for_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "measured_speeds", lambda: measured_speeds(64))
    folder = write_checkpoint(tmp_path / "model", bits=4)
    assert command_line.main(["doctor", "--model", str(folder)]) == 0
    output = capsys.readouterr().out
    names = ("Python", "mlx-lm", "BLAS", "device", "free memory", "free disk", "matmul, float32", "exp, float32")
    for what in (*names, "matmul, 4-bit weights", "reading weights", "here", "estimated speed: at most"):
        assert what in output


def test_estimated_speed_is_bound_by_weights_read_and_products_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "on_cpu", lambda: True)
    monkeypatch.setattr(doctor, "free_memory", lambda: 10**11)
    speeds = [Speed(MATMUL, 100.0, "GFLOP/s"), Speed(READING, 10.0, "GB/s")]
    need = doctor.Need("m", 2, cached=True, stored_bytes=4e9, dense_bytes=32e9)  # 8e9 weights
    assert doctor.estimated_speed(need, speeds) == pytest.approx((100e9 / 16e9, 10e9 / 32e9))
    monkeypatch.setattr(doctor, "on_cpu", lambda: False)
    assert doctor.estimated_speed(need, speeds) == pytest.approx((100e9 / 16e9, 10e9 / 4e9))
    monkeypatch.setattr(doctor, "free_memory", lambda: 10**9)
    assert doctor.estimated_speed(need, speeds) is None


def test_readiness_says_what_is_left_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    need = doctor.Need("gemma-2-9b", 42, cached=False, stored_bytes=5e9, dense_bytes=37e9)
    monkeypatch.setattr(doctor, "free_memory", lambda: 10**9)
    monkeypatch.setattr(command_line, "free_disk", lambda: 10**9)
    said = command_line.readiness(need, [])
    assert "mlx-interp download gemma-2-9b" in said
    assert "too little room" in said
    assert "does not fit" in said


@pytest.mark.parametrize("arguments", [["doctor", "--model", "gemma-2-9"], ["download", "gemma-2-9"]])
def test_a_mistyped_name_is_an_error_of_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no model 'gemma-2-9': did you mean 'gemma-2-9b'")
    assert error.count("\n") == 1


def test_help_teaches_the_kinds_of_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    output = capsys.readouterr().out
    for word in ("tiny-gemma2", "gemma-2-9b:8bit", "name@revision", "doctor --model"):
        assert word in output


def test_the_memory_of_a_folder_follows_from_its_files(tmp_path: Path) -> None:
    """Random 4-bit and 8-bit copies of one model: stored sizes differ, float32 sizes do not."""
    four = doctor.need_of(str(write_checkpoint(tmp_path / "four", bits=4)))
    eight = doctor.need_of(str(write_checkpoint(tmp_path / "eight", bits=8)))
    assert four.stored_bytes is not None
    assert eight.stored_bytes is not None
    assert four.stored_bytes < 0.7 * eight.stored_bytes
    assert four.dense_bytes == eight.dense_bytes


def test_fitting_depends_on_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    need = doctor.Need("m", 2, cached=False, stored_bytes=4e9, dense_bytes=30e9)
    monkeypatch.setattr(doctor, "on_cpu", lambda: True)
    answers = []
    for gigabytes in (50, 10, 2):
        monkeypatch.setattr(doctor, "free_memory", lambda size=gigabytes: int(size * 1e9))
        answers.append(need.fits())
    assert answers == ["yes", "slowly", "no"]


def test_a_slow_blas_is_answered_with_the_command_that_installs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "on_cpu", lambda: True)
    monkeypatch.setattr(blas.sys, "platform", "linux")
    monkeypatch.setattr(blas.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(blas, "load_fast_blas", lambda: None)
    assert "-m pip install mkl" in doctor.advice([Speed("matmul, float32", 5.0, "GFLOP/s")])[0]


def test_two_builds_of_mlx_that_overwrite_each_other_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "versions", lambda names: [("mlx-cpu", "1"), ("mlx-cuda-12", "1")])
    assert any("overwrite each other's files" in line for line in doctor.advice([]))
