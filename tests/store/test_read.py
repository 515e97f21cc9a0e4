"""Reading a store: every row once, in any order asked for, by site and category."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

import mlx_interp as mi
from mlx_interp.errors import DataError, SiteError, StoreError
from mlx_interp.reporting.records import open_records
from mlx_interp.store import open as open_store
from mlx_interp.store.manifest import SAMPLES_FILE, append_checksum
from tests.store.collecting import KINDS, SITES, collect_many, random_prompts
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> mi.ActivationStore:
    return collect_many(tmp_path_factory.mktemp("store"), n=90)


def test_an_array_over_shards_reads_like_one_array(store: mi.ActivationStore):
    array = store.array("resid_post.1")
    whole = np.asarray(array)
    assert len(store.shards) > 5
    assert whole.shape == array.shape == (len(store), 30)
    rng = np.random.default_rng(0)
    for key in (
        0,
        -1,
        slice(3, 200),
        slice(5, 5),
        slice(None, None, 7),
        slice(None, None, -1),
        rng.integers(-len(store), len(store), 50),
        rng.random(len(store)) < 0.2,
        rng.integers(0, len(store), (4, 6)),
    ):
        np.testing.assert_array_equal(array[key], whole[key])
    np.testing.assert_array_equal(np.stack(list(array)), whole)
    with pytest.raises(IndexError):
        array[len(store)]
    with pytest.raises(IndexError, match="rows are indexed alone"):
        array[3, 4]


def test_batches_hold_every_row_once_an_epoch_in_an_order_of_their_own(store: mi.ActivationStore):
    whole = np.asarray(store.array("resid_post.2"))
    epoch = list(store.batches("resid_post.2", 32, seed=1))
    assert {batch.shape for batch in epoch[:-1]} == {(32, 30)}
    assert all(batch.dtype == np.float32 for batch in epoch)
    rows = np.concatenate(epoch)
    assert not np.array_equal(rows, whole)
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(whole, axis=0))
    assert len(rows) == len(whole)
    again = np.concatenate(list(store.batches("resid_post.2", 32, seed=1)))
    other = np.concatenate(list(store.batches("resid_post.2", 32, seed=2)))
    two = np.concatenate(list(store.batches("resid_post.2", 32, seed=1, epochs=2)))
    np.testing.assert_array_equal(rows, again)
    assert not np.array_equal(rows, other)
    np.testing.assert_array_equal(two[: len(rows)], rows)
    assert not np.array_equal(two[len(rows) :], rows)


def test_one_category_is_read_alone(store: mi.ActivationStore):
    assert store.categories == dict.fromkeys(KINDS, 30)
    rows = store.rows("toxic")
    assert {store.samples[number].category for number in store.sample_numbers[rows]} == {"toxic"}
    assert len(rows) == sum(sample.n_rows for sample in store.samples if sample.category == "toxic")
    read = np.concatenate(list(store.batches("final", 10, category="toxic")))
    expected = store.array("final")[rows]
    np.testing.assert_array_equal(np.unique(read, axis=0), np.unique(expected, axis=0))
    with pytest.raises(DataError, match="no category 'toxci': did you mean 'toxic'"):
        store.batches("final", 10, category="toxci")


def test_mlx_batches_are_the_same_rows(store: mi.ActivationStore):
    for ours, theirs in zip(store.mlx_batches("z.1", 64), store.batches("z.1", 64), strict=True):
        assert isinstance(ours, mx.array)
        np.testing.assert_array_equal(np.asarray(ours), theirs)


def test_reading_a_slice_of_a_shard_copies_nothing(store: mi.ActivationStore):
    view = store.array("final")[2:4]
    assert not view.flags.owndata
    assert not view.flags.writeable


def test_sites_go_by_all_their_names(store: mi.ActivationStore):
    assert store.sites == ["resid_post.0", "z.1", "resid_post.1", "resid_post.2", "final"]
    np.testing.assert_array_equal(store.array("resid_post.-1")[:9], store.array("resid_post.2")[:9])
    with pytest.raises(SiteError, match=r"no site 'z.2'"):
        store.array("z.2")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_other_libraries_read_the_shards(tmp_path: Path, dtype: str):
    model, prompts = tiny_model("llama"), [[5, 6, 7], [8]]
    ours = mi.collect(model, prompts, SITES, path=tmp_path, dtype=dtype)
    file = str(tmp_path / ours.shards[0].shard)
    read = mx.load(file)
    assert isinstance(read, dict)
    with safe_open(file, framework="numpy") as opened:
        scale = float((opened.metadata() or {}).get("scale.z.1", 1))
        assert set(opened.keys()) == {*ours.sites, "tokens", "positions", "samples"}
    np.testing.assert_array_equal(np.asarray(read["z.1"].astype(mx.float32)) * scale, np.asarray(ours.array("z.1")))


def test_the_manifest_says_what_the_store_is(store: mi.ActivationStore):
    assert store.manifest["dtype"] == "float32"
    assert store.manifest["sites"]["z.1"] == [6, 8]
    assert store.manifest["positions"] == "all"
    assert len(store.manifest["weights_hash"]) == 64
    assert sum(shard["n_rows"] for shard in store.manifest["shards"]) == len(store)
    on_disk = sum(file.stat().st_size for file in store.path.glob("*.safetensors"))
    assert store.n_bytes == on_disk


def test_a_store_of_another_model_is_refused(store: mi.ActivationStore):
    store.check_model(tiny_model("llama"))
    with pytest.raises(StoreError, match=r"holds activations of random-llama .* not of random-llama"):
        store.check_model(tiny_model("llama", seed=1))


def test_a_store_of_another_version_is_refused(tmp_path: Path):
    collect_many(tmp_path, n=5)
    about = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps({**about, "format": 2}))
    with pytest.raises(StoreError, match="is of format 2, this version reads 1"):
        open_store(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        open_store(tmp_path)
    with pytest.raises(StoreError, match="no store of activations"):
        open_store(tmp_path / "elsewhere")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_flipped_byte_is_noticed_and_named_and_the_rest_is_used(tmp_path: Path, dtype: str):
    model, prompts = tiny_model("llama"), random_prompts(60)

    def again() -> mi.ActivationStore:
        return mi.collect(model, prompts, SITES, path=tmp_path, shard_bytes=60_000, batch_size=7, dtype=dtype)

    whole = again()
    kept, numbers = np.array(whole.array("final")), whole.sample_numbers.copy()
    assert whole.verify() == {}
    assert not open_store(tmp_path, verify=True).damaged
    broken = whole.shards[1]
    file = tmp_path / broken.shard
    before = file.read_bytes()
    flipped = bytearray(before)
    flipped[len(before) // 2] ^= 4
    file.write_bytes(bytes(flipped))
    assert not open_store(tmp_path).damaged  # nothing is read on opening
    assert list(open_store(tmp_path).verify()) == [broken.shard]
    with pytest.warns(RuntimeWarning, match=rf"shard {broken.shard} is left out, .*its bytes are not those"):
        store = open_store(tmp_path, verify=True)
    gone = range(broken.first, broken.first + broken.n_samples)
    np.testing.assert_array_equal(np.asarray(store.array("final")), kept[~np.isin(numbers, gone)])

    assert again().verify() == {}
    assert file.read_bytes() == before


def test_a_shard_made_anew_with_other_bytes_counts_with_those(tmp_path: Path):
    store = collect_many(tmp_path, n=60)
    name = store.shards[1].shard
    append_checksum(open_records(tmp_path / SAMPLES_FILE), name, "crc32:00000000")
    assert list(open_store(tmp_path).verify()) == [name]
    assert len(open_store(tmp_path).samples) == 60
    assert collect_many(tmp_path, n=60).verify() == {}


def test_a_store_from_before_checksums_is_read_and_cannot_be_checked(tmp_path: Path):
    collect_many(tmp_path, n=60)
    manifest = tmp_path / SAMPLES_FILE
    manifest.write_text(re.sub(r', "checksum": "crc32:[0-9a-f]{8}"', "", manifest.read_text()))
    store = open_store(tmp_path, verify=True)
    assert {info.checksum for info in store.shards} == {""}
    assert store.verify() == {}


def test_a_truncated_shard_is_named_and_the_rest_is_used(tmp_path: Path):
    whole = collect_many(tmp_path, n=60)
    kept = np.asarray(whole.array("final"))
    broken = whole.shards[2]
    file = tmp_path / broken.shard
    before = file.read_bytes()
    subprocess.run(["truncate", "-s", str(len(before) - 9), file], check=True)
    with pytest.warns(RuntimeWarning, match=rf"shard {broken.shard} is left out, .*truncated"):
        store = open_store(tmp_path)
    assert list(store.damaged) == [broken.shard]
    gone = range(broken.first, broken.first + broken.n_samples)
    assert not set(store.sample_numbers.tolist()) & set(gone)
    outside = ~np.isin(whole.sample_numbers, gone)
    np.testing.assert_array_equal(np.asarray(store.array("final")), kept[outside])
    assert sum(map(len, store.batches("final", 16))) == outside.sum()

    repaired = collect_many(tmp_path, n=60)
    assert not repaired.damaged
    assert file.read_bytes() == before
    file.unlink()
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        assert broken.shard in open_store(tmp_path).damaged
