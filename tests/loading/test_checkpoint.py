"""Broken checkpoints are refused before they are run, with the file named."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.errors import CheckpointError, UnsupportedModel
from mlx_interp.loading.checkpoint import INDEX, describe_quantization, read_checkpoint
from mlx_interp.loading.fingerprint import weights_hash
from tests.loading.checkpoints import write_checkpoint

SHARD = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


def edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(folder: Path, change: Callable[[dict[str, mx.array]], None]) -> None:
    weights = dict(mx.load(str(folder / SHARD)))
    mx.eval(list(weights.values()))
    change(weights)
    mx.save_safetensors(str(folder / SHARD), weights)


def assert_refused(folder: Path, message: str, error: type[Exception] = CheckpointError) -> None:
    with pytest.raises(error, match=message):
        mi.load(folder)


def test_a_whole_checkpoint_loads_and_knows_itself(folder: Path) -> None:
    model = mi.load(folder)
    assert (model.family, model.n_layers, model.d_vocab, model.quantization) == ("llama", 2, 64, None)
    assert model.path == folder
    assert len(model.weights_hash) == 64


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert_refused(folder, "no config.json")


def test_a_config_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama",')
    assert_refused(folder, r"config\.json: cannot be read as JSON")


def test_a_config_that_is_a_list_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    assert_refused(folder, "expected a JSON object, found list")


def test_a_folder_without_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert_refused(folder, "no tokenizer")


def test_a_damaged_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "no such"}}')
    assert_refused(folder, "tokenizer cannot be loaded")


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / SHARD).unlink()
    assert_refused(folder, "there are no weights here")


def test_weights_in_another_format_are_named_with_the_way_out(folder: Path) -> None:
    (folder / SHARD).rename(folder / "weights.npz")
    assert_refused(folder, r"found weights\.npz; only safetensors are read: convert with `mlx_lm.convert`")


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_truncated_weights_are_refused(folder: Path, keep: float) -> None:
    whole = (folder / SHARD).read_bytes()
    kept = int(len(whole) * keep) if isinstance(keep, float) else keep
    (folder / SHARD).write_bytes(whole[:kept])
    assert_refused(folder, "truncated|no safetensors header")


def test_a_longer_file_than_its_header_says_is_refused(folder: Path) -> None:
    with (folder / SHARD).open("ab") as file:
        file.write(b"\0" * 16)
    assert_refused(folder, "longer than its header says")


def test_a_corrupted_header_is_refused(folder: Path) -> None:
    raw = bytearray((folder / SHARD).read_bytes())
    raw[9:20] = b"\xff" * 11
    (folder / SHARD).write_bytes(raw)
    assert_refused(folder, "header is corrupted")


def test_a_header_whose_ranges_do_not_fit_its_shapes_is_refused(folder: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 8]}}).encode()
    (folder / SHARD).write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    assert_refused(folder, "header is corrupted")


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": SHARD, "b": "model-00002-of-00002.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))
    assert_refused(folder, r"1 of 2 files .* missing, first 'model-00002-of-00002\.safetensors'")


def test_the_same_tensor_in_two_files_is_refused(folder: Path) -> None:
    shutil.copy(folder / SHARD, folder / "model-old.safetensors")
    assert_refused(folder, "is in another file too")


def test_a_missing_tensor_is_named(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop("model.norm.weight"))
    assert_refused(folder, r"do not fit: .*model\.norm\.weight")


def test_an_unexpected_tensor_is_named(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update(extra=mx.zeros(3)))
    assert_refused(folder, "do not fit: .*extra")


def test_a_tensor_of_another_shape_is_refused(folder: Path) -> None:
    edit_config(folder, intermediate_size=200)
    assert_refused(folder, "do not fit: .*shape")


def test_a_config_that_lacks_a_field_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    assert_refused(folder, "do not fit: .*hidden_size")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_weights_are_named(folder: Path, value: float) -> None:
    def damage(weights: dict[str, mx.array]) -> None:
        weights["model.norm.weight"] = mx.array([value] + [1.0] * 95)

    edit_weights(folder, damage)
    assert_refused(folder, r"model\.norm\.weight holds infinities or NaNs")


def test_an_architecture_that_is_not_described_is_refused(folder: Path) -> None:
    edit_config(folder, model_type="lama")
    assert_refused(folder, "did you mean 'llama'", UnsupportedModel)


def test_code_in_a_checkpoint_is_never_run(folder: Path) -> None:
    (folder / "trap.py").write_text("raise SystemExit('ran')")
    edit_config(folder, model_file="trap.py")
    assert_refused(folder, "is never run")


def test_the_hash_follows_contents_and_not_the_folder(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    files = read_checkpoint(folder).files
    before = weights_hash(folder, files)
    assert weights_hash(copy, read_checkpoint(copy).files) == before
    edit_weights(copy, lambda weights: weights.update({"model.norm.weight": mx.zeros(96)}))
    assert weights_hash(copy, read_checkpoint(copy).files) != before
    edit_config(folder, rope_theta=5.0)
    assert weights_hash(folder, files) != before


def test_a_cache_that_cannot_be_written_does_not_fail_a_load(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path / "file" / "below"))
    assert mi.load(folder).weights_hash


def test_a_damaged_cache_is_rebuilt(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path / "cache"))
    before = mi.load(folder).weights_hash
    (tmp_path / "cache" / "file_hashes.json").write_text("{")
    assert mi.load(folder).weights_hash == before
    assert json.loads((tmp_path / "cache" / "file_hashes.json").read_text())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (None, None),
        ({"bits": 4, "group_size": 64}, "4-bit, group 64"),
        ({"bits": 4, "group_size": 64, "model.layers.0.mlp.down_proj": {"bits": 6, "group_size": 64}},
         "mixed 4- and 6-bit, group 64"),
        ({"bits": 4, "group_size": 32, "mode": "mxfp4"}, "4-bit mxfp4, group 32"),
        ({"quant_method": "fp8"}, "fp8"),
    ],
)  # fmt: skip
def test_quantisation_is_said_in_words(settings: dict[str, object] | None, words: str | None) -> None:
    assert describe_quantization(settings) == words
