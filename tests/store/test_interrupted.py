"""A collection that is stopped in any way goes on, and ends with the files of one that was never stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

import mlx_interp as mi
from mlx_interp.errors import RunError, StoreError
from mlx_interp.store import open as open_store
from mlx_interp.store.manifest import read_shards
from tests.store.collecting import SITES, collect_many, content, random_prompts, start
from tests.tiny import tiny_model

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("MLX_INTERP_KILLS", "6"))
"""How often the kill test kills; raise it for a thorough look."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a store that nothing stopped."""
    path = tmp_path_factory.mktemp("undisturbed") / "store"
    process = start(path)
    process.join()
    assert process.exitcode == 0
    return content(path)


def when_grown(process: BaseProcess, path: Path, more: int) -> None:
    """Returns once a collection has written so many more shards, or has ended."""
    wanted = len(list(path.glob("*.safetensors"))) + more
    while process.is_alive() and len(list(path.glob("*.safetensors"))) < wanted:
        time.sleep(0.002)


def test_a_collection_killed_at_random_moments_ends_with_the_same_files(tmp_path: Path, undisturbed: dict[str, bytes]):
    expected, moments = undisturbed, random.Random(0)
    killed, grown = 0, 0
    while killed < KILLS:
        process = start(tmp_path)
        # By shards and not by seconds alone: most of a process's time is its start, longer on a busy machine.
        when_grown(process, tmp_path, moments.randint(0, 12))
        process.join(moments.uniform(0.0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            assert content(tmp_path) == expected
            for file in tmp_path.iterdir():
                file.unlink()
        elif (tmp_path / "samples.jsonl").exists() and read_shards(tmp_path):
            grown += 1
            part = open_store(tmp_path)  # what is there is usable as it is
            assert len(part.array("final")) == len(part) == sum(sample.n_rows for sample in part.samples)
        killed += process.exitcode != 0
    assert grown > 0
    collect_many(tmp_path)
    assert content(tmp_path) == expected


def test_what_is_complete_is_not_collected_again(tmp_path: Path):
    collect_many(tmp_path, n=50)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")}
    collect_many(tmp_path, n=50)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")} == before


def test_a_torn_manifest_and_a_shard_without_a_mark_do_not_count(tmp_path: Path, undisturbed: dict[str, bytes]):
    collect_many(tmp_path)
    manifest = tmp_path / "samples.jsonl"
    lines = manifest.read_bytes()
    manifest.write_bytes(lines[: int(len(lines) * 0.6)])
    part = open_store(tmp_path)
    assert 0 < len(part.shards) < len(list(tmp_path.glob("*.safetensors")))
    collect_many(tmp_path)
    assert content(tmp_path) == undisturbed


def test_more_prompts_may_follow(tmp_path: Path):
    model, prompts = tiny_model("llama"), random_prompts(30)
    first = mi.collect(model, prompts[:20], SITES, path=tmp_path)
    whole = mi.collect(model, prompts, SITES, path=tmp_path)
    assert [sample.tokens for sample in whole.samples] == prompts
    assert (whole.array("final")[: len(first)] == first.array("final")[:]).all()


def test_another_collection_is_refused_with_what_differs(tmp_path: Path):
    model, prompts = tiny_model("llama"), random_prompts(9)
    mi.collect(model, prompts, SITES, path=tmp_path)
    for words, other, given, sites, options in (
        ("weights_hash", tiny_model("llama", seed=1), prompts, SITES, {}),
        ("sites", model, prompts, "all", {}),
        ("dtype: 'float32' there, 'bfloat16' now", model, prompts, SITES, {"dtype": "bfloat16"}),
        ("positions: 'all' there, 'last' now", model, prompts, SITES, {"positions": "last"}),
        ("others than those given", model, prompts[::-1], SITES, {}),
        ("others than those given", model, prompts[:3], SITES, {}),
        ("others than those given", model, prompts, SITES, {"labels": ["x"] * 9}),
    ):
        with pytest.raises(StoreError, match=words):
            mi.collect(other, given, sites, path=tmp_path, **options)  # type: ignore[arg-type]


def test_a_second_process_is_refused_while_the_first_writes(tmp_path: Path):
    process = start(tmp_path)
    deadline = time.monotonic() + 30
    while not (tmp_path / "store.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    try:
        os.kill(process.pid or 0, signal.SIGSTOP)
        with pytest.raises(RunError, match=rf"process {process.pid}\) is writing there"):
            collect_many(tmp_path)
    finally:
        process.kill()
        process.join()


def test_a_full_disk_keeps_what_is_complete_and_goes_on_when_there_is_space(
    tmp_path: Path, undisturbed: dict[str, bytes]
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        with pytest.raises(RunError, match="the disk is full; everything measured so far is kept"):
            collect_many(disk)
        part = open_store(disk)
        assert 0 < len(part.shards) < len(undisturbed) - 2
        assert len(part.array("final")[:]) == len(part)
        assert not part.damaged
        assert not list(disk.glob(".*partial"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        del part
        collect_many(disk)
        assert content(disk) == undisturbed
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
