"""Several processes under MLX's launcher make the files that one process makes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.harness import registry
from experiments.harness.options import parse
from experiments.harness.together import launched_for
from mlx_interp.errors import ConfigError
from tests.experiments.test_resume import RUN, files

LAUNCHER = Path(sys.executable).parent / "mlx.launch"
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not LAUNCHER.exists(), reason="mlx.launch is not installed beside Python")


def launch(ranks: int, module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    if ranks > 1:
        command = [str(LAUNCHER), "-n", str(ranks), "--backend", "ring", *command]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=400, check=False)


def fake(ranks: int, out: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    arguments = ["--model", "tiny-llama", "--out", str(out), *options]
    return launch(ranks, "tests.experiments.fake_study", *arguments, **environment)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("alone")
    done = fake(1, out)
    assert done.returncode == 0, done.stderr
    return files(out)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_two_and_three_ranks_make_the_files_of_one(ranks: int, tmp_path: Path, alone: dict[str, bytes]) -> None:
    done = fake(ranks, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(tmp_path) == alone


@pytest.mark.slow
def test_ranks_that_share_one_model_make_the_files_of_one(tmp_path: Path, alone: dict[str, bytes]) -> None:
    done = fake(2, tmp_path, "--shard")
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(tmp_path) == alone


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--copies", "2"], []])
def test_copies_of_a_split_model_share_the_prompts_and_make_the_files_of_one(
    options: list[str], tmp_path: Path, alone: dict[str, bytes]
) -> None:
    done = fake(4, tmp_path, "--shard", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(tmp_path) == alone


@pytest.mark.slow
def test_ranks_of_the_second_copy_that_differ_are_named_by_their_numbers(tmp_path: Path) -> None:
    text = fake(4, tmp_path, "--shard", "--copies", "2", FAKE_DIFFERS="3").stderr
    assert re.search(r"rank 3 has another record of 'query \d+' than rank 2", text), text
    assert not (tmp_path / RUN / "table.md").exists()


@pytest.mark.slow
def test_a_study_of_a_split_model_passes_the_gate_and_has_the_tables_of_one_process(tmp_path: Path) -> None:
    arguments = ["--model", "tiny-qwen2", "--limit", "4"]
    tables = []
    for ranks, options in (
        (2, ["--shard"]),
        (2, ["--shard", "pipeline"]),
        (4, ["--shard", "--copies", "2"]),
        (1, []),
    ):
        out = tmp_path / f"{ranks} {' '.join(options)}"
        done = launch(ranks, "experiments.exp3_two_hop", *arguments, *options, "--out", str(out))
        assert done.returncode == 0, done.stdout + done.stderr
        folder = out / "exp3_two_hop" / "tiny-qwen2"
        assert json.loads((folder / "run.json").read_text())["validation"]["passed"]
        tables.append((folder / "table.md").read_text())
    assert len(set(tables)) == 1


@pytest.mark.slow
def test_ranks_that_find_different_things_in_one_model_stop(tmp_path: Path) -> None:
    text = fake(2, tmp_path, "--shard", FAKE_DIFFERS="1").stderr
    assert re.search(r"rank 1 has another record of 'query \d+' than rank 0", text)
    assert not (tmp_path / RUN / "table.md").exists()


def test_a_split_model_is_refused_on_one_process_and_by_studies_that_need_whole_weights(tmp_path: Path) -> None:
    assert "mlx.launch -n 2" in fake(1, tmp_path, "--shard").stderr
    assert "copies=2 are those of a split model" in fake(1, tmp_path, "--copies", "2").stderr
    options = parse(registry.experiment("exp14"), ["--shard", "--out", str(tmp_path)])
    with pytest.raises(ConfigError, match=r"exp14_.* which a split model does not do: leave --shard out"):
        launched_for(registry.experiment("exp14"), options)


@pytest.mark.slow
def test_two_ranks_make_the_tables_of_one_on_a_real_model(tmp_path: Path) -> None:
    arguments = ["--model", "tiny-qwen2", "--experiments", "exp3", "--limit", "16", "--no-validate"]
    tables = []
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        done = launch(ranks, "experiments.harness.run_all", *arguments, "--out", str(out))
        assert done.returncode == 0, done.stdout + done.stderr
        tables.append((out / "exp3_two_hop" / "tiny-qwen2" / "table.md").read_text())
    assert tables[0] == tables[1]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--shard"]])
def test_a_dead_rank_is_named_and_one_process_goes_on_with_what_was_measured(
    options: list[str], tmp_path: Path, alone: dict[str, bytes]
) -> None:
    stopped = fake(2, tmp_path, *options, FAKE_KILL="1")
    assert "rank 1 is gone, so rank 0 stops" in stopped.stdout + stopped.stderr
    done = [line for line in (tmp_path / RUN / "records.jsonl").read_text().splitlines() if "_done" in line]
    assert 0 < len(done) < 30
    assert json.loads((tmp_path / RUN / "run.json").read_text())["status"] == "failed"
    assert fake(1, tmp_path).returncode == 0
    assert files(tmp_path) == alone


@pytest.mark.slow
def test_a_dead_copy_ends_the_other_one_and_one_process_goes_on(tmp_path: Path, alone: dict[str, bytes]) -> None:
    stopped = fake(4, tmp_path, "--shard", "--copies", "2", FAKE_KILL="2")
    assert "is gone, so rank" in stopped.stdout + stopped.stderr
    assert json.loads((tmp_path / RUN / "run.json").read_text())["status"] == "failed"
    assert fake(1, tmp_path).returncode == 0
    assert files(tmp_path) == alone


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--shard"]])
def test_a_rank_that_fails_tells_the_others_why(options: list[str], tmp_path: Path) -> None:
    failed = fake(2, tmp_path, *options, FAKE_RAISE="1")
    text = failed.stdout + failed.stderr
    assert re.search(r"rank 1 failed: ValueError: query \d+ cannot be measured", text)
    assert not (tmp_path / RUN / "table.md").exists()


@pytest.mark.slow
def test_ranks_with_different_runs_are_refused(tmp_path: Path) -> None:
    text = fake(2, tmp_path, FAKE_OTHER_WEIGHTS="1").stderr
    assert "rank 1 has another run than rank 0" in text
    assert not (tmp_path / RUN / "records.jsonl").exists()
