"""What a run leaves behind, what it refuses, and what it says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.experiments.conftest import Setting, Study

RUN = Path("exp0_numbers/tiny-llama")


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two models, one of them not validated."""
    out, study = tmp_path_factory.mktemp("results"), Study(tmp_path_factory.mktemp("logs"))
    for options in (["--model", "tiny-llama"], ["--model", "tiny-qwen2", "--no-validate", "--limit", "11"]):
        done = study(*options, "--out", str(out), setting=Setting(gate_passes="tiny-llama" in options, n_figures=2))
        assert done.code == 0, done.err
    return out


def test_a_run_folder_holds_what_the_design_names(results: Path):
    names = {str(path.relative_to(results / RUN)) for path in (results / RUN).rglob("*") if path.is_file()}
    figures = {f"figures/{name}.{ending}" for name in ("fix_rate", "by_source") for ending in ("png", "pdf", "md")}
    assert names == {"run.json", "records.jsonl", "records.parquet", "table.md", "files/lists/counting.txt"} | figures


def test_further_files_are_made_from_the_records_and_go_with_them(results: Path, study: Study, tmp_path: Path):
    first = (results / RUN / "files" / "lists" / "counting.txt").read_text().splitlines()
    assert len(first) == 19
    for options in ([], ["--fresh"]):
        assert study("--model", "tiny-llama", "--limit", "4", "--out", str(tmp_path), *options).code == 0
        (tmp_path / RUN / "files" / "of_an_earlier_run.txt").touch() if not options else None
    assert [path.name for path in (tmp_path / RUN / "files").rglob("*.txt")] == ["counting.txt"]


def test_run_json_says_what_was_run_on_what(results: Path):
    run = json.loads((results / RUN / "run.json").read_text())
    assert run["status"] == "complete"
    assert run["identity"]["config"]["seed"] == 0
    assert run["model"] == {
        "name": "tiny-llama",
        "id": "test/fake",
        "weights_hash": "abc",
        "quantization": "4-bit, group 64",
        "family": None,
        "layers": None,
        "parameters": None,
        "ignored_config": [],
    }
    assert run["validation"]["checks"]["exactness"] == "passed: 0 (bound 0)"
    assert {"python", "mlx", "mlx-lm", "numpy"} <= set(run["versions"])
    assert run["peak_memory_bytes"]["process"] > 10**7
    assert run["measuring_seconds"] >= 0
    assert {"command", "started", "finished"} <= set(run)


def test_parquet_and_jsonl_hold_the_same_records(results: Path):
    rows = pq.read_table(results / RUN / "records.parquet").to_pylist()
    lines = [json.loads(line) for line in (results / RUN / "records.jsonl").read_text().splitlines()]
    assert len(rows) == len([line for line in lines if "_done" not in line]) == 30 + 19 * 2 * 6


def test_the_second_stage_measures_what_the_first_one_found_to_count(results: Path):
    rows = pq.read_table(results / RUN / "records.parquet").to_pylist()
    counted = {row["item"] for row in rows if row["stage"] == "screen" and row["counts"]}
    assert {row["item"] for row in rows if row["stage"] == "grid"} == counted


def test_what_was_not_validated_is_marked_everywhere(results: Path):
    unvalidated = results / "exp0_numbers" / "tiny-qwen2"
    table = (unvalidated / "table.md").read_text()
    assert "### **UNVALIDATED** Fixed by the best pair" in table
    assert "\n**UNVALIDATED** Bands are" in table
    assert (unvalidated / "figures" / "by_source.md").read_text().startswith("**UNVALIDATED**")
    for overview in (results / "README.md", results / "exp0_numbers" / "table.md"):
        for line in overview.read_text().splitlines():
            if line.startswith("| tiny"):
                assert ("UNVALIDATED" in line) == ("qwen2" in line)
    assert "UNVALIDATED" not in (results / RUN / "table.md").read_text()


def test_the_table_over_all_models_says_which_runs_had_other_options(results: Path):
    text = (results / "exp0_numbers" / "table.md").read_text()
    assert "| tiny-llama " in text
    assert "tiny-qwen2 was run with limit = 11." in text


def test_the_index_links_every_run_with_its_headline(results: Path):
    text = (results / "README.md").read_text()
    assert "19 of 30 queries count" in text
    for link in ("exp0_numbers/table.md", "exp0_numbers/tiny-llama/table.md", "exp0_numbers/tiny-llama/figures/"):
        assert f"]({link})" in text
        assert (results / link).exists()


def test_limit_takes_evenly_from_all_groups(results: Path):
    rows = pq.read_table(results / "exp0_numbers" / "tiny-qwen2" / "records.parquet").to_pylist()
    families = [row["family"] for row in rows if row["stage"] == "screen"]
    assert (families.count("capital"), families.count("currency")) == (6, 5)


def test_a_validated_run_stays_validated_when_shown_again_without_the_gate(study: Study, tmp_path: Path):
    for options in ([], ["--no-validate"]):
        assert study("--model", "tiny-llama", "--out", str(tmp_path), *options).code == 0
    assert "UNVALIDATED" not in (tmp_path / RUN / "table.md").read_text()


def test_a_pass_of_the_gate_takes_the_mark_away(study: Study, tmp_path: Path):
    for options, marked in (["--no-validate"], True), ([], False):
        assert study("--model", "tiny-llama", "--out", str(tmp_path), *options).code == 0
        assert ("UNVALIDATED" in (tmp_path / RUN / "table.md").read_text()) == marked
        assert ("UNVALIDATED" in (tmp_path / "README.md").read_text()) == marked


def test_a_failed_gate_stops_the_run_with_what_failed(study: Study, tmp_path: Path):
    refused = study("--model", "tiny-llama", "--out", str(tmp_path), setting=Setting(gate_passes=False))
    assert refused.code == 2
    for part in (
        "error: tiny-llama did not pass validation",
        "exactness: failed: logits differ by 0.5",
        "--no-validate",
    ):
        assert part in refused.err
    assert "identity" not in refused.err
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("options", "setting", "named"),
    [
        (["--seed", "3"], Setting(), "config: seed: 0 there, 3 now"),
        (["--limit", "4"], Setting(), "config: limit: null there, 4 now"),
        (["--position", "bridge"], Setting(), 'config: position: "last" there, "bridge" now'),
        ([], Setting(weights="xyz"), 'weights: "abc" there, "xyz" now'),
    ],
)
def test_a_run_of_something_else_is_kept_aside_and_named(
    study: Study, results: Path, tmp_path: Path, options: list[str], setting: Setting, named: str
):
    out = tmp_path / "runs"
    shutil.copytree(results, out)
    before = files_of(out / RUN)
    done = study("--model", "tiny-llama", "--out", str(out), *options, setting=setting)
    assert done.code == 0, done.err
    (aside,) = (out / "earlier" / "exp0_numbers").iterdir()
    (line,) = (line for line in done.err.splitlines() if named in line)
    assert str(aside) in line
    assert files_of(aside) == before
    again = study("--model", "tiny-llama", "--out", str(out), setting=Setting(n_figures=2))
    assert again.code == 0, again.err
    assert {
        path.relative_to(out / RUN): path.read_bytes() for path in (out / RUN).rglob("*") if path.is_file()
    } == before


def test_a_complete_run_is_shown_and_nothing_is_measured_or_written(study: Study, results: Path):
    before = {path: path.stat().st_mtime_ns for path in (results / RUN).rglob("*") if path.is_file()}
    shown = study("--model", "tiny-llama", "--out", str(results), setting=Setting(pause=9, gate_passes=False))
    assert shown.code == 0, shown.err
    assert "complete since 20" in shown.err
    assert "nothing is measured" in shown.err
    assert "| capital " in shown.out
    assert "tiny-llama: grid" not in shown.err
    assert {path: path.stat().st_mtime_ns for path in (results / RUN).rglob("*") if path.is_file()} == before


def test_tables_of_older_report_code_are_made_anew_from_the_records(study: Study, tmp_path: Path):
    command = ["--model", "tiny-llama", "--out", str(tmp_path)]
    assert study(*command).code == 0
    table = (tmp_path / RUN / "table.md").read_text()
    run = json.loads((tmp_path / RUN / "run.json").read_text())
    (tmp_path / RUN / "run.json").write_text(json.dumps(run | {"report_code": "of last year"}))
    (tmp_path / RUN / "table.md").write_text("of last year")
    shown = study(*command, setting=Setting(pause=9, gate_passes=False))
    assert "its tables made anew from its records" in shown.err
    assert (tmp_path / RUN / "table.md").read_text() == table
    assert json.loads((tmp_path / RUN / "run.json").read_text()) == run


def test_edited_data_of_the_same_name_is_other_data(study: Study, tmp_path: Path):
    data = tmp_path / "names.txt"
    command = ["--model", "tiny-llama", "--out", str(tmp_path / "out"), "--data", str(data)]
    data.write_text("a b c d e f g h")
    assert study(*command).code == 0
    data.write_text("a b c d e f g other")
    other = study(*command)
    assert other.code == 0
    assert "items: " in other.err
    assert "kept as" in other.err


def test_an_item_that_occurs_twice_is_named(study: Study, tmp_path: Path):
    (tmp_path / "names.txt").write_text("a b a")
    refused = study("--model", "tiny-llama", "--out", str(tmp_path / "out"), "--data", str(tmp_path / "names.txt"))
    assert refused.code == 2
    assert "two items have the key 'a'" in refused.err


def test_a_dry_run_prints_the_plan_and_writes_nothing(study: Study, tmp_path: Path):
    done = study("--model", "tiny-llama", "--model", "tiny-qwen2", "--out", str(tmp_path / "out"), "--dry-run")
    assert done.code == 0
    assert done.out.count("plan, nothing written") == 2
    for figure in ("360", "87", "1.00"):
        assert figure in done.out
    assert list(tmp_path.iterdir()) == []


def test_results_that_cannot_be_written_are_an_error_with_a_way_out(study: Study, tmp_path: Path):
    (tmp_path / "file").write_text("")
    refused = study("--model", "tiny-llama", "--out", str(tmp_path / "file"))
    assert refused.code == 2
    assert refused.err.startswith("error: ")
    assert "give another folder with --out DIR" in refused.err


def test_an_unknown_model_is_an_error_and_the_finished_ones_are_kept(study: Study, tmp_path: Path):
    refused = study("--model", "tiny-llama", "--model", "huge", "--out", str(tmp_path))
    assert refused.code == 2
    assert "error: no model 'huge': did you mean 'tiny-llama'?" in refused.err
    assert "tiny-llama" in (tmp_path / "README.md").read_text()


def test_the_screen_shows_the_table_and_where_the_files_are(study: Study, tmp_path: Path):
    done = study("--model", "tiny-llama", "--out", str(tmp_path))
    assert "| capital " in done.out
    assert str(tmp_path / RUN / "table.md") in done.out
    assert str(tmp_path / "README.md") in done.out
    assert "tiny-llama: grid" in done.err


@pytest.mark.slow
def test_heat_maps_are_pages_on_request(study: Study, tmp_path: Path):
    drawn = Setting(n_figures=1)
    done = study("--model", "tiny-llama", "--out", str(tmp_path), "--html", "--no-validate", setting=drawn)
    folder = tmp_path / RUN / "pages"
    (page,) = folder.glob("*.html")
    assert str(page) in done.out
    text = page.read_text()
    assert '<p class="mark" role="alert">UNVALIDATED</p>' in text
    plot = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])
    assert [len(panel["values"]) for panel in plot["panels"]] == [4, 4]
    page.unlink()
    again = study("--model", "tiny-llama", "--out", str(tmp_path), "--html", "--no-validate", setting=drawn)
    assert "nothing is measured" in again.err
    assert page.read_text() == text


def test_latex_tables_are_written_on_request(study: Study, tmp_path: Path):
    done = study("--model", "tiny-llama", "--out", str(tmp_path), "--latex")
    text = (tmp_path / "exp0_numbers" / "tiny-llama" / "table.tex").read_text()
    assert "table.tex" in done.out
    assert text.count(r"\begin{table}") == 1
    assert r"\toprule" in text
