"""Causal tracing restores what it must, and only that; graphs survive a round trip."""

from __future__ import annotations

import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.circuits import Wiring
from mlx_interp.circuits.discovery import existing
from mlx_interp.circuits.graph import as_json, circuit_graph, from_json
from mlx_interp.circuits.tracing import KINDS, ROLES, by_role, causal_trace, roles, spread, window_of
from mlx_interp.errors import CircuitError
from tests.tiny import tiny_model


@pytest.mark.parametrize("kind", KINDS)
def test_noise_of_no_size_costs_nothing_and_the_clean_state_changes_nothing(kind: str) -> None:
    model = tiny_model("gemma2")
    found = causal_trace(model, model.prompt("5 9 2 40 7"), [1, 2], 7, kind=kind, noise=0.0, samples=2)  # type: ignore[arg-type]
    assert found.restored.shape == (3, 5)
    assert np.abs(found.restored - found.clean).max() < 1e-5
    assert found.noisy == pytest.approx(found.clean, abs=1e-6)


def test_the_last_state_at_the_last_position_brings_everything_back() -> None:
    model = mi.load("tiny-llama")
    prompt = model.prompt("The capital of France is")
    answer = model.prompt("The capital of France is Paris").tokens[-1]
    subject = prompt.find("France")
    found = causal_trace(model, prompt, subject, answer, noise=3 * spread(model, [prompt]), samples=2)
    assert found.clean > 0.9
    assert found.noisy < 0.2
    assert found.restored[-1, -1] == pytest.approx(found.clean, abs=1e-4)
    assert found.restored[0, subject[-1]] > 0.9  # the subject's own early state
    other = causal_trace(
        model, prompt, subject, answer, noise=3 * spread(model, [prompt]), donor=model.prompt("The capital of Italy is")
    )
    assert other.restored[-1, -1] < 0.1


def test_positions_have_roles_as_in_the_paper() -> None:
    named = [ROLES[number] for number in roles(8, [2, 3, 4])]
    assert named == [
        *("before the subject", "before the subject", "first subject token", "middle subject tokens"),
        *("last subject token", "first token after", "further tokens", "last token"),
    ]
    effects = np.arange(16.0).reshape(2, 8)
    assert by_role(effects, [2, 3, 4])[:, 0].tolist() == [0.5, 8.5]
    assert np.isnan(by_role(effects[:, :5], [2, 3, 4])[0, 4])
    assert [window_of(n) for n in (3, 8, 48)] == [1, 2, 10]


def test_subjects_and_donors_that_do_not_fit_are_refused() -> None:
    model = tiny_model("llama")
    prompt = model.prompt("1 2 3")
    with pytest.raises(CircuitError, match="subject positions"):
        causal_trace(model, prompt, [3], 4, noise=1.0)
    with pytest.raises(CircuitError, match="donor of 2"):
        causal_trace(model, prompt, [1], 4, noise=1.0, donor=model.prompt("1 2"))


def test_a_graph_survives_json() -> None:
    wires = Wiring(2, 3)
    rng = np.random.default_rng(0)
    edges = existing(wires) & (rng.random((wires.n_inputs, wires.n_nodes)) < 0.2)
    scores = rng.normal(size=edges.shape)
    graph = circuit_graph(edges, scores, wires, title="a <b> & c")
    assert from_json(as_json(graph)) == graph
    assert len(graph.edges) == edges.sum()
    assert sum(graph.merged.values()) == pytest.approx(scores[edges].sum())
