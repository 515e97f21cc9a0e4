"""A run that is stopped in any way goes on, and ends with the files of one that was never stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.experiments.conftest import Ended, Setting, Study, ended

pytestmark = pytest.mark.slow

RUN = Path("exp0_numbers/tiny-llama")
KILLS = int(os.environ.get("MLX_INTERP_KILLS", "8"))
"""How often the kill test kills; raise it for a thorough look."""
SLOW = Setting(pause=0.01, n_figures=1)


def files(out: Path) -> dict[str, bytes]:
    """What people read, and the records without the seconds they took."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for name in list(found):
        if name.endswith("run.json"):
            run = json.loads(found.pop(name))
            assert run["status"] == "complete"
        elif name.endswith("records.jsonl"):
            lines = [json.loads(line) for line in found[name].splitlines()]
            found[name] = json.dumps([{k: v for k, v in line.items() if k != "seconds"} for line in lines]).encode()
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """Files of a run that nothing stopped, and the seconds it took."""
    out, study = tmp_path_factory.mktemp("undisturbed"), Study(tmp_path_factory.mktemp("logs"))
    study("--help")  # starts the server that the processes are forked from
    start = time.monotonic()
    done = study("--model", "tiny-llama", "--out", str(out), setting=SLOW)
    assert done.code == 0, done.err
    return files(out), time.monotonic() - start


def test_a_run_killed_at_random_moments_ends_with_the_same_files(
    study: Study, tmp_path: Path, undisturbed: tuple[dict[str, bytes], float]
):
    expected, duration = undisturbed
    moments = random.Random(0)
    killed = 0
    while killed < KILLS:
        process, log = study.start("--model", "tiny-llama", "--out", str(tmp_path), setting=SLOW)
        process.join(moments.uniform(0.02, duration))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), ended(process, log).err
        if process.exitcode == 0:
            # Resumed runs are shorter than the first: one that came through is compared, and a new one begun.
            assert files(tmp_path) == expected
            (tmp_path / RUN / "run.json").unlink()
            (tmp_path / RUN / "records.jsonl").unlink()
        killed += process.exitcode != 0
    assert study("--model", "tiny-llama", "--out", str(tmp_path), setting=SLOW).code == 0
    assert files(tmp_path) == expected


def test_nothing_that_was_measured_is_measured_again(study: Study, tmp_path: Path):
    process, _ = study.start("--model", "tiny-llama", "--out", str(tmp_path), setting=Setting(pause=0.1))
    records = tmp_path / RUN / "records.jsonl"
    wait_for(lambda: records.exists() and records.read_bytes().count(b"_done") >= 10)
    process.kill()
    process.join()
    before = records.read_bytes()
    whole = before[: before.rindex(b"\n", 0, before.rindex(b"_done")) + 1] if before[-1:] != b"\n" else before
    assert study("--model", "tiny-llama", "--out", str(tmp_path)).code == 0
    assert records.read_bytes().startswith(whole)
    keys = [json.loads(line)["_done"] for line in records.read_bytes().splitlines() if b"_done" in line]
    assert len(keys) == len(set(keys))


def test_ctrl_c_says_how_to_go_on(study: Study, tmp_path: Path, undisturbed: tuple[dict[str, bytes], float]):
    process, log = study.start("--model", "tiny-llama", "--out", str(tmp_path), setting=Setting(pause=0.1))
    wait_for(lambda: (tmp_path / RUN / "records.jsonl").exists())
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(30)
    stopped = ended(process, log)
    assert stopped.code == 130
    assert "the same command goes on from here" in stopped.err
    assert "Traceback" not in stopped.err
    assert json.loads((tmp_path / RUN / "run.json").read_text())["status"] == "stopped"
    assert study("--model", "tiny-llama", "--out", str(tmp_path), setting=Setting(n_figures=1)).code == 0
    assert files(tmp_path) == undisturbed[0]


def test_a_second_run_of_the_same_folder_says_so_and_stops(study: Study, tmp_path: Path):
    process, _ = study.start("--model", "tiny-llama", "--out", str(tmp_path), setting=Setting(pause=0.3))
    wait_for(lambda: (tmp_path / RUN / "records.jsonl").exists())
    second = study("--model", "tiny-llama", "--out", str(tmp_path))
    third = study("--model", "tiny-llama", "--out", str(tmp_path), "--fresh")
    elsewhere = study("--model", "tiny-llama", "--out", str(tmp_path / "elsewhere"))
    assert process.is_alive()
    process.kill()
    process.join()
    for refused in (second, third):
        assert refused.code == 2
        assert f"another run (process {process.pid}) is writing there" in refused.err
        assert "--out DIR" in refused.err
    assert elsewhere.code == 0


def test_a_full_disk_is_an_error_and_the_run_goes_on_when_there_is_space(
    study: Study, tmp_path: Path, undisturbed: tuple[dict[str, bytes], float]
):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=False).returncode
    ):
        pytest.skip("a small disk can be mounted by root only; tests/reporting simulates a full one")
    try:
        full = study("--model", "tiny-llama", "--out", str(disk), setting=Setting(n_figures=1))
        assert_disk_full(full)
        measured = (disk / RUN / "records.jsonl").read_bytes()
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        assert study("--model", "tiny-llama", "--out", str(disk), setting=Setting(n_figures=1)).code == 0
        assert (disk / RUN / "records.jsonl").read_bytes().startswith(measured)
        assert files(disk) == undisturbed[0]
    finally:
        subprocess.run(["umount", disk], check=True)


def assert_disk_full(run: Ended) -> None:
    assert run.code == 2
    assert "the disk is full; everything measured so far is kept" in run.err
    assert "Traceback" not in run.err


def wait_for(condition: object, seconds: float = 30) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
