"""GGUF files that cannot be right: each is refused by an error that names what contradicts what."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.errors import CheckpointError, MlxInterpError, UnknownModel, UnsupportedModel
from mlx_interp.loading.gguf.reader import read_file
from tests.loading.checkpoints import write_checkpoint
from tests.loading.gguf_files import CONFIGS, N_TOKENS, as_written, byte_level, sentencepiece, write_gguf


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path / "cache"))


def refusal(path: Path) -> str:
    with pytest.raises(MlxInterpError) as refused:
        mi.load(path)
    assert isinstance(refused.value, CheckpointError | UnsupportedModel)
    return str(refused.value)


def changed(path: Path, change: Callable[[bytearray], None]) -> Path:
    raw = bytearray(path.read_bytes())
    change(raw)
    path.write_bytes(raw)
    return path


def test_the_header_is_read_as_the_gguf_package_reads_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "small.gguf", "qwen2")
    ours, theirs = read_file(path), gguf.GGUFReader(path)
    assert ours.metadata == {
        key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")
    }
    assert [*ours.tensors] == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        assert ours.tensors[tensor.name].start == tensor.data_offset
        np.testing.assert_array_equal(ours.blocks(tensor.name).ravel(), tensor.data.view(np.uint8).ravel())


@pytest.mark.parametrize("share", [0.0001, 0.05, 0.5, 0.999])
def test_a_truncated_file_is_named_wherever_it_ends(share: float, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "small.gguf")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    said = message.removeprefix(f"{path}: ")  # pytest names the folder after the test
    assert said.startswith(("truncated", "no GGUF file"))


def test_a_foreign_file_is_named_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "no GGUF file: begins with b'vers'" in refusal(path)


def test_a_big_endian_file_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "small.gguf", endianess=gguf.GGUFEndian.BIG)
    assert "written big-endian" in refusal(path)


def test_another_version_is_named(tmp_path: Path) -> None:
    path = changed(write_gguf(tmp_path / "small.gguf"), lambda raw: raw.__setitem__(slice(4, 8), struct.pack("<I", 9)))
    assert "GGUF version 9: versions 2 and 3 are read" in refusal(path)


def test_one_part_of_a_split_model_is_refused_by_its_name_and_by_its_metadata(tmp_path: Path) -> None:
    assert "one of 3 parts" in refusal(write_gguf(tmp_path / "small-00001-of-00003.gguf"))
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "one of 2 parts of a split model: join them with `llama-gguf-split --merge`" in refusal(path)


def test_a_type_that_the_gguf_package_does_not_know_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "small.gguf")
    name = b"blk.1.ffn_up.weight"

    def unknown(raw: bytearray) -> None:
        place = raw.index(name) + len(name) + 4 + 2 * 8
        raw[place : place + 4] = struct.pack("<I", 999)

    assert "blk.1.ffn_up.weight is of type 999" in refusal(changed(path, unknown))


def test_a_type_that_cannot_be_dequantised_is_named(tmp_path: Path) -> None:
    weights = as_written(CONFIGS["llama"])["output_norm.weight"].astype(np.int32)
    message = refusal(write_gguf(tmp_path / "small.gguf", tensors={"output_norm.weight": weights}))
    assert "output_norm.weight is of type I32, which gguf cannot dequantise" in message


def test_an_architecture_that_is_not_described_is_named(tmp_path: Path) -> None:
    path = changed(
        write_gguf(tmp_path / "small.gguf"),
        lambda raw: raw.__setitem__(slice(0, len(raw)), raw.replace(b"llama", b"lxama")),
    )
    assert "GGUF architecture 'lxama' is not described: did you mean 'llama'" in refusal(path)


NARROW_HEADS = {"attention.key_length": 4, "attention.value_length": 4, "rope.dimension_count": 4}
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (NARROW_HEADS, ("blk.0.attn_q.weight is (48, 30), not (24, 30)", "attention.key_length is 24")),
        ({"attention.value_length": 6}, ("llama.attention.value_length is 6", "llama.attention.key_length is 8")),
        ({"embedding_length": 60}, ("token_embd.weight's columns is 30", "llama.embedding_length is 60")),
        ({"vocab_size": 99}, ("token_embd.weight's rows is 320", "llama.vocab_size is 99")),
        ({"feed_forward_length": 45}, ("blk.0.ffn_gate.weight is (44, 30)", "feed_forward_length is 45")),
        ({"block_count": 2}, ("tensor 'blk.2.", "llama.block_count is 2")),
        ({"block_count": 4}, ("tensor 'blk.3.attn_norm.weight' is missing",)),
        ({"block_count": None}, ("metadata lack llama.block_count",)),
        ({"attention.head_count_kv": 4}, ("llama.attention.head_count is 6", "llama.attention.head_count_kv is 4")),
        ({"rope.dimension_count": 4}, ("llama.rope.dimension_count is 4", "key_length is 8")),
        ({"rope.scaling.type": "spiral"}, ("llama.rope.scaling.type 'spiral'",)),
        ({**YARN, "rope.scaling.yarn_ext_factor": 2.0}, ("llama.rope.scaling.yarn_ext_factor = 2.0",)),
        ({"expert_count": 8}, ("llama.expert_count = 8 is not understood",)),
        ({"attention.clamp_kqv": 3.0}, ("llama.attention.clamp_kqv = 3.0 is not understood",)),
    ],
    ids=str,
)  # fmt: skip
def test_metadata_that_contradict_something_name_both(
    metadata: dict[str, Any], said: tuple[str, ...], tmp_path: Path
) -> None:
    message = refusal(write_gguf(tmp_path / "small.gguf", metadata=metadata))
    assert all(part in message for part in said), message


def test_a_tensor_that_has_no_place_is_named(tmp_path: Path) -> None:
    message = refusal(write_gguf(tmp_path / "small.gguf", tensors={"blk.0.attn_rot.weight": np.ones(3, np.float32)}))
    assert "tensor 'blk.0.attn_rot.weight' (3,) has no place in a llama" in message


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        ({**byte_level(), "tokens": byte_level()["tokens"][:-1]}, "has 319 tokens, token_embd.weight 320 rows"),
        ({**byte_level(), "eos_token_id": N_TOKENS}, f"tokenizer.ggml.eos_token_id is {N_TOKENS}, the vocabulary has"),
        ({**byte_level(), "pre": "qwen9"}, "tokenizer.ggml.pre is 'qwen9': did you mean"),
        ({**byte_level(), "model": "bert"}, "tokenizer.ggml.model is 'bert': known are gpt2, llama"),
        ({**byte_level(), "merges": None}, "tokenizer.ggml.merges is missing"),
        ({**byte_level(), "merges": ["x nothing"]}, "its tokenizer cannot be loaded"),
        (sentencepiece(scores=None), "tokenizer.ggml.scores is missing"),
        (sentencepiece(scores=[0.0]), f"tokenizer.ggml.scores has 1 entries for {N_TOKENS} tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_tokenizer_that_is_not_this_models_is_named(tokenizer: dict[str, Any], said: str, tmp_path: Path) -> None:
    message = refusal(write_gguf(tmp_path / "small.gguf", "qwen2", tokenizer=tokenizer))
    assert said in message


def test_a_folder_with_both_kinds_of_weights_names_both(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "both")
    write_gguf(folder / "small.gguf")
    message = refusal(folder)
    assert "model.safetensors and small.gguf" in message
    (folder / "model.safetensors").unlink()
    assert "no model*.safetensors, but small.gguf: give the path of that file" in refusal(folder)


def test_two_statements_of_a_quantisation_name_both(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "two", bits=4)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {**config["quantization"], "bits": 8}
    (folder / "config.json").write_text(json.dumps(config))
    assert "quantization.bits = 4 and quantization_config.bits = 8" in refusal(folder)


def test_a_file_that_is_not_there_is_an_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="no GGUF file"):
        mi.load(tmp_path / "none.gguf")
