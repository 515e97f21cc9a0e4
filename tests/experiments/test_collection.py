"""exp16 from its command line, on a few prompts of an embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mlx_interp as mi
from experiments.exp16_collect_activations import EXPERIMENT, Config
from experiments.exp16_collect_activations.collecting import Looked, layers_of, measure_check
from experiments.harness.runner import run
from experiments.harness.state import Run
from experiments.shared.prompts.collected import Row, rows_of
from mlx_interp.errors import ConfigError, StoreError
from mlx_interp.sites import parse_all
from mlx_interp.store.manifest import remove_store

PRESET = Path(__file__).parents[2] / "experiments" / "configs" / "collect_middle_embedded.yaml"


def finished(out: Path, *arguments: str) -> tuple[int | str | None, Path]:
    """Exit status and run folder of a run on few prompts."""
    with pytest.raises(SystemExit) as stopped:
        run(
            EXPERIMENT,
            [
                "--limit",
                "24",
                "--checked",
                "6",
                "--presets",
                "sparse,middle,all",
                "--out",
                str(out / "results"),
                *arguments,
            ],
        )
    return stopped.value.code, out / "results" / "exp16_collect_activations"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exp16")
    code, folder = finished(out, "--model", "tiny-gemma2", "--result-dir", str(out / "stores"))
    assert code == 0
    return folder / "tiny-gemma2"


def records(folder: Path, stage: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == stage and "_done" not in line]


@pytest.mark.slow
def test_a_run_leaves_three_stores_and_their_sizes(results: Path) -> None:
    table = (results / "table.md").read_text()
    for title in ("Prompts", "Stores: size, time, memory", "Stored rows against a fresh forward"):
        assert f"### {title}" in table
    assert "UNVALIDATED" not in table
    assert (results / "figures" / "norms_resid_pre.png").exists()
    for record in records(results, "stores"):
        store = mi.ActivationStore(results.parents[2] / "stores" / "tiny-gemma2" / str(record["item"]))
        assert (record["rows"], record["bytes"]) == (len(store), store.n_bytes)
        assert len(store.samples) == 24
        assert set(store.categories) == {"harmful", "harmless", "opinion", "certainty", "fact", "task"}
        assert store.n_bytes * 0.8 < float(str(record["expected_bytes"])) < store.n_bytes


@pytest.mark.slow
def test_stored_rows_are_equal_and_those_of_another_prompt_are_not(results: Path) -> None:
    checks = records(results, "checked")
    assert len(checks) == 6 * 3
    for record in checks:
        assert record["same_tokens"]
        assert record["same_prompt"]
        assert max(record["error"]) < 1e-4  # type: ignore[call-overload]
        assert max(record["control"]) > 0.1  # type: ignore[call-overload]


@pytest.mark.slow
def test_the_check_sees_a_row_that_is_wrong(results: Path, tmp_path: Path) -> None:
    model = mi.load("tiny-gemma2")
    config = Config(presets=("middle",), result_dir=str(tmp_path))
    rows = rows_of(Run(model, config))[:4]
    store = mi.collect(
        model,
        [model.prompt(row.text, chat=True) for row in rows],
        "residuals_3",
        path=tmp_path / "tiny-gemma2" / "middle",
    )
    item = Looked(rows[1].key, 1, 2, rows[1])
    assert max(next(iter(measure_check(Run(model, config), item)))["error"]) < 1e-4
    file = store.path / store.shards[0].shard
    content = bytearray(file.read_bytes())
    row = int(np.flatnonzero(store.sample_numbers == 1)[2])
    start = content.index(np.asarray(store.array("residuals_3")[row]).tobytes())
    content[start : start + 4] = np.float32(7).tobytes()
    file.write_bytes(content)
    assert max(next(iter(measure_check(Run(model, config), item)))["error"]) > 1e-2


@pytest.mark.slow
def test_a_file_decides_model_layers_and_data(tmp_path: Path) -> None:
    code, folder = finished(tmp_path, "--config", str(PRESET), "--result-dir", str(tmp_path / "stores"))
    assert code == 0
    store = mi.ActivationStore(tmp_path / "stores" / "tiny-llama" / "collect_middle_embedded")
    assert store.sites == [f"resid_pre.{layer}" for layer in (2, 3, 4, 5)]
    assert store.categories == {"harmful": 12, "harmless": 12}
    assert store.description["max_new_tokens"] == 4
    assert any(sample.n_rows > 1 for sample in store.samples)
    assert (folder / "tiny-llama" / "table.md").exists()


def test_a_dry_run_predicts_disk_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "tiny-gemma2", "--dry-run", "--result-dir", str(tmp_path / "stores")]
    assert finished(tmp_path, *arguments)[0] == 0
    assert "disk (GB)" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_wrong_layer_or_category_is_named_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(PRESET.read_text().replace("residuals_2-5", "residuals_2-55"))
    assert finished(tmp_path, "--config", str(broken))[0] == 2
    assert "broken.yaml, line 6: 'residuals_2-55': layer 55 does not exist" in capsys.readouterr().err
    assert finished(tmp_path, "--model", "tiny-gemma2", "--categories", "harmfull")[0] == 2
    assert "no category 'harmfull': did you mean 'harmful'" in capsys.readouterr().err


def test_presets_are_those_of_32_layers_scaled_to_the_depth() -> None:
    def layers(preset: str, n: int) -> list[int]:
        return [site.layer for site in parse_all(layers_of(preset, n), n)]

    assert layers("sparse", 32) == [0, 5, 10, 15, 20, 25, 30]
    assert layers("middle", 32) == list(range(10, 22))
    assert layers("sparse", 8) == [0, 2, 4, 6]
    assert layers("middle", 8) == [2, 3, 4, 5]
    assert layers("all", 8) == list(range(8))
    with pytest.raises(ConfigError, match="did you mean 'sparse'"):
        layers_of("spares", 8)


def test_rows_of_the_world_are_each_there_once() -> None:
    rows = rows_of(Run(mi.load("tiny-llama"), Config()))
    assert len({(row.text, row.category) for row in rows}) == len({row.key for row in rows}) == len(rows) > 2000
    assert all(isinstance(row, Row) for row in rows)
    assert {row.chat for row in rows if row.category in ("harmful", "harmless")} == {True}
    assert {row.chat for row in rows if row.category == "fact"} == {False}


@pytest.mark.slow
def test_fresh_removes_its_own_old_store_and_nothing_else(tmp_path: Path) -> None:
    arguments = ["--model", "tiny-gemma2", "--presets", "middle", "--result-dir", str(tmp_path / "stores")]
    assert finished(tmp_path, *arguments, "--no-validate")[0] == 0
    folder = tmp_path / "stores" / "tiny-gemma2" / "middle"
    (folder / "notes.txt").write_text("mine")
    other = mi.collect(mi.load("tiny-gemma2"), ["a b"], "final", path=tmp_path / "stores" / "tiny-gemma2" / "other")
    before = (folder / "samples.jsonl").stat().st_mtime_ns
    assert finished(tmp_path, *arguments, "--no-validate", "--limit", "12")[0] != 0  # the store is another run's
    assert (folder / "samples.jsonl").stat().st_mtime_ns == before
    assert finished(tmp_path, *arguments, "--no-validate", "--limit", "12", "--fresh")[0] == 0
    assert len(mi.ActivationStore(folder).samples) == 12
    assert (folder / "samples.jsonl").stat().st_mtime_ns > before
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(mi.ActivationStore(other.path).samples) == 1


def test_a_folder_of_shards_that_nothing_describes_is_not_removed(tmp_path: Path) -> None:
    store = mi.collect(mi.load("tiny-gemma2"), ["a b"], "final", path=tmp_path)
    (tmp_path / "store.json").unlink()
    with pytest.raises(StoreError, match="remove it by hand"):
        remove_store(tmp_path)
    assert (tmp_path / store.shards[0].shard).exists()
