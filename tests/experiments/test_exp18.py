"""exp18 from its command line, on a few pairs of an embedded model; its pairs are what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mlx_interp as mi
from experiments.exp18_discover_circuits import EXPERIMENT, pair_sources
from experiments.exp18_discover_circuits.circuit_tasks import TASKS, candidates
from experiments.exp18_discover_circuits.features import autoencoders
from experiments.exp18_discover_circuits.pair_sources import Source, drawn, task_names
from experiments.harness.experiment import ExperimentConfig
from experiments.harness.runner import run
from experiments.harness.state import Run
from mlx_interp.circuits import log_odds, nodes, wiring
from mlx_interp.circuits.feature_edges import feature_edges
from mlx_interp.circuits.graph import from_json
from mlx_interp.errors import ConfigError, DataError
from mlx_interp.sae import save
from tests.circuits.test_features import random_sae
from tests.pages.reading import page_data

FEW = ["--n-train", "4", "--n-test", "4", "--n-checked", "2", "--n-sampled", "10", "--n-traced", "4"]
FEWER = ["--n-train", "3", "--n-test", "2", "--n-checked", "2", "--n-sampled", "8", "--n-traced", "2"]
FASTER = ["--n-bootstrap", "5", "--noise-samples", "1", "--steps", "2", "--dropped-share", "0.02"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over two tasks, four pairs each."""
    out = tmp_path_factory.mktemp("results")
    with pytest.raises(SystemExit) as ended:
        tasks = ["--tasks", "toxic,safe", "--trace-tasks", "toxic", "--trace-windows", "1,3"]
        run(EXPERIMENT, ["--model", "tiny-llama", *FEW, *FASTER, *tasks, "--no-validate", "--out", str(out)])
    assert ended.value.code in (0, None)
    return out / EXPERIMENT.name / "tiny-llama"


@pytest.mark.slow
def test_a_run_leaves_every_table_its_figures_and_the_circuits_as_data(finished: Path) -> None:
    table = (finished / "table.md").read_text()
    for title in (
        *("Tasks", "Estimates against real patching", "Heads and MLPs found", "Faithfulness of circuits of edges"),
        *("Completeness", "Faithfulness of circuits of heads and MLPs", "Stability", "Overlap of tasks"),
        *("Edges of one class of requests only", "Minimality of the circuit", "Causal tracing"),
    ):
        assert f"{title}" in table
    drawn = {path.stem for path in (finished / "figures").glob("*.png")}
    assert drawn >= {"estimates", "faithfulness_toxic", "faithfulness_safe", "overlap", "tracing_toxic"}
    graph = from_json((finished / "files" / "circuit_toxic.json").read_text())
    assert graph.edges
    assert {edge.source for edge in graph.edges} <= {node.name for node in graph.nodes}
    page = (finished / "files" / "circuits.html").read_text()
    assert len(page_data(page)["graphs"]) == 2
    assert "| toxic | attention |               1 | control" in table  # by site, window and position
    assert "| toxic | MLPs      |               3 | clean" in table
    assert "Content-Security-Policy" in page  # nothing of it comes from elsewhere


@pytest.fixture(scope="module")
def with_features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over one task with two autoencoders that are far from trained."""
    out = tmp_path_factory.mktemp("features")
    for layer in (2, 5):
        save(random_sae(f"resid_post.{layer}", 128, layer), out / "saes" / str(layer), model_name="tiny-llama")
    with pytest.raises(SystemExit) as ended:
        chosen = [
            "--tasks",
            "toxic",
            "--parts",
            "acdc,clusters",
            "--n-clusters",
            "2",
            "--edge-nodes",
            "3",
            "--saes",
            str(out / "saes"),
        ]
        run(
            EXPERIMENT,
            [
                "--model",
                "tiny-llama",
                *FEWER,
                *FASTER,
                *chosen,
                "--acdc-thresholds",
                "2",
                "--no-validate",
                "--out",
                str(out),
            ],
        )
    assert ended.value.code in (0, None)
    return out / EXPERIMENT.name / "tiny-llama"


@pytest.mark.slow
def test_edges_between_features_are_in_table_figure_data_and_page(with_features: Path) -> None:
    table = (with_features / "table.md").read_text()
    for title in (
        "Prompts clustered by",
        "ACDC beside edge attribution",
        "Edges between features: estimates",
        "Edges between features\n",
        "Strongest edges between features",
        "Faithfulness of circuits of edges between features",
    ):
        assert title in table
    assert (with_features / "figures" / "feature_edges_toxic.png").exists()
    graph = from_json((with_features / "files" / "features_toxic.json").read_text())
    assert {edge.source.partition("/")[0] for edge in graph.edges} == {"2", "5"}
    assert {edge.target.partition("/")[0] for edge in graph.edges} == {"5", "logits"}
    assert all(edge.stream is not None for edge in graph.edges)
    assert "by the stream alone" in (with_features / "files" / "features.html").read_text()


@pytest.mark.slow
def test_edges_of_features_that_are_drawn_are_those_that_were_recorded(with_features: Path) -> None:
    records = [json.loads(line) for line in (with_features / "records.jsonl").read_text().splitlines()]
    row = next(r for r in records if "feature_edges" in r)
    model = mi.load("tiny-llama")
    saes = autoencoders(Run(model, ExperimentConfig()), str(with_features.parents[1] / "saes"))
    train = drawn(Run(model, ExperimentConfig()), Source(), "toxic", 5, 0).pairs[:2]
    first, source, last, target, value, stream = max(row["feature_edges"], key=lambda edge: abs(edge[4]))
    kept = [[target] if sae.site == last else [] for sae in saes]
    found = feature_edges(model, train, saes, kept)
    edges = next(one for one in found if saes[one.link[0]].site == first and (last is None) == (one.link[1] == 2))
    assert float(edges.values[:, 0, source].mean()) == pytest.approx(value, rel=1e-3)
    assert float(edges.stream[:, 0, source].mean()) == pytest.approx(stream, rel=1e-3)


@pytest.mark.slow
def test_recorded_metrics_are_those_of_the_model_on_its_test_pairs(finished: Path) -> None:
    records = [json.loads(line) for line in (finished / "records.jsonl").read_text().splitlines()]
    row = next(r for r in records if r.get("level") == "ends" and r["task"] == "safe")
    model = mi.load("tiny-llama")
    by_key = {pair.key: pair for pair in candidates(model, "safe")}
    for key, full, empty in zip(row["pairs"], row["full"], row["empty"], strict=True):
        pair = by_key[key]
        measure = log_odds(model)([pair])
        for prompt, expected in ((pair.clean, full), (pair.counterfactual, empty)):
            logits = model.run(prompt).logits
            assert logits is not None
            assert float(measure(logits)[0]) == pytest.approx(expected, abs=1e-3)


def test_attribution_finds_the_heads_and_mlps_that_patching_finds() -> None:
    """On a trained model: the five strongest of exhaustive patching are among the first eight of EAP-IG."""
    model = mi.load("tiny-gemma2")
    some = drawn(Run(model, ExperimentConfig()), Source(), "two_hop", 6, 0).pairs
    n_nodes = wiring(model.network).n_nodes
    exact = mi.circuits.node_effects(model, some, [(number, None) for number in range(n_nodes)]).mean(0)
    estimated = mi.circuits.node_scores(model, some, method="ig-inputs").mean(0)
    strongest = set(np.argsort(-np.abs(exact))[:5].tolist())
    assert strongest <= set(np.argsort(-np.abs(estimated))[:8].tolist())
    assert str(nodes(wiring(model.network))[0]) == "embed"
    assert 0 in strongest


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_pairs_differ_in_what_matters_alone(task: str) -> None:
    model = mi.load("tiny-qwen2")
    found = drawn(Run(model, ExperimentConfig()), Source(), task, 12, 1).pairs
    assert len({pair.key for pair in found}) == len(found) >= 8
    assert [p.key for p in found] == [p.key for p in drawn(Run(model, ExperimentConfig()), Source(), task, 12, 1).pairs]
    for pair in found:
        same = sum(a == b for a, b in zip(pair.clean.tokens, pair.counterfactual.tokens, strict=True))
        assert len(pair.clean) / 2 <= same < len(pair.clean)
        logits = model.run(pair.clean).logits
        assert logits is not None
        assert int(logits[0].argmax()) in pair.answers


def test_a_task_that_a_model_does_not_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="embedded world has no task 'recall': there are two_hop"):
        drawn(Run(mi.load("tiny-llama", check=False), ExperimentConfig()), Source(), "recall", 4, 0)
    monkeypatch.setattr(pair_sources, "EMBEDDED", ())  # as any trained model is asked
    with pytest.raises(DataError, match=r"does the task 'agreement' on 0 of \d+ pairs"):
        drawn(Run(mi.load("tiny-llama", check=False), ExperimentConfig()), Source(), "agreement", 4, 0)


@pytest.mark.slow
def test_a_task_that_is_not_done_is_left_out_and_counted(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        tasks = ["--tasks", "two_hop,agreement", "--parts", "faithfulness"]
        run(EXPERIMENT, ["--model", "tiny-llama", *FEWER, *FASTER, *tasks, "--no-validate", "--out", str(tmp_path)])
    assert ended.value.code in (0, None)
    table = (tmp_path / EXPERIMENT.name / "tiny-llama" / "table.md").read_text()
    assert "Left out: the embedded world has no task 'agreement'" in table
    assert "| two_hop |" in " ".join(table.split())
    with pytest.raises(SystemExit) as ended:
        run(EXPERIMENT, ["--model", "tiny-llama", "--tasks", "agreement", "--no-validate", "--out", str(tmp_path)])
    assert ended.value.code not in (0, None)


PAIRS = [("France", "Paris"), ("Japan", "Tokyo"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Egypt", "Cairo")]


def own_file(path: Path) -> Path:
    """Pairs of a researcher's own: each country with the next one."""
    rows = [
        {"clean": f"The capital of {a} is", "corrupt": f"The capital of {b} is", "answer": x, "wrong": y, "category": c}
        for c, turn in (("next", 1), ("one after", 2))
        for (a, x), (b, y) in zip(PAIRS, PAIRS[turn:] + PAIRS[:turn], strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_a_file_of_own_pairs_makes_a_circuit_of_each_category(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        chosen = ["--data", str(own_file(tmp_path / "own.jsonl")), "--parts", "clusters"]  # none without autoencoders
        few = ["--n-train", "2", "--n-test", "2", "--n-checked", "1", "--n-bootstrap", "2", "--steps", "1"]
        run(EXPERIMENT, ["--model", "tiny-gemma2", *few, *chosen, "--no-validate", "--out", str(tmp_path)])
    assert ended.value.code in (0, None)
    table = (tmp_path / EXPERIMENT.name / "tiny-gemma2" / "table.md").read_text()
    assert "| next " in table
    assert "| one after " in table
    assert "what words alone tell" in table
    assert "two_hop" not in table.partition("### ")[2]


def test_toxic_and_safe_prompts_are_matched_by_length_and_asked_for_refusals() -> None:
    model = mi.load("tiny-llama")
    source = Source(toxic="world:harmful", safe="world:harmless")
    assert task_names(source, TASKS, model) == ("refusal", "toxic", "safe")
    toxic, safe = (drawn(Run(model, ExperimentConfig()), source, task, 4, 0).pairs for task in ("toxic", "safe"))
    opener = model.prompt("I").tokens[-1]
    assert all(pair.answers == (opener,) for pair in toxic)
    assert all(pair.wrong == (opener,) and opener not in pair.answers for pair in safe)
    assert all(pair.key.split(" / ")[0] in pair.clean.text for pair in toxic)
    assert all(pair.key.split(" / ")[0] in pair.counterfactual.text for pair in safe)
    with pytest.raises(ConfigError, match="belong together"):
        task_names(Source(toxic="world:harmful"), TASKS, model)
    with pytest.raises(ConfigError, match="one or the other"):
        task_names(Source(data="x.csv", toxic="a", safe="b"), TASKS, model)
    with pytest.raises(DataError, match="there are harmful and harmless"):
        drawn(Run(model, ExperimentConfig()), Source(toxic="world:bad", safe="world:harmless"), "toxic", 4, 0)
