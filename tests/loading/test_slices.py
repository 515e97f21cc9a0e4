"""Rows of stored tensors: equal to those of the tensor read whole, in no more memory than they take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_interp.errors import CheckpointError
from mlx_interp.loading.checkpoint import read_checkpoint
from mlx_interp.loading.slices import Stored
from mlx_interp.loading.weights import load_network
from tests.engine.test_split import LAUNCHER, ROOT
from tests.loading.checkpoints import write_checkpoint

ARRAYS = {
    "float32": mx.random.normal((7, 5)),
    "bfloat16": mx.random.normal((7, 5)).astype(mx.bfloat16),
    "float16": mx.random.normal((7, 5)).astype(mx.float16),
    "words": mx.random.randint(0, 2**31 - 1, (7, 5)).astype(mx.uint32),
    "bytes": mx.random.randint(0, 255, (7, 5)).astype(mx.uint8),
    "experts": mx.random.normal((3, 7, 5)),
}


def stored_in(folder: Path) -> tuple[Stored, dict[str, mx.array]]:
    file = folder / "model.safetensors"
    mx.save_safetensors(str(file), ARRAYS)
    lazy = mx.load(str(file))
    stored = Stored([file])
    stored.note(lazy)  # type: ignore[arg-type]
    stored.keep(lazy.values())  # type: ignore[union-attr, arg-type]
    return stored, lazy  # type: ignore[return-value]


@pytest.mark.parametrize("rows", [slice(0, 3), slice(3, 7), slice(6, 7), slice(0, 7)])
@pytest.mark.parametrize("name", ARRAYS)
def test_rows_are_those_of_the_tensor_read_whole(name: str, rows: slice, tmp_path: Path) -> None:
    stored, lazy = stored_in(tmp_path)
    found = stored.rows(lazy[name], rows)
    assert found.dtype == ARRAYS[name].dtype
    assert found.shape == ARRAYS[name][..., rows, :].shape
    assert mx.array_equal(found, ARRAYS[name][..., rows, :])


def test_rows_come_from_the_file_and_those_of_what_is_no_stored_tensor_from_memory(tmp_path: Path) -> None:
    stored, lazy = stored_in(tmp_path)
    turned = lazy["float32"].T
    assert mx.array_equal(stored.rows(turned, slice(1, 3)), ARRAYS["float32"].T[1:3])
    other = {**ARRAYS, "float32": ARRAYS["float32"] + 1}
    mx.save_safetensors(str(tmp_path / "other.safetensors"), other)
    (tmp_path / "other.safetensors").replace(tmp_path / "model.safetensors")  # what is read now is the file's
    assert mx.array_equal(stored.rows(lazy["float32"], slice(1, 3)), other["float32"][1:3])


def test_a_file_that_has_gone_or_was_cut_is_named(tmp_path: Path) -> None:
    stored, lazy = stored_in(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    last = max(stored.places.values(), key=lambda place: place[1].start)[1]
    name = next(name for name, array in lazy.items() if stored.places[id(array)][1] == last)
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*too early.*copy the file again"):
        stored.rows(lazy[name], slice(0, 7))
    file.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        stored.rows(lazy["float32"], slice(0, 2))


@pytest.mark.parametrize(("model_type", "bits"), [("llama", None), ("qwen2", 4), ("gemma2", 8)])
def test_every_matrix_of_a_checkpoint_is_found_in_its_file(model_type: str, bits: int | None, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, model_type=model_type, bits=bits)
    checkpoint = read_checkpoint(folder)
    stored = Stored(checkpoint.files)
    network, _ = load_network(checkpoint, stored)
    matrices = {name: array for name, array in tree_flatten(network.parameters()) if array.ndim > 1}
    assert matrices
    for name, array in matrices.items():
        assert id(array) in stored.places, name
        assert mx.array_equal(stored.rows(array, slice(1, 4)), array[1:4]), name


SCRIPT = """
import json, resource, sys
import mlx_interp as mi

mi.load(sys.argv[1], shard=True)  # what loading takes beside weights: packages, tokenizers
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
model = mi.load(sys.argv[2], shard=True, check=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print("found", json.dumps([peak - before, model.weight_bytes]), flush=True)
"""
LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 7,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 8192,
}
"""350 MB in float32."""


@pytest.mark.slow
@pytest.mark.skipif(not LAUNCHER.exists(), reason="mlx.launch is not installed beside Python")
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
@pytest.mark.parametrize("n", [2, 3])
def test_loading_takes_a_process_its_share_of_the_file_and_little_more(n: int, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "large", **LARGE)
    small = write_checkpoint(tmp_path / "small")
    size = (folder / "model.safetensors").stat().st_size
    command = [str(LAUNCHER), "-n", str(n), "--backend", "ring", sys.executable, "-c", SCRIPT, str(small), str(folder)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300, check=False)
    found = [json.loads(line.removeprefix("found ")) for line in done.stdout.splitlines() if line.startswith("found ")]
    assert len(found) == n, done.stdout + done.stderr
    for peak, kept in found:
        assert 1 / n - 0.01 < kept / size < 1 / n + 0.01
        assert kept / size < peak / size < 1 / n + 0.15, np.array(found) / size
