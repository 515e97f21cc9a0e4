"""A site is one entry of `sites.KINDS`: what a layer computes under that name is open everywhere from then on."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Intervention, Patch, Scale, sites
from mlx_interp.architectures import FAMILIES
from mlx_interp.engine.block import PARALLEL, SEQUENTIAL, order_of
from mlx_interp.engine.edge_pass import patched, wiring, written
from mlx_interp.errors import SiteError
from mlx_interp.model import Model
from mlx_interp.sites import SiteKind
from tests.engine.examples import KINDS, POSITIONS, TOKENS, example
from tests.tiny import tiny_model

NEW = ("attn_in", "mlp_in")
OTHERS = [[3, 5, 7, 11, 4], [3, 5, 7, 11, 13, 17, 19, 4]]
BOUND = 1e-4


@pytest.fixture(params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A small model of each family, with a site for what attention reads and one for what its MLP reads."""
    added = {name: SiteKind(name, ("d_model",), "the stream after the norm") for name in NEW}
    monkeypatch.setattr(sites, "KINDS", {**sites.KINDS, **added})
    return tiny_model(request.param)


def variants_of(model: Model) -> list[list[Intervention]]:
    return [
        [example(model, kind, site, layer, POSITIONS[(number + layer) % len(POSITIONS)], seed=number)]
        for number, kind in enumerate(KINDS)
        for site in NEW
        for layer in range(model.n_layers)
    ]


def worst(ours: mx.array, expected: mx.array) -> float:
    return float(mx.max(mx.linalg.norm(ours - expected, axis=-1) / mx.linalg.norm(expected, axis=-1)))


def alone(model: Model, tokens: list[int], variants: list[list[Intervention]]) -> mx.array:
    return mx.concatenate([model.run(tokens, interventions=variant).logits for variant in variants])


def test_it_does_not_exist_without_its_entry() -> None:
    with pytest.raises(SiteError, match=r"no site 'mlp_in\.1'"):
        tiny_model("llama").run(TOKENS, capture="mlp_in.1")


def test_a_run_captures_what_the_mlp_reads_and_stays_bitwise_the_same(model: Model) -> None:
    assert set(NEW) < set(model.sites)
    out = model.run(TOKENS, capture=[*NEW, "mlp_act"], logits="all")
    assert mx.array_equal(out.logits, model.mlx_model(mx.array([TOKENS])))
    for layer in range(model.n_layers):
        assert mx.array_equal(model.network.mlp_act(layer, out[f"mlp_in.{layer}"]), out[f"mlp_act.{layer}"])


def test_an_edit_changes_all_that_is_computed_from_it(model: Model) -> None:
    net, value = model.network, mx.linspace(-1, 1, model.d_model)
    out = model.run(TOKENS, interventions=[Patch("mlp_in.1", value, 3)], capture=["mlp_in.1", "mlp_out.1"])
    assert mx.array_equal(out["mlp_in.1"][0, 3], value)
    expected = net.mlp_out(1, net.mlp_act(1, value[None, None]))
    assert worst(out["mlp_out.1"][:, 3], expected[:, 0]) < BOUND
    queries = model.run(TOKENS, interventions=[Scale("attn_in.1", 0.5)], capture="v.1")["v.1"]
    halves = net.qkv(1, model.run(TOKENS, capture="attn_in.1")["attn_in.1"] * 0.5)[2]
    assert mx.allclose(queries, halves, atol=1e-5)


def test_a_sweep_of_its_edits_is_each_alone_with_all_that_is_captured(model: Model) -> None:
    variants = variants_of(model)
    assert worst(model.sweep(TOKENS, variants), alone(model, TOKENS, variants)) < BOUND
    swept = model.sweep(TOKENS, variants, capture=NEW)
    for row, variant in enumerate(variants):
        expected = model.run(TOKENS, interventions=variant, capture=NEW)
        for name in map(str, expected.captured):
            difference = float(mx.linalg.norm(swept[name][row] - expected[name][0]))
            assert difference <= BOUND * float(mx.linalg.norm(expected[name][0])), (name, variant)


def test_prompts_swept_together_are_each_alone(model: Model) -> None:
    variants = [v for v in variants_of(model) if getattr(v[0], "positions", None) in (0, 3, -1)]
    swept = model.sweep_prompts(OTHERS, variants)
    for row, tokens in enumerate(OTHERS):
        assert worst(swept[row], alone(model, tokens, variants)) < BOUND


def test_generation_under_its_edits_is_recomputing_from_scratch(model: Model) -> None:
    edits: list[Intervention] = [Scale(name, 0.4) for name in NEW]
    for text in (
        model.generate(TOKENS, interventions=edits, max_tokens=5)[0].tokens,
        model.sweep_generate(TOKENS, [[], edits], max_tokens=5)[1].tokens,
    ):
        so_far = [*TOKENS]
        for token in text:
            assert token == int(mx.argmax(model.run(so_far, interventions=edits).logits))
            so_far.append(token)


def test_its_gradient_is_what_a_small_change_does(model: Model) -> None:
    def metric(logits: mx.array) -> mx.array:
        return logits[:, 7] - logits[:, 9]

    found = model.gradients(TOKENS, metric, NEW)
    for name in NEW:
        site = f"{name}.1"
        step = mx.array(np.random.default_rng(0).normal(size=found[site].shape[1:]).astype(np.float32)) * 2e-3
        ends = [found.activation(site)[0] + sign * step for sign in (1, -1)]
        high, low = (metric(model.run(TOKENS, interventions=[Patch(site, end)]).logits).item() for end in ends)
        expected = float((found[site][0] * step).sum())
        assert abs((high - low) / 2 - expected) < 0.02 * abs(expected) + 1e-4, name


def test_a_pass_along_edges_is_still_the_plain_one(model: Model) -> None:
    here, logits = written(model.network, mx.array([TOKENS]))
    wires = wiring(model.network)
    weights = mx.ones((1, wires.n_inputs, wires.n_nodes))
    assert worst(patched(model.network, here.embedding, here, weights), logits) < BOUND


def test_no_product_is_saved_or_lost_by_it() -> None:
    """It costs nothing to compute, so that a variant enters where one that changes what it is made from does."""
    plain = {steps: order_of(steps) for steps in (SEQUENTIAL, PARALLEL)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sites, "KINDS", {**sites.KINDS, "mlp_in": SiteKind("mlp_in", ("d_model",), "")})
        for steps, order in plain.items():
            opened = order_of(steps)
            assert {name: join for name, join in opened.join_of.items() if name != "mlp_in"} == order.join_of
            assert opened.join_of["mlp_in"] < opened.join_of["mlp_act"]
