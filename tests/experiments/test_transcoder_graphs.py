"""exp20's attribution graphs: texts that are traced are not trained on, and records make the tables."""

from __future__ import annotations

import mlx_interp as mi  # isort: split

from dataclasses import replace

import numpy as np
import pytest

from experiments.exp20_instruments import Config, transcoder_graphs, transcoder_report
from experiments.harness.state import Run

SMALL = Config(
    n_graphs=2,
    n_transcoder_texts=60,
    transcoder_features=48,
    transcoder_k=6,
    transcoder_steps=30,
    transcoder_batch=64,
    cross_layers=2,
    n_ablated=12,
    n_largest=4,
    n_cut=10,
)


@pytest.fixture(scope="module")
def run() -> Run[Config]:
    return Run(mi.load("tiny-llama"), SMALL)


def test_no_text_that_is_trained_on_begins_with_a_question_that_is_traced(
    run: Run[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def rows(_: object, prompts: list[mi.Prompt], layers: range) -> tuple[dict[int, int], dict[int, int]]:
        seen.append([prompt.text for prompt in prompts])
        return {}, {}

    monkeypatch.setattr(transcoder_graphs, "transcoder_rows", rows)
    transcoder_graphs.rows(Run(run.model, SMALL))
    trained, held_out = map(set, seen)
    assert (len(trained), len(held_out)) == (53, 7)
    assert not trained & held_out
    for prompt in transcoder_graphs.questions(run):
        assert not any(text.startswith(prompt.text) for text in trained | held_out)


def test_graphs_are_measured_and_told(run: Run[Config]) -> None:
    items = transcoder_graphs.traced(run)
    assert len(items) == 3 * 3
    records = [
        {"stage": transcoder_graphs.STAGE, "item": item.key, **row}
        for item in items
        for row in transcoder_graphs.measure(run, item)
    ]
    graphs = [row for row in records if row.get("layer") is None]
    assert len(records) - len(graphs) == 8 + 2 + 2
    assert len(graphs) == 6
    for row in graphs:
        assert row["sums"] < 1e-5
        assert 0 < row["replacement"] < 1
        assert 0 < row["completeness"] < 1
        assert row["ablated"] == len(row["estimates"]) == len(row["effects"]) == 12
    per_layer = [row for row in graphs if row["kind"] == transcoder_graphs.PER_LAYER]
    assert np.mean([row["completeness"] for row in per_layer]) > np.mean([row["completeness"] for row in graphs])
    tables = [table(records, run.config) for table in transcoder_report.TABLES]
    assert [len(table.rows) for table in tables if table is not None] == [3, 3, 3, 3]
    assert "attribution graphs" in str(transcoder_report.headline(records, run.config))
    assert {plot.name for plot in transcoder_report.figures(records, run.config)} == {
        "total_effects",
        "attribution_graph",
    }
    assert [name for name, _ in transcoder_report.pages(records, run.config)] == ["attribution_graph"]
    assert [table([], run.config) for table in transcoder_report.TABLES] == [None] * 4
    assert transcoder_report.headline([], run.config) is None
    assert not list(transcoder_report.figures([], run.config))


def test_without_cross_layers_there_is_one_kind(run: Run[Config]) -> None:
    alone = Run(run.model, replace(SMALL, cross_layers=0))
    assert len(transcoder_graphs.trained(alone, transcoder_graphs.PER_LAYER).layers) == run.model.n_layers
    assert {item.kind for item in transcoder_graphs.traced(alone)} == {transcoder_graphs.PER_LAYER}
