"""Passes along edges equal plain runs, node patches, gradients and single edges patched by hand."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Model, Patch
from mlx_interp.engine.edge_pass import Wiring, Written, patched, probed, wiring, written
from mlx_interp.interventions import Intervention
from tests.tiny import FAMILY_CONFIGS, RECENT, tiny_model

FAMILIES = sorted(FAMILY_CONFIGS.keys() - RECENT)
N_POS = 9
NODE_SITES = ["z", "mlp_out", "resid_pre.0"]


def two_runs(model: Model) -> tuple[list[list[int]], list[list[int]], Written, Written, mx.array, mx.array]:
    rng = np.random.default_rng(0)
    tokens, others = (rng.integers(0, 101, (2, N_POS)).tolist() for _ in range(2))
    (here, logits), (there, other_logits) = (written(model.network, mx.array(rows)) for rows in (tokens, others))
    return tokens, others, here, there, logits, other_logits


def worst(a: mx.array, b: mx.array) -> float:
    return float(mx.abs(a - b).max())


def gap(logits: mx.array) -> mx.array:
    return mx.tanh((logits[:, 7] - logits[:, 23]) / 4) * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_all_edges_are_the_plain_run_and_none_the_other(family: str) -> None:
    model = tiny_model(family)
    _, _, here, there, logits, other_logits = two_runs(model)
    wires = wiring(model.network)
    ones = mx.ones((1, wires.n_inputs, wires.n_nodes))
    assert worst(patched(model.network, here.embedding, there, ones), logits) < 1e-4
    assert worst(patched(model.network, here.embedding, there, 0 * ones), other_logits) < 1e-4
    assert worst(probed(model.network, here.embedding, there.minus(here), 0 * ones), logits) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_all_edges_of_some_nodes_are_patches_of_the_other_nodes(family: str) -> None:
    model = tiny_model(family)
    tokens, others, here, there, _, _ = two_runs(model)
    wires = wiring(model.network)
    kept = np.random.default_rng(1).random(wires.n_nodes) < 0.5
    weights = mx.broadcast_to(mx.array(kept.astype(np.float32)), (1, wires.n_inputs, wires.n_nodes))
    donor = model.run(others, capture=NODE_SITES, logits="none")
    edits: list[Intervention] = []
    if not kept[0]:
        edits.append(Patch("resid_pre.0", donor["resid_pre.0"]))
    for layer in range(model.n_layers):
        if heads := [h for h in range(model.n_heads) if not kept[wires.heads(layer).start + h]]:
            edits.append(Patch(f"z.{layer}", donor[f"z.{layer}"][:, :, mx.array(heads)], heads=heads))
        if not kept[wires.mlp(layer)]:
            edits.append(Patch(f"mlp_out.{layer}", donor[f"mlp_out.{layer}"]))
    expected = model.run(tokens, interventions=edits).logits
    assert expected is not None
    assert worst(patched(model.network, here.embedding, there, weights), expected) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_slopes_of_a_nodes_edges_add_up_to_its_gradient_times_change(family: str) -> None:
    model = tiny_model(family)
    tokens, others, here, there, _, _ = two_runs(model)
    wires = wiring(model.network)
    zeros = mx.zeros((2, wires.n_inputs, wires.n_nodes))
    change = there.minus(here)
    slopes = mx.grad(lambda weights: gap(probed(model.network, here.embedding, change, weights)).sum())(zeros)
    by_node = np.asarray(mx.where(wires.mask(), slopes, mx.zeros_like(slopes)).sum(1))
    found = model.gradients(tokens, gap, NODE_SITES)
    donor = model.run(others, capture=NODE_SITES, logits="none")
    expected = np.zeros_like(by_node)

    def effect(site: str) -> np.ndarray:
        return np.asarray((donor[site] - found.activation(site)) * found[site])

    expected[:, 0] = effect("resid_pre.0").sum((1, 2))
    for layer in range(model.n_layers):
        expected[:, wires.heads(layer)] = effect(f"z.{layer}").sum((1, 3))
        expected[:, wires.mlp(layer)] = effect(f"mlp_out.{layer}").sum((1, 2))
    assert np.abs(by_node - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())


def test_one_edge_is_that_input_recomputed_by_hand() -> None:
    """Into a query, a key, a value, an MLP and the logits, on full attention, where a head's key is its own."""
    model = tiny_model("llama", num_key_value_heads=6)
    net, wires = model.network, wiring(model.network)
    tokens, _, here, there, _, _ = two_runs(model)
    clean = model.run(tokens, capture=["resid_pre.2", "resid_mid.1", "resid_post.2", "z.0"], logits="none")
    node, head = wires.heads(0).start + 4, 3
    change = (there.heads[0] - here.heads[0])[:, 4]
    moved = net.qkv(2, net.attn_in(2, clean["resid_pre.2"] + change))
    q, k = (net.rotate(2, a.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for a in moved[:2])
    start = wires.attention_inputs(2).start
    by_hand: dict[int, list[Intervention]] = {
        start + part * 6 + head: [Patch(f"{name}.2", values[:, :, head], heads=head)]
        for part, (name, values) in enumerate((("q", q), ("k", k), ("v", moved[2])))
    }
    mlp_out = net.mlp_out(1, net.mlp_act(1, net.mlp_in(1, clean["resid_mid.1"] + change)))
    by_hand[wires.mlp_input(1)] = [Patch("mlp_out.1", mlp_out)]
    by_hand[wires.logits_input] = [Patch("resid_post.2", clean["resid_post.2"] + change)]
    for number, edits in by_hand.items():
        assert node < wires.sources(number)
        weights = np.ones((1, wires.n_inputs, wires.n_nodes), np.float32)
        weights[0, number, node] = 0
        expected = model.run(tokens, interventions=edits).logits
        assert expected is not None
        # The other run writes there what it wrote in `there`: all other edges carry what is written now.
        assert worst(patched(net, here.embedding, there, mx.array(weights)), expected) < 1e-4


def test_inputs_read_only_what_comes_before_them() -> None:
    wires = Wiring(n_layers=2, n_heads=3)
    assert (wires.n_nodes, wires.n_inputs) == (9, 21)
    assert [wires.sources(n) for n in range(21)] == [1] * 9 + [4] + [5] * 9 + [8, 9]
    assert int(wires.mask().sum()) == 9 + 4 + 45 + 8 + 9
