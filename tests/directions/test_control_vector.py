"""Control vectors in GGUF files: as llama.cpp and repeng read and write them, and refused where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader, GGUFWriter

from mlx_interp.directions import Direction, load_control_vector, save_control_vector
from mlx_interp.errors import DirectionError
from mlx_interp.model import Model
from tests.tiny import tiny_model

TOKENS = [5, 9, 2, 31]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("llama")


def direction(model: Model, site: str, seed: int = 0) -> Direction:
    vector = np.random.default_rng(seed).normal(size=model.d_model).astype(np.float32)
    return Direction(
        mx.array(vector), site, -1, "drawn", "plain", model.model_id, model.weights_hash, "", model.n_layers, 0.0
    )


def written(path: Path, tensors: Mapping[str, npt.NDArray[np.float32]], architecture: str = "controlvector") -> Path:
    """A file as repeng 0.4.0 writes it."""
    writer = GGUFWriter(path, architecture)
    writer.add_string(f"{architecture}.model_hint", "llama")
    writer.add_uint32(f"{architecture}.layer_count", len(tensors))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_is_written_is_read_by_the_formats_own_reader(model: Model, tmp_path: Path) -> None:
    one, two = direction(model, "resid_post.1"), direction(model, "resid_post.2", seed=1)
    save_control_vector(tmp_path / "v.gguf", [two, one], model)
    reader = GGUFReader(tmp_path / "v.gguf")
    fields = {name: reader.get_field(name).contents() for name in reader.fields if not name.startswith("GGUF.")}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 2
    found = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
    assert list(found) == ["direction.1", "direction.2"]
    np.testing.assert_array_equal(found["direction.1"], np.asarray(one.vector))
    assert [path.name for path in tmp_path.iterdir()] == ["v.gguf"]


def test_a_file_of_repengs_form_does_what_additions_of_its_vectors_do(model: Model, tmp_path: Path) -> None:
    one, two = (direction(model, f"resid_post.{layer}", seed=layer) for layer in (0, 2))
    file = {f"direction.{layer}": np.asarray(d.vector) for layer, d in ((0, one), (2, two))}
    held = load_control_vector(written(tmp_path / "v.gguf", file), model)
    assert held.model_hint == "llama"
    expected = model.run(TOKENS, interventions=[one.added(0.5), two.added(0.5)]).logits
    assert mx.array_equal(model.run(TOKENS, interventions=held.added(0.5)).logits, expected)
    only = model.run(TOKENS, interventions=held.added(0.5, layers=[2])).logits
    assert mx.array_equal(only, model.run(TOKENS, interventions=two.added(0.5)).logits)
    assert mx.array_equal(
        model.run(TOKENS, interventions=held).logits, model.run(TOKENS, interventions=[one, two]).logits
    )
    with pytest.raises(DirectionError, match="no vector for layer 1; there are 0, 2"):
        held.added(layers=[1])


def test_half_precision_is_read(model: Model, tmp_path: Path) -> None:
    half = np.asarray(direction(model, "resid_post.1").vector).astype(np.float16)
    held = load_control_vector(written(tmp_path / "v.gguf", {"direction.1": half}), model)  # type: ignore[dict-item]
    np.testing.assert_array_equal(np.asarray(held.vectors[1]), half.astype(np.float32))


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("resid_post.0", "takes no control vector for layer 0"),
        ("mlp_out.1", "added to outputs of blocks: resid_post.LAYER"),
    ],
)
def test_what_no_control_vector_can_say_is_refused(model: Model, tmp_path: Path, site: str, message: str) -> None:
    with pytest.raises(DirectionError, match=message):
        save_control_vector(tmp_path / "v.gguf", direction(model, site), model)
    assert not list(tmp_path.iterdir())


def test_directions_of_one_layer_of_other_weights_and_none_are_refused(model: Model, tmp_path: Path) -> None:
    one = direction(model, "resid_post.1")
    for given, message in (
        ([one, one], "two directions of one layer"),
        ([replace(one, weights_hash="f" * 64)], "made on other weights"),
        ([], "needs a direction at least"),
    ):
        with pytest.raises(DirectionError, match=message):
            save_control_vector(tmp_path / "v.gguf", given, model)
    with pytest.raises(DirectionError, match="cannot be written"):
        save_control_vector(tmp_path / "missing" / "v.gguf", one, model)


def test_files_that_do_not_fit_say_both_sides(model: Model, tmp_path: Path) -> None:
    ones = np.ones(model.d_model, np.float32)
    for number, (tensors, architecture, message) in enumerate(
        [
            ({"direction.7": ones}, "controlvector", "vector for layer 7; .* has 3 layers, counted from 0"),
            ({"direction.1": ones[:4]}, "controlvector", f"width 4; .* has {model.d_model}"),
            ({"direction.x": ones}, "controlvector", "named direction.LAYER"),
            ({"direction.1": ones * np.nan}, "controlvector", "not finite"),
            ({"direction.1": ones}, "llama", "a GGUF file of llama, not a control vector"),
        ]
    ):
        path = written(tmp_path / f"{number}.gguf", tensors, architecture)
        with pytest.raises(DirectionError, match=message):
            load_control_vector(path, model)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((tmp_path / "0.gguf").read_bytes()[:-40])
    with pytest.raises(DirectionError, match="cannot be read as a control vector"):
        load_control_vector(cut, model)
    with pytest.raises(DirectionError, match="cannot be read as a control vector"):
        load_control_vector(tmp_path / "none.gguf", model)


def test_it_is_at_the_front_door() -> None:
    assert mi.directions.load_control_vector is load_control_vector
