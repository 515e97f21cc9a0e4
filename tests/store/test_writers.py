"""Several writers of one store, on no lock: together they leave what one would, whoever is stopped and goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.errors import ConfigError, RunError, StoreError
from mlx_interp.reporting.folders import locked
from mlx_interp.store.manifest import held, manifests, read_shards, remove_store
from tests.store.collecting import SITES, collect_many, random_prompts, start
from tests.tiny import tiny_model


def equal(one: mi.ActivationStore, other: mi.ActivationStore) -> bool:
    """Every row, what it is of, and every sample."""
    arrays = [(one.array(site)[:], other.array(site)[:]) for site in one.sites]
    about = [(one.tokens, other.tokens), (one.positions, other.positions), (one.sample_numbers, other.sample_numbers)]
    same = all(np.array_equal(a, b) for a, b in [*arrays, *about])
    return same and one.samples == other.samples and one.sites == other.sites


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> mi.ActivationStore:
    return collect_many(tmp_path_factory.mktemp("whole") / "store")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_three_writers_leave_what_one_does(tmp_path: Path, whole: mi.ActivationStore, order: tuple[int, ...]):
    counts = [len(collect_many(tmp_path, writer=(k, 3)).shards) for k in order]
    found = mi.ActivationStore(tmp_path, verify=True)
    assert equal(found, whole)
    assert np.all(np.diff([0, *counts]) >= len(whole.shards) // 3), "each writes its third and nothing of another's"
    assert [path.name for path in manifests(tmp_path)] == [f"samples-{k}-of-3.jsonl" for k in range(3)]
    assert found.categories == whole.categories


@pytest.mark.slow
def test_writers_at_the_same_time_one_of_them_killed(tmp_path: Path, whole: mi.ActivationStore):
    others = [start(tmp_path, writer=(k, 3)) for k in (0, 2)]
    killed = start(tmp_path, writer=(1, 3))
    while not (tmp_path / "samples-1-of-3.jsonl").exists() and killed.is_alive():
        killed.join(0.01)
    killed.kill()
    for process in (*others, killed):
        process.join()
    assert [process.exitcode for process in others] == [0, 0]
    part = mi.ActivationStore(tmp_path)
    assert 0 < len(part.shards) <= len(whole.shards)
    assert [sample.sample for sample in part.samples] == sorted(sample.sample for sample in part.samples)
    again = start(tmp_path, writer=(1, 3))
    again.join()
    assert again.exitcode == 0
    assert equal(mi.ActivationStore(tmp_path, verify=True), whole)


def test_what_is_left_is_shared_out_among_another_number_of_writers_or_done_by_one(
    tmp_path: Path, whole: mi.ActivationStore
):
    for folder, rest in (("two", [(0, 2), (1, 2)]), ("one", [None])):
        collect_many(tmp_path / folder, writer=(1, 4))
        before = {info.shard for info in read_shards(tmp_path / folder)}
        for writer in rest:
            collect_many(tmp_path / folder, writer=writer)
        assert equal(mi.ActivationStore(tmp_path / folder, verify=True), whole)
        assert before < {info.shard for info in read_shards(tmp_path / folder)}


def test_a_damaged_shard_is_made_anew_by_whose_turn_it_is(tmp_path: Path, whole: mi.ActivationStore):
    for k in (0, 1):
        collect_many(tmp_path, writer=(k, 2))
    broken = read_shards(tmp_path)[3].shard
    (tmp_path / broken).write_bytes((tmp_path / broken).read_bytes()[:-8])
    with pytest.warns(RuntimeWarning, match="left out"):
        collect_many(tmp_path, writer=(0, 2))
    assert equal(collect_many(tmp_path, writer=(1, 2)), whole)


def test_shards_of_the_same_prompts_count_once(tmp_path: Path, whole: mi.ActivationStore):
    """As where two writers took the same turn on machines that do not see each other's locks."""
    for k in (0, 1):
        collect_many(tmp_path, writer=(k, 2))
    twice = (tmp_path / "samples-0-of-2.jsonl").read_bytes()
    (tmp_path / "samples-0-of-3.jsonl").write_bytes(twice)
    assert equal(mi.ActivationStore(tmp_path, verify=True), whole)


def test_writers_that_would_not_cut_alike_are_refused(tmp_path: Path):
    collect_many(tmp_path / "a", n=60, writer=(0, 2))
    with pytest.raises(StoreError, match="shard_bytes: 60000 there, 50000 now"):
        collect_many(tmp_path / "a", n=60, shard_bytes=50_000, writer=(1, 2))
    with pytest.raises(StoreError, match="others than those given"):
        mi.collect(
            tiny_model("llama"),
            random_prompts(60, seed=1),
            SITES,
            path=tmp_path / "a",
            shard_bytes=60_000,
            batch_size=7,
        )
    for wrong in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ConfigError, match="k is one from 0 to n - 1"):
            collect_many(tmp_path / "b", n=9, writer=wrong)
    assert not (tmp_path / "b").exists()


def test_a_turn_that_is_taken_is_refused_on_one_machine(tmp_path: Path):
    with locked(tmp_path / "c", "-0-of-2"):
        with pytest.raises(RunError, match="is writing there"):
            collect_many(tmp_path / "c", n=9, writer=(0, 2))
        collect_many(tmp_path / "c", n=9, writer=(1, 2))


def test_a_store_that_a_writer_is_at_is_neither_removed_nor_held(tmp_path: Path):
    path = tmp_path / "e"
    collect_many(path, n=60, writer=(1, 2))
    for attempt in (lambda: remove_store(path), lambda: held(path).__enter__()):
        with locked(path, "-1-of-2"), pytest.raises(RunError, match="is writing there"):
            attempt()
    assert len(mi.ActivationStore(path).shards)
    with held(path), pytest.raises(RunError, match="is writing there"):
        collect_many(path, n=60, writer=(1, 2))
    collect_many(path, n=60, writer=(1, 2))


def test_removing_a_store_removes_all_manifests(tmp_path: Path):
    for k in (0, 1):
        collect_many(tmp_path / "d", n=60, writer=(k, 2))
    remove_store(tmp_path / "d")
    assert not (tmp_path / "d").exists()
