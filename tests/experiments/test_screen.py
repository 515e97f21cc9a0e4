"""The closing screen: the finding, the study's small table, paths, what to run next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.exp9_back_patching import EXPERIMENT, back_patching_report, describe
from experiments.harness.screen import ROWS, closing
from mlx_interp.reporting.folders import FORMAT


def table(title: str, rows: list[list[str]]) -> dict[str, Any]:
    return {"title": title, "columns": ["family", "n"], "numeric": [False, True], "rows": rows, "notes": ["A note."]}


def screen(tmp_path: Path, tables: list[dict[str, Any]], named: str | None = None, limit: int | None = None) -> str:
    run = {
        "format": FORMAT,
        "title": "exp0: numbers",
        "headline": "fixes 26 [19, 35] %",
        "validated": True,
        "experiment": "exp0_numbers",
        "model": {"name": "tiny-llama"},
        "identity": {"config": {"limit": limit}},
        "tables": tables,
        "screen": named,
        "figures": ["heat", "curve"],
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    return closing(tmp_path)


def test_it_begins_with_the_finding_and_ends_with_what_to_run_next(tmp_path: Path) -> None:
    text = screen(tmp_path, [table("Counts", [["state", "3"]])])
    assert text.splitlines()[:3] == ["exp0: numbers", "", "**tiny-llama: fixes 26 [19, 35] %**"]
    assert "table.md (1 of them)" in text
    assert "heat.png (and 1 more)" in text
    assert text.rstrip().splitlines()[-1].strip().startswith("python -m experiments.exp0_numbers --help")
    assert "whole study" not in text
    assert len(text.splitlines()) < 30


def test_it_shows_the_table_that_the_study_names_and_only_the_rows_that_sum_up(tmp_path: Path) -> None:
    rates = table("Rates", [["state", "3"], ["country", "4"], ["all", "7"]])
    text = screen(tmp_path, [table("Counts", [["state", "3"]]), rates], named="Rates")
    assert "### Rates" in text
    assert "Counts" not in text
    assert "| all" in text
    assert "country" not in text
    assert "2 more rows in table.md." in text


def test_a_long_table_is_cut_and_a_look_is_called_one(tmp_path: Path) -> None:
    text = screen(tmp_path, [table("Counts", [[f"f{n}", str(n)] for n in range(ROWS + 5)])], limit=8)
    assert f"f{ROWS - 1}" in text
    assert f"f{ROWS} " not in text
    assert "5 more rows in table.md." in text
    assert "--model tiny-llama     the whole study: this was a look" in text


def test_the_main_study_shows_the_rates_of_one_cell_and_a_foreign_table_is_refused() -> None:
    assert EXPERIMENT.screen is back_patching_report.fix_rates
    with pytest.raises(ValueError, match="screen is not one of its tables"):
        type(EXPERIMENT)(
            name="exp0",
            config=EXPERIMENT.config,
            stages=EXPERIMENT.stages,
            tables=[back_patching_report.fix_rates],
            headline=EXPERIMENT.headline,
            plan=EXPERIMENT.plan,
            screen=describe.table,
        )
