"""Patching verbs are what brute force gives: a run for each counterfactual, hooks written out by hand."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_interp import Knockout, Model, Patch, patching
from mlx_interp.engine.edge_pass import patched, wiring, written
from mlx_interp.errors import CircuitError, DataError, PositionError, SiteError
from mlx_interp.patching.back_patching import EMBEDDING
from mlx_interp.patching.nodes import input_number, node_number

CLEAN, CORRUPTED, LONGER = [3, 5, 7, 11, 13], [3, 90, 7, 41, 13], [1, 2, 3, 4, 5, 6]


def last(model: Model, *edits: Patch | Knockout, prompt: list[int] = CORRUPTED) -> mx.array:
    logits = model.run(prompt, interventions=edits).logits
    assert logits is not None
    return logits[0]


def close(a: mx.array, b: mx.array) -> bool:
    return bool(mx.allclose(a, b, rtol=1e-4, atol=1e-4))


@pytest.mark.parametrize("site", ["resid_pre", "mlp_out", "z", "attn_out.1-2"])
def test_activation_patching_is_a_run_for_each_layer_and_position(model: Model, site: str) -> None:
    grid = patching.activation_patching(model, CLEAN, CORRUPTED, site)
    name = site.partition(".")[0]
    layers = [1, 2] if "." in site else list(range(model.n_layers))
    clean = model.run(CLEAN, capture=name)
    assert grid.shape == (len(layers), len(CLEAN), model.d_vocab)
    for row, layer in enumerate(layers):
        for position in range(len(CLEAN)):
            place = f"{name}.{layer}"
            assert close(grid[row, position], last(model, Patch(place, clean[place][0, position], position)))


def test_patching_the_clean_stream_at_the_last_layer_restores_the_clean_answer(model: Model) -> None:
    grid = patching.activation_patching(model, CLEAN, CORRUPTED, "resid_post.-1", positions=[-1])
    assert close(grid[0, 0], last(model, prompt=CLEAN))


def test_a_metric_of_each_cell_stands_in_for_its_logits(llama: Model) -> None:
    metric = patching.logit_difference(17, 23)
    whole = patching.activation_patching(llama, CLEAN, CORRUPTED, positions=[1, -2])
    found = patching.activation_patching(llama, CLEAN, CORRUPTED, positions=[1, -2], metric=metric)
    assert found.shape == (llama.n_layers, 2)
    assert close(found, whole[..., 17] - whole[..., 23])


@pytest.mark.parametrize("site", ["z", "q", "k", "v"])
def test_head_patching_is_a_run_for_each_head(llama: Model, site: str) -> None:
    grid = patching.head_patching(llama, CLEAN, CORRUPTED, site, positions=[1, 3])
    n_heads = llama.n_kv_heads if site in "kv" else llama.n_heads
    assert grid.shape == (llama.n_layers, n_heads, llama.d_vocab)
    clean = llama.run(CLEAN, capture=site)
    for layer in range(llama.n_layers):
        place = f"{site}.{layer}"
        for head in range(n_heads):
            edits = [Patch(place, clean[place][0, at, head], at, heads=head) for at in (1, 3)]
            assert close(grid[layer, head], last(llama, *edits))


def test_prompts_of_other_lengths_positions_and_sites_are_refused_with_the_way_out(llama: Model) -> None:
    with pytest.raises(DataError, match=r"5 tokens.*6: activations are exchanged"):
        patching.activation_patching(llama, CLEAN, LONGER)
    with pytest.raises(PositionError, match="position 5 does not exist, the prompt has 5 tokens"):
        patching.activation_patching(llama, CLEAN, CORRUPTED, positions=[5])
    with pytest.raises(SiteError, match="'pattern' cannot be patched by position: take z"):
        patching.activation_patching(llama, CLEAN, CORRUPTED, "pattern")
    with pytest.raises(SiteError, match="'mlp_out' has no heads"):
        patching.head_patching(llama, CLEAN, CORRUPTED, "mlp_out")


def path_by_hand(model: Model, sender: str, receivers: list[str]) -> mx.array:
    """The same edge, by the weights of one variant."""
    wires = wiring(model.network)
    weights = [[1.0] * wires.n_nodes for _ in range(wires.n_inputs)]
    for receiver in receivers:
        weights[input_number(wires, receiver)][node_number(wires, sender)] = 0.0
    here, _ = written(model.network, mx.array([CLEAN]))
    there, _ = written(model.network, mx.array([CORRUPTED]))
    return patched(model.network, here.embedding, there, mx.array([weights]))[0]


def test_path_patching_into_the_last_mlp_is_its_input_with_one_head_exchanged() -> None:
    """Brute force without the pass along edges: the last layer's own modules on a stream made by hand."""
    from tests.tiny import tiny_model

    model = tiny_model("qwen2")
    last_layer, net = model.n_layers - 1, model.network
    block = net.layers[last_layer]
    runs = [model.run(tokens, capture=["head_out", "resid_mid"]) for tokens in (CLEAN, CORRUPTED)]
    heads = [run[f"head_out.{last_layer}"][0, -1] for run in runs]
    middle = runs[0][f"resid_mid.{last_layer}"][0, -1]
    found = patching.path_patching(
        model, CLEAN, CORRUPTED, [f"z.{last_layer}.{h}" for h in range(model.n_heads)], [f"mlp.{last_layer}"]
    )
    for head in range(model.n_heads):
        x = middle - heads[0][head] + heads[1][head]
        after = middle + block.mlp(block.post_attention_layernorm(x[None]))[0]
        assert close(found[head], net.unembed(net.final(after[None]))[0])


def test_path_patching_straight_to_the_logits_is_the_last_stream_with_one_output_exchanged(llama: Model) -> None:
    net = llama.network
    runs = [llama.run(tokens, capture=["head_out", "resid_post", "mlp_out"]) for tokens in (CLEAN, CORRUPTED)]
    end = runs[0][f"resid_post.{llama.n_layers - 1}"][0, -1]
    found = patching.path_patching(llama, CLEAN, CORRUPTED, ["z.0.4", "mlp.1"])
    changes = [runs[1]["head_out.0"][0, -1, 4] - runs[0]["head_out.0"][0, -1, 4]]
    changes += [runs[1]["mlp_out.1"][0, -1] - runs[0]["mlp_out.1"][0, -1]]
    for row, change in zip(found, changes, strict=True):
        assert close(row, net.unembed(net.final((end + change)[None]))[0])


def test_path_patching_takes_all_receivers_of_a_sender_together(model: Model) -> None:
    senders, receivers = ["embed", "z.0.2", "mlp.0"], ["q.1.0", "k.2.3", "mlp.2"]
    found = patching.path_patching(model, CLEAN, CORRUPTED, senders, receivers)
    for row, sender in zip(found, senders, strict=True):
        assert close(row, path_by_hand(model, sender, receivers))


def test_paths_that_are_none_are_refused_by_name(llama: Model) -> None:
    with pytest.raises(CircuitError, match=r"no input 'q.1': did you mean 'q.*inputs are q.LAYER.HEAD"):
        patching.path_patching(llama, CLEAN, CORRUPTED, ["z.0.2"], ["q.1"])
    with pytest.raises(CircuitError, match=r"no path from mlp.2 to q.1.0: q.1.0 comes first"):
        patching.path_patching(llama, CLEAN, CORRUPTED, ["mlp.2"], ["q.1.0"])
    with pytest.raises(CircuitError, match="needs senders and receivers"):
        patching.path_patching(llama, CLEAN, CORRUPTED, [])


@pytest.mark.parametrize("reach", [0, 1])
def test_attention_knockout_is_a_run_for_each_window(model: Model, reach: int) -> None:
    found = patching.attention_knockout(model, CLEAN, [1, 2], query=4, reach=reach)
    assert found.shape == (model.n_layers, model.d_vocab)
    for centre in range(model.n_layers):
        layers = [layer for layer in range(model.n_layers) if abs(layer - centre) <= reach]
        assert close(found[centre], last(model, Knockout(layers, query=4, keys=[1, 2]), prompt=CLEAN))


def test_a_back_patching_grid_takes_states_of_its_own_or_of_another_prompt(llama: Model) -> None:
    own = patching.back_patching_grid(llama, CLEAN, 2)
    pairs = patching.back_patching_pairs(llama.n_layers)
    other = patching.back_patching_grid(llama, CLEAN, 2, source=LONGER, source_position=-2, pairs=pairs)
    for grid, source, at in ((own, CLEAN, 2), (other, LONGER, 4)):
        states = llama.run(source, capture="resid_post")
        for row, (layer, target) in zip(grid, pairs, strict=True):
            site = "resid_pre.0" if target == EMBEDDING else f"resid_post.{target}"
            assert close(row, last(llama, Patch(site, states[f"resid_post.{layer}"][0, at], 2), prompt=CLEAN))
