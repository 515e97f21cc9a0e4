"""Circuits are what their rules say; faithfulness is 1 for everything and 0 for nothing, and is never clipped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_interp.circuits import (
    SHARES,
    Wiring,
    cmd,
    cpr,
    edge_circuits,
    faithfulness,
    greedy,
    jaccard,
    node_circuits,
    nodes,
    pruned,
    random_edges,
    random_nodes,
    top,
    weighted_jaccard,
    wiring,
)
from mlx_interp.circuits.discovery import existing, sizes
from mlx_interp.circuits.faithfulness import without_each
from mlx_interp.patching.nodes import reader
from tests.circuits.test_attribution import m, pairs_of
from tests.tiny import tiny_model

WIRES = Wiring(n_layers=3, n_heads=2)
OWNER = np.array(reader(WIRES))
seeds = st.integers(0, 10_000)


def some_edges(seed: int, share: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    edges: np.ndarray = (rng.random((WIRES.n_inputs, WIRES.n_nodes)) < share) & existing(WIRES)
    return edges


def ways(edges: np.ndarray) -> set[tuple[int, int]]:
    """Edges on some way from the embedding to the logits, by walking both ways."""
    pairs = [(int(node), int(OWNER[row]), int(row)) for row, node in np.argwhere(edges)]
    forward, backward = {0}, {WIRES.n_nodes}
    for _ in range(WIRES.n_nodes + 1):
        forward |= {b for a, b, _ in pairs if a in forward}
        backward |= {a for a, b, _ in pairs if b in backward}
    return {(row, a) for a, b, row in pairs if a in forward and b in backward}


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_what_is_left_after_pruning_leads_from_the_embedding_to_the_logits(seed: int) -> None:
    edges = some_edges(seed)
    assert {(int(r), int(n)) for r, n in np.argwhere(pruned(edges, WIRES))} == ways(edges)


@given(seeds, st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_greedy_circuits_lead_to_the_logits_and_have_the_size_asked_for(seed: int, n: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(WIRES.n_inputs, WIRES.n_nodes))
    edges = greedy(scores, n, WIRES)
    assert edges.sum() == n
    assert not (edges & ~existing(WIRES)).any()
    used = {WIRES.n_nodes} | {int(node) for node in np.argwhere(edges)[:, 1]}
    assert all(int(OWNER[row]) in used for row in np.argwhere(edges)[:, 0])


def test_top_takes_the_largest_in_size_and_never_what_has_no_effect() -> None:
    scores = np.array([0.5, -3.0, 0.0, np.nan, 2.0])
    assert np.flatnonzero(top(scores, 2)).tolist() == [1, 4]
    assert np.flatnonzero(top(scores, 5)).tolist() == [0, 1, 4]


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_random_circuits_have_the_layer_profile_of_the_circuit(seed: int) -> None:
    edges, known = some_edges(seed), nodes(WIRES)
    blocks = [*(node.block for node in known), "logits"]

    def profile(mask: np.ndarray) -> list[str]:
        return sorted(f"{blocks[OWNER[row]]} {blocks[node]}" for row, node in np.argwhere(mask))

    drawn = random_edges(edges, WIRES, seed)
    assert profile(drawn) == profile(edges)
    assert not (drawn & ~existing(WIRES)).any()
    assert random_edges(edges, WIRES, seed, profile=False).sum() == edges.sum()
    circuit = np.random.default_rng(seed).random(WIRES.n_nodes) < 0.4
    chosen = random_nodes(circuit, WIRES, seed)
    assert sorted(known[i].block for i in np.flatnonzero(chosen)) == sorted(
        known[i].block for i in np.flatnonzero(circuit)
    )


def test_overlap_is_of_sets_and_of_shares() -> None:
    a, b = np.array([True, True, False]), np.array([False, True, True])
    assert jaccard(a, b) == pytest.approx(1 / 3)
    assert weighted_jaccard(np.array([1.0, 3.0]), np.array([-10.0, -30.0])) == pytest.approx(1)
    assert weighted_jaccard(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 0
    assert weighted_jaccard(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == pytest.approx(0.5 / 1.5)


@pytest.mark.parametrize("baseline", ["counterfactual", "mean", "zero"])
def test_everything_is_the_model_and_nothing_is_the_replacement(baseline: str) -> None:
    model = tiny_model("gemma2")
    made = pairs_of(model)
    whole = [m(model, pair) for pair in made]
    all_nodes = np.ones(wiring(model.network).n_nodes, bool)
    by_node = node_circuits(model, made, [all_nodes, ~all_nodes], baseline=baseline)  # type: ignore[arg-type]
    every = existing(wiring(model.network))
    by_edge = edge_circuits(model, made, [every, ~every & every], baseline=baseline)  # type: ignore[arg-type]
    assert by_node[:, 0] == pytest.approx(whole, abs=1e-3)
    assert by_edge[:, 0] == pytest.approx(whole, abs=1e-3)
    assert by_edge[:, 1] == pytest.approx(by_node[:, 1], abs=1e-3)
    if baseline == "counterfactual":
        assert by_node[:, 1] == pytest.approx([m(model, pair, counterfactual=True) for pair in made], abs=1e-3)


def test_a_node_circuit_is_the_edge_circuit_of_all_its_edges() -> None:
    model = tiny_model("gemma3_text")
    made, wires = pairs_of(model), wiring(model.network)
    kept = np.random.default_rng(5).random(wires.n_nodes) < 0.6
    edges = existing(wires) & kept[None]
    assert node_circuits(model, made, [kept]) == pytest.approx(edge_circuits(model, made, [edges]), abs=1e-3)


def test_faithfulness_is_a_ratio_of_means_and_is_not_clipped() -> None:
    full, empty = np.array([4.0, 2.0]), np.array([0.0, 2.0])
    circuit = np.array([[9.0, -3.0], [1.0, 1.0]])
    assert faithfulness(circuit, full, empty).tolist() == [2.0, -1.0]
    assert np.isnan(faithfulness(circuit, full, full)).all()


def test_areas_are_those_of_known_curves() -> None:
    ones = np.ones(len(SHARES))
    assert cpr(ones) == pytest.approx(0.999)
    assert cmd(ones) == 0
    assert cpr(ones, log=True) == pytest.approx(1)
    assert cmd(0 * ones, log=True) == pytest.approx(1)
    assert cpr(np.array(SHARES)) == pytest.approx((1 - 1e-6) / 2)
    assert sizes([0.001, 0.5, 1], 1997) == [2, 998, 1997]


def test_minimality_drops_each_member_once() -> None:
    circuit = np.array([[True, False], [True, True]])
    dropped = without_each(circuit)
    assert [member for member, _ in dropped] == [(0, 0), (1, 0), (1, 1)]
    assert all(smaller.sum() == 2 and not smaller[member] for member, smaller in dropped)
    assert circuit.sum() == 3


def test_of_a_large_circuit_members_are_drawn() -> None:
    circuit = np.ones((9, 9), dtype=bool)
    drawn = [member for member, _ in without_each(circuit, 10, seed=1)]
    assert len(set(drawn)) == 10
    assert drawn == sorted(drawn) == [member for member, _ in without_each(circuit, 10, seed=1)]
    assert drawn != [member for member, _ in without_each(circuit, 10, seed=2)]
    assert len(without_each(circuit, 81)) == 81
