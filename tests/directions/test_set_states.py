"""States of a set are those of single runs, kept under all that changes them, and read back without a pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_interp import __main__ as command_line
from mlx_interp.directions.state_sets import Row, Rule, mean, set_states
from mlx_interp.errors import ConfigError, DataError
from mlx_interp.loading.load import load
from mlx_interp.model import Model

TEXTS = ("How do I sell bread?", "Is tea good?", "I like jazz. Is jazz good?", "Tell me how to carry a chair.")


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny-llama")


def rows(model: Model, texts: Sequence[str] = TEXTS) -> list[Row]:
    return [Row(text, model.prompt(text, chat=True), "Yes, tea is good.") for text in texts]


@pytest.mark.parametrize(
    ("rule", "places"), [("last", slice(-1, None)), ("prompt mean", slice(1, None)), ("reply mean", None)]
)
def test_every_row_is_that_of_a_run_alone(model: Model, rule: Rule, places: slice | None) -> None:
    found = set_states(model, rows(model), rule)
    assert found.shape == (4, model.n_layers, model.d_model)
    for row, states in zip(rows(model), found, strict=True):
        reply = model.tokenizer.encode(row.reply, add_special_tokens=False) if places is None else []
        at = places if places is not None else slice(len(row.prompt), None)
        alone = np.asarray(model.run([row.prompt.tokens + list(reply)], capture="resid_post").stack("resid_post"))
        np.testing.assert_allclose(states, alone[:, 0, at].mean(axis=1), rtol=1e-4, atol=1e-4)


def test_rows_keep_their_order_over_several_batches(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = set_states(model, rows(model))
    monkeypatch.setattr("mlx_interp.model.default_budget", lambda: 1)
    np.testing.assert_allclose(set_states(model, rows(model)), whole, rtol=1e-4, atol=1e-4)


def test_a_kept_set_is_read_back_without_a_pass(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = set_states(model, rows(model), folder=tmp_path)
    monkeypatch.setattr(Model, "batches", lambda *_, **__: pytest.fail("a pass was made"))
    np.testing.assert_array_equal(set_states(model, rows(model), folder=tmp_path), first)


def test_whatever_changes_the_states_changes_the_file(model: Model, tmp_path: Path) -> None:
    def kept() -> int:
        return len(list(tmp_path.glob("*.safetensors")))

    def changed(name: str, value: Any) -> None:
        before, old = kept(), getattr(model, name)
        setattr(model, name, value)
        try:
            set_states(model, rows(model), folder=tmp_path)
        finally:
            setattr(model, name, old)
        assert kept() == before + 1, name

    set_states(model, rows(model), folder=tmp_path)
    for index, other in enumerate((rows(model)[:3], rows(model, TEXTS[::-1]), [*rows(model)[:3], rows(model)[0]]), 2):
        set_states(model, other, folder=tmp_path)
        assert kept() == index
    set_states(model, rows(model), "prompt mean", folder=tmp_path)
    set_states(model, [Row(f"other {n}", row.prompt) for n, row in enumerate(rows(model))], folder=tmp_path)
    assert kept() == 6
    changed("weights_hash", "of other weights")
    changed("quantization", "8-bit, group 64")
    template = model.tokenizer.chat_template
    model.tokenizer.chat_template = template + "{# which changes no token #}"
    try:
        set_states(model, rows(model), folder=tmp_path)
    finally:
        model.tokenizer.chat_template = template
    assert kept() == 9


def test_a_damaged_file_is_made_anew(model: Model, tmp_path: Path) -> None:
    first = set_states(model, rows(model), folder=tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-40])
    np.testing.assert_array_equal(set_states(model, rows(model), folder=tmp_path), first)
    assert file.stat().st_size > first.nbytes


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_pass(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert set_states(model, rows(model), folder=tmp_path / "file" / "folder").shape[0] == 4


def test_means_are_summed_in_float64() -> None:
    states = np.full((4096, 1, 1), 1.0, np.float32)
    states[0] = 2.0**24  # the next float32 is 2 away: summed in single precision, ones are lost
    assert mean(states)[0, 0] == np.float32((2.0**24 + 4095) / 4096)


def test_mistakes_are_named(model: Model) -> None:
    with pytest.raises(ConfigError, match="did you mean 'last'"):
        set_states(model, rows(model), "lst")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has no row"):
        set_states(model, [])
    with pytest.raises(DataError, match="'b' has no reply"):
        set_states(model, [Row("b", model.prompt("Is tea good?", chat=True))], "reply mean")


def test_the_cache_command_lists_and_clears_what_is_named(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    for name, texts in (("apples", TEXTS), ("pears", TEXTS[:3])):
        set_states(model, rows(model, texts), folder=tmp_path / "states", name=name)
    (tmp_path / "states" / "broken.safetensors").write_bytes(b"no")
    (tmp_path / "data_sets").mkdir()
    (tmp_path / "data_sets" / "x.jsonl").write_text('{"n": 3, "value": "a/math", "repository": "someone/chats"}\n')
    assert command_line.main(["cache"]) == 0
    listed = capsys.readouterr().out
    assert all(word in listed for word in ("apples", "pears", "a/math", "cannot be read", str(tmp_path)))
    assert command_line.main(["cache", "--only", "apples", "--clear"]) == 0
    assert command_line.main(["cache"]) == 0
    listed = capsys.readouterr().out.rpartition("removed from")[2]
    assert "pears" in listed
    assert "apples" not in listed
