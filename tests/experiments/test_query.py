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


def ranks(folder: Path) -> Path:
    """A run whose clean records hold one rank and whose grids hold those of all cells."""
    folder.mkdir(parents=True)
    run = {"format": FORMAT, "model": {"name": "a"}, "validated": True, "status": "complete", "headline": "h"}
    (folder / "run.json").write_text(json.dumps(run))
    records = [{"arm": "clean", "rank": 3}, {"arm": "clean", "rank": 8}, {"arm": "grid", "rank": [0, 2]}]
    write_parquet(records, folder / "records.parquet")
    return folder


def test_a_rank_is_a_number_though_other_records_hold_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks(tmp_path / "exp0_test" / "a")
    sql = "SELECT avg(rank) AS mean, max(rank_list[2]) AS cell FROM exp0_test WHERE rank > 2 OR rank_list[1] = 0"
    assert main([sql, "--out", str(tmp_path), "--csv"]) == 0
    assert capsys.readouterr().out.split() == ["mean,cell", "5.5,2"]


def test_runs_are_found_from_a_folder_below_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks(tmp_path / "runs" / "exp0_test" / "a")
    below = tmp_path / "notes" / "today"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert main(["SELECT count(*) AS n FROM exp0_test", "--csv"]) == 0
    assert capsys.readouterr().out.split() == ["n", "3"]
    assert main(["SELECT * FROM exp77_other"]) == 2
    assert f"--out DIR names the folder (read: {tmp_path / 'runs'})" in " ".join(capsys.readouterr().err.split())


def test_several_folders_are_read_together(
    out: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path_factory.mktemp("other")
    ranks(other / "exp1_other" / "a")
    assert main(["SELECT count(*) AS n FROM runs", "--out", str(out), "--out", str(other), "--csv"]) == 0
    assert capsys.readouterr().out.split() == ["n", "3"]
