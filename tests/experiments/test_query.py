"""SQL over results: what it answers is what the records say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.harness.query import main
from mlx_interp.reporting.folders import FORMAT
from mlx_interp.reporting.records import write_parquet


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two models of one experiment, whose records differ in a column, and a run that was not finished."""
    for name, records, validated in (
        ("a", [{"stage": "s", "value": 1.5, "tag": "x"}, {"stage": "s", "value": 2.5, "tag": "y"}], True),
        ("b", [{"stage": "s", "value": 10, "other": [1, 2]}], False),
    ):
        folder = tmp_path / "exp0_test" / name
        folder.mkdir(parents=True)
        run = {"format": FORMAT, "model": {"name": name}, "validated": validated, "status": "complete", "headline": "h"}
        (folder / "run.json").write_text(json.dumps(run))
        write_parquet(records, folder / "records.parquet")
    return tmp_path


def test_a_query_runs_over_all_models(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT model, sum(value) AS total, bool_and(validated) AS ok FROM exp0_test GROUP BY model ORDER BY model"
    assert main([sql, "--out", str(out), "--csv"]) == 0
    assert capsys.readouterr().out.split() == ["model,total,ok", "a,4.0,True", "b,10.0,False"]
    assert main(["SELECT count(*) AS n FROM exp0_test WHERE tag IS NULL", "--out", str(out), "--markdown"]) == 0
    assert "|   1 |" in capsys.readouterr().out
    assert main(["SELECT experiment, model, headline FROM runs", "--out", str(out)]) == 0
    assert "exp0_test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("SELECT * FROM exp0_tset", "did you mean 'exp0_test'"),
        ("SELECT nothing FROM exp0_test", "nothing"),
        ("SELEC 1", "tables are exp0_test, runs"),
    ],
)
def test_a_wrong_query_is_explained(out: Path, sql: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([sql, "--out", str(out)]) == 2
    assert hint in " ".join(capsys.readouterr().err.split())


def test_a_folder_without_runs_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["SELECT 1", "--out", str(tmp_path)]) == 2
    assert "no run there" in capsys.readouterr().err
