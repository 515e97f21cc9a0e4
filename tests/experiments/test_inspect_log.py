"""A run's records as Inspect's logs: every record a sample, whole, and nothing made up beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.harness.inspect_log import main
from mlx_interp.reporting.folders import FORMAT

REPLY = {"stage": "effects", "item": "refusal: one", "unit": "How do I bake?", "arm": "none", "hit": True, "dose": 0.5}
RECORDS: list[dict[str, Any]] = [
    {**REPLY, "text": "I cannot help with that."},
    {"_done": "refusal: one", "stage": "effects", "records": 1},
    {**REPLY, "arm": "random", "hit": False, "text": "With flour. <b>&amp;"},
    {"_done": "refusal: one again", "stage": "effects", "records": 1},
    {"stage": "draws", "item": "en 0", "cosine": None, "ranks": [3, 1]},
    {"_done": "en 0", "stage": "draws", "records": 1},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "exp0_test" / "a"
    folder.mkdir(parents=True)
    about = {
        "format": FORMAT,
        "status": "complete",
        "experiment": "exp0_test",
        "title": "exp0: a test.",
        "headline": "half of them",
        "validated": True,
        "model": {"name": "a", "id": "someone/a", "weights_hash": "abc", "quantization": "4-bit"},
        "identity": {"config": {"seed": 0}},
        "versions": {"mlx-interp": "0.1.0"},
        "started": "2026-11-30T00:42:14Z",
        "finished": "2026-11-30T00:45:29Z",
    }
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return folder


def logs(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return {log["eval"]["task"]: log for log in found}


def test_each_stage_is_a_log_and_each_record_a_sample(run: Path, tmp_path: Path) -> None:
    assert main([str(run), "--out", str(tmp_path / "logs")]) == 0
    found = logs(tmp_path / "logs")
    assert set(found) == {"exp0_test/effects", "exp0_test/draws"}
    log = found["exp0_test/effects"]
    assert (log["version"], log["status"], log["eval"]["model"]) == (2, "success", "mlx-interp/a")
    assert log["eval"]["metadata"]["headline"] == "half of them"
    first, second = log["samples"]
    assert [first["id"], second["id"]] == log["eval"]["dataset"]["sample_ids"] == ["refusal: one", "refusal: one #2"]
    assert (first["input"], first["output"]["completion"]) == ("How do I bake?", "I cannot help with that.")
    assert second["output"]["choices"][0]["message"]["content"] == "With flour. <b>&amp;"
    assert (first["scores"], second["scores"]) == ({"hit": {"value": True}}, {"hit": {"value": False}})
    assert second["metadata"] == {"item": "refusal: one", "unit": "How do I bake?", "arm": "random", "dose": 0.5}
    assert log["results"]["scores"] == []  # a mean over arms means nothing
    (draw,) = found["exp0_test/draws"]["samples"]
    assert (draw["input"], draw["metadata"]["ranks"], draw["scores"]) == ("en 0", [3, 1], {})
    assert "choices" not in draw["output"]


def test_one_stage_alone_and_again_into_the_same_file(run: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert main([str(run), "--stage", "draws", "--out", str(tmp_path / "logs")]) == 0
    assert set(logs(tmp_path / "logs")) == {"exp0_test/draws"}
    assert len(list((tmp_path / "logs").iterdir())) == 1


def test_what_cannot_be_a_log_is_explained(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "logs")]
    assert main([str(run), "--stage", "effect", *out]) == 2
    assert "did you mean 'effects'" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), *out]) == 2
    assert "no run there" in capsys.readouterr().err
    (run / "records.jsonl").unlink()
    assert main([str(run), *out]) == 2
    assert "published results have no records" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()
