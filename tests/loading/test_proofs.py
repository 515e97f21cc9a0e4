"""A self-check that passed is remembered, and repeated as soon as anything it depends on has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

import mlx_interp as mi
from mlx_interp.errors import CheckpointError
from mlx_interp.loading import proofs
from mlx_interp.model import Model


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of models whose self-check ran; the cache is a folder of this test."""
    ran: list[str] = []
    original = Model.self_check
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path))
    monkeypatch.setattr(Model, "self_check", lambda self: (ran.append(self.name), original(self)))
    return ran


def test_a_proof_is_remembered_by_weights_dtype_and_code(checked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    mi.load("tiny-llama")
    mi.load("tiny-llama")
    assert checked == ["tiny-llama"]
    mi.load("tiny-llama", dtype="bfloat16")
    mi.load("tiny-llama", dequantize=False)
    mi.load("tiny-qwen2")
    assert checked == ["tiny-llama", "tiny-llama", "tiny-llama", "tiny-qwen2"]
    monkeypatch.setattr(proofs, "_code", lambda: "changed")
    mi.load("tiny-llama")
    assert len(checked) == 5


def test_a_failure_is_never_remembered_and_check_false_skips(
    checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Model) -> None:
        raise CheckpointError("no")

    monkeypatch.setattr(Model, "self_check", fails)
    for _ in range(2):
        with pytest.raises(CheckpointError):
            mi.load("tiny-llama")
    mi.load("tiny-llama", check=False)


def test_a_cache_that_cannot_be_written_is_no_error(
    checked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path / "file" / "below"))
    mi.load("tiny-llama")
    assert checked == ["tiny-llama"]
