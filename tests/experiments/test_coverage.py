"""The coverage table says covered only where a validated run shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.harness import coverage
from experiments.harness.coverage import Row, coverage_text, read_studies, standing
from mlx_interp.errors import DataError

ROW = Row(10, "back-patching", by="exp9_back_patching", table="Fixed by one cell")


def write_run(out: Path, name: str, *, title: str = "Fixed by one cell, held out", **changes: object) -> None:
    folder = out / "exp9_back_patching" / name
    folder.mkdir(parents=True)
    table = {"title": title, "columns": ["n"], "numeric": [True], "rows": [["1"]], "notes": []}
    run = {"format": 1, "status": "complete", "validated": True, "model": {"name": name, "family": name[5:]}}
    (folder / "run.json").write_text(json.dumps({**run, "tables": [table], **changes}))


def test_a_row_is_covered_by_a_complete_validated_run_with_its_table(tmp_path: Path) -> None:
    assert standing(ROW, tmp_path).state == "no result yet"
    write_run(tmp_path, "tiny-llama", validated=False)
    write_run(tmp_path, "tiny-qwen2", status="stopped")
    write_run(tmp_path, "tiny-gpt2", title="Another table")
    assert standing(ROW, tmp_path).state == "no result yet"
    write_run(tmp_path, "tiny-gemma2")
    found = standing(ROW, tmp_path)
    assert (found.state, list(found.results)) == ("covered", ["gemma2"])


def test_what_is_missing_is_never_covered(tmp_path: Path) -> None:
    write_run(tmp_path, "tiny-gemma2")
    assert standing(Row(1, "a", open="not built"), tmp_path).state == "open"
    partly = Row(1, "a", by="exp9_back_patching", table="Fixed by one cell", open="one model")
    assert standing(partly, tmp_path).state == "partly"


def test_every_study_is_listed_with_links_to_its_results(tmp_path: Path) -> None:
    write_run(tmp_path, "tiny-gemma2")
    text = coverage_text(read_studies(), tmp_path)
    assert "[gemma2](exp9_back_patching/tiny-gemma2/table.md)" in text
    for study in read_studies():
        assert f"## {study.study}" in text
        assert len({row.row for row in study.rows}) == len(study.rows)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{row: 1, what: a}", "names neither"),
        ("{row: 1, what: a, by: exp9_backpatching}", "did you mean 'exp9_back_patching'"),
        ("{row: 1, what: a, missing: b}", "no field 'missing'"),
        ("3", "needs study, reference"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(f"study: s\nreference: r\nrows:\n  - {row}\n")
    with pytest.raises(DataError, match=message):
        read_studies(tmp_path)


def test_the_command_prints_and_with_write_the_index_links_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert coverage.main(["--out", str(tmp_path), "--open"]) == 0
    assert "Hopping Too Late" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert coverage.main(["--out", str(tmp_path), "--write"]) == 0
    assert "| study" in (tmp_path / "COVERAGE.md").read_text()
    assert "(COVERAGE.md)" in (tmp_path / "README.md").read_text()
    assert coverage.main(["--out", str(tmp_path / "missing")]) == 2
