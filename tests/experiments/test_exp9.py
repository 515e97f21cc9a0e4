"""exp9 from its command line, on a few queries of an embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mlx_interp as mi
from experiments.exp9_back_patching import EXPERIMENT, Config, chosen_cells
from experiments.exp9_back_patching.back_patching import measure
from experiments.exp9_back_patching.back_patching_figures import heat_maps
from experiments.exp9_back_patching.grids import grids
from experiments.harness.runner import run
from experiments.harness.state import Run
from experiments.shared.two_hop.queries import Case, queries
from mlx_interp.behaviour.answers import mentions
from mlx_interp.behaviour.two_hop import bridge_position, donor_of, screen
from mlx_interp.patching.back_patching import back_patching_pairs, states_at, target_site
from mlx_interp.stats.held_out import held_out_choice

PARTS_TABLES = (
    "Identity",
    *(
        "Fixed by one cell, held out, by the text",
        "Entity description",
        "Attention knockout",
        "Sublayer projection",
        "Stages",
    ),
    *("Where the bridge is", "Does back-patching repair"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over 36 queries, two of each family and split."""
    out = tmp_path_factory.mktemp("results")
    with pytest.raises(SystemExit) as stopped:
        few = ["--limit", "36", "--max-correct", "1", "--max-described", "1", "--samples", "1"]
        run(EXPERIMENT, ["--model", "tiny-gemma2", *few, "--out", str(out)])
    assert stopped.value.code in (0, None)
    return out / "exp9_back_patching" / "tiny-gemma2"


@pytest.mark.slow
def test_a_run_leaves_tables_figures_and_records(finished: Path) -> None:
    table = (finished / "table.md").read_text()
    for title in (
        "Which queries count",
        "Fixed by one cell, held out",
        "Fixed by any cell (oracle)",
        "Identity",
        *PARTS_TABLES,
    ):
        assert f"### {title}" in table
    assert "UNVALIDATED" not in table
    assert {path.name for path in (finished / "figures").glob("*.png")} >= {
        *("fix_rate_raw.png", "lens_failure.png", "described_failure.png", "knockout_failure.png"),
        *("projection_failure.png", "stages.png", "truth_failure.png"),
    }
    assert json.loads((finished / "run.json").read_text())["validation"]["passed"]


@pytest.mark.slow
def test_every_panel_says_how_many_failures_it_shows(finished: Path) -> None:
    records = [json.loads(line) for line in (finished / "records.jsonl").read_text().splitlines()]
    own = [r for r in records if r.get("study") == "back-patching" and r["group"] == "failure" and r["length"] == "raw"]
    plot = next(heat_maps(records, Config()))
    titles = [" ".join(axis.get_title().split()) for axis in plot.figure.axes if " position, " in axis.get_title()]
    assert len(titles) == 4
    for title in titles:
        position, arm, n = title.replace(" position", "").split(", ")
        assert n == f"n = {sum(r['position'] == position and r['arm'] == arm for r in own)}"


@pytest.mark.slow
def test_every_recorded_cell_is_the_run_that_it_names(finished: Path) -> None:
    records = [json.loads(line) for line in (finished / "records.jsonl").read_text().splitlines()]
    row = next(r for r in records if r.get("arm") == "patched" and r["length"] == "raw" and r["position"] == "bridge")
    model, config = mi.load("tiny-gemma2"), Config()
    query = next(q for q in queries(Run(model, config), ()) if row["item"].endswith(q.key))
    position = bridge_position(model, query)
    states = states_at(model, query.two_hop, position)
    for cell, (source, target) in list(enumerate(back_patching_pairs(model.n_layers)))[::7]:
        patch = mi.Patch(target_site(target), states[source], position)
        logits = np.asarray(model.run(query.two_hop, interventions=[patch]).logits)[0]
        answer = model.prompt(f"{query.two_hop} {query.answer}").tokens[len(model.prompt(query.two_hop))]
        assert row["rank"][cell] == int((logits > logits[answer]).sum())


@pytest.mark.slow
def test_texts_are_those_of_the_cells_that_the_other_half_chose(finished: Path) -> None:
    records = [json.loads(line) for line in (finished / "records.jsonl").read_text().splitlines()]
    close = [r for r in records if r.get("stage") == chosen_cells.STAGE and r.get("group") == "failure"]
    mine = grids(records, study="back-patching", arm="patched", position="bridge", length="raw")
    held = held_out_choice(mine.cells, Config().seed)
    rows = [r for r in close if r["arm"] == "patched" and r["position"] == "bridge"]
    assert {r["item"] for r in rows} == set(mine.cells)
    assert all(held.choice[r["item"]] in r["cells"] for r in rows)
    assert not [r for r in close if r["length"] != "raw"]
    model = mi.load("tiny-gemma2")
    query = next(q for q in queries(Run(model, Config()), ()) if rows[0]["item"].endswith(q.key))
    position = bridge_position(model, query)
    states = states_at(model, query.two_hop, position)
    pairs = back_patching_pairs(model.n_layers)
    for cell, said in zip(rows[0]["cells"], rows[0]["mentioned"], strict=True):
        patch = mi.Patch(target_site(pairs[cell][1]), states[pairs[cell][0]], position)
        (text,) = model.generate(query.two_hop, interventions=[patch], max_tokens=10)
        assert said == mentions(text.text, query.answers)


@pytest.mark.slow
def test_correct_queries_are_looked_at_in_the_failures_best_cell(finished: Path) -> None:
    records = [json.loads(line) for line in (finished / "records.jsonl").read_text().splitlines()]
    correct = [r for r in records if r.get("stage") == chosen_cells.STAGE and r.get("group") == "correct"]
    assert {r["arm"] for r in correct} >= {"patched", "random"}
    for position, length in {(r["position"], r["length"]) for r in correct}:
        failures = grids(records, study="back-patching", arm="patched", position=position, length=length)
        best = int(np.argmax(np.mean(list(failures.cells.values()), axis=0)))
        assert {tuple(r["cells"]) for r in correct if (r["position"], r["length"]) == (position, length)} == {(best,)}


def test_failures_are_failures_and_patching_a_layer_into_itself_changes_nothing() -> None:
    model, config = mi.load("tiny-gemma2"), Config()
    found = screen(model, [q for q in queries(Run(model, config), ()) if q.split == "never_composed"][:24])
    failures = [s.query for s in found if s.group == "failure"]
    assert len(failures) > 12
    case = Case(failures[0], "failure", donor_of(failures[0], failures))
    records = list(measure(Run(model, config), case))
    clean = next(r for r in records if r["arm"] == "clean")
    assert clean["rank"] > 0
    for record in records:
        if record["arm"] == "itself":
            assert set(record["rank"]) == {clean["rank"]}
            assert np.allclose(record["log_prob"], clean["log_prob"], atol=2e-4)


def test_an_unknown_family_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(EXPERIMENT, ["--model", "tiny-gemma2", "--families", "state_capitl", "--dry-run"])
    assert stopped.value.code == 2
    assert "did you mean 'state_capital'" in " ".join(capsys.readouterr().err.split())


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(EXPERIMENT, ["--model", "tiny-gemma2", "--dry-run", "--out", str(tmp_path / "none")])
    assert stopped.value.code in (0, None)
    # 240 failures: six grids of 36 pairs and 8 identities at two positions, four of 44 pairs across prompts
    assert f"{240 * (2 * (6 * 36 + 8) + 4 * 44):,}" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_only_the_parts_asked_for_are_measured(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        few = ["--limit", "18", "--max-described", "1", "--parts", "knockout"]
        run(EXPERIMENT, ["--model", "tiny-gemma2", *few, "--no-validate", "--out", str(tmp_path)])
    assert stopped.value.code in (0, None)
    folder = tmp_path / "exp9_back_patching" / "tiny-gemma2"
    stages = {json.loads(line)["stage"] for line in (folder / "records.jsonl").read_text().splitlines()}
    assert stages == {"screened", "knocked_out"}, "no query of the synthetic world is set aside for a way of asking"
    table = (folder / "table.md").read_text()
    assert "Attention knockout" in table
    assert "Fixed by one cell" not in table


@pytest.mark.slow
def test_a_knockout_that_is_recorded_is_the_run_that_it_names(finished: Path) -> None:
    records = [json.loads(line) for line in (finished / "records.jsonl").read_text().splitlines()]
    row = next(r for r in records if r.get("edge") == "last to bridge position" and r["group"] == "failure")
    model, config = mi.load("tiny-gemma2"), Config()
    query = next(q for q in queries(Run(model, config), ()) if row["item"].endswith(q.key))
    last = len(model.prompt(query.two_hop)) - 1
    clean = model.generate(query.two_hop, max_tokens=10)[0].text
    for centre, changed in enumerate(row["changed"]):
        window = [layer for layer in range(centre - 1, centre + 2) if 0 <= layer < model.n_layers]
        cut = mi.Knockout(window, query=last, keys=bridge_position(model, query))
        text = model.generate(query.two_hop, interventions=[cut], max_tokens=10)[0].text
        right = [query.answer.lower() in written.lower().split() for written in (text, clean)]
        assert changed == (text != clean and not all(right))
