"""A name leads to one place, or to an error with the nearest names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlx_interp.errors import UnknownModel
from mlx_interp.loading.names import EMBEDDED, MODELS, resolve
from tests.loading.checkpoints import write_checkpoint


def test_short_names_lead_to_the_hub() -> None:
    source = resolve("gemma-2-9b")
    assert (source.kind, source.model_id, source.revision) == ("hub", "mlx-community/gemma-2-9b-it-4bit", None)


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("-base")])
def test_a_base_model_is_called_like_its_instructed_one(name: str) -> None:
    """Same size, another repository; smollm2-135m is the packaged one."""
    plain = name.removesuffix("-base")
    base, other = MODELS[name], MODELS[plain]
    assert (base.n_layers, base.billions) == (other.n_layers, other.billions)
    assert base.hub_id != other.hub_id
    assert not base.hub_id.lower().endswith(("-it", "instruct", "chat", "4bit"))
    assert resolve(name).model_id == base.hub_id


def test_a_variant_changes_the_repository() -> None:
    assert resolve("gemma-2-9b:8bit").model_id == "mlx-community/gemma-2-9b-it-8bit"
    assert resolve("qwen-2.5-7b:bf16").model_id == "mlx-community/Qwen2.5-7B-Instruct-bf16"


@pytest.mark.parametrize("name", ["gemma-2-9b@abc123", "mlx-community/gemma-2-9b-it-4bit@abc123"])
def test_a_revision_is_pinned(name: str) -> None:
    source = resolve(name)
    assert (source.model_id, source.revision) == ("mlx-community/gemma-2-9b-it-4bit", "abc123")


def test_variant_and_revision_go_together() -> None:
    source = resolve("gemma-2-9b:8bit@main")
    assert (source.model_id, source.revision) == ("mlx-community/gemma-2-9b-it-8bit", "main")


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_names_lead_into_the_package(name: str) -> None:
    source = resolve(name)
    assert source.kind == "embedded"
    assert source.path is not None
    assert source.path.parts[-4:] == ("mlx_interp", "embedded", "checkpoints", name)


def test_a_folder_is_taken_before_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/name").path == (tmp_path / "owner" / "name").resolve()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gemma-2-9", "did you mean 'gemma-2-9b'"),
        ("tiny-lama", "did you mean 'tiny-llama'"),
        ("gemma-2-9b:9bit", "no variant '9bit' of gemma-2-9b: did you mean '8bit'"),
        ("gpt2:8bit", "variants are none"),
        ("./no/such/folder", "an existing folder"),
        ("", "a short name"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UnknownModel, match=re.escape(hint)):
        resolve(name)


def test_the_table_is_consistent() -> None:
    for name, model in MODELS.items():
        assert name == name.lower()
        assert re.fullmatch(r"[\w-]+/[\w.-]+", model.hub_id)
        assert 0.1 < model.gigabytes() < 40
