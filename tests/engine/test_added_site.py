"""A site is one entry of `sites.KINDS`: what a layer computes under that name is open where somebody asks."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Ablate, Add, Intervention, Patch, Scale, sites
from mlx_interp.architectures import FAMILIES
from mlx_interp.engine.block import order_of
from mlx_interp.engine.edge_pass import patched, wiring, written
from mlx_interp.engine.tables import GATED, UNGATED, parallel, sequential
from mlx_interp.errors import SiteError
from mlx_interp.model import Model
from tests.engine.examples import KINDS, POSITIONS, TOKENS, example, worst
from tests.tiny import RECENT, each_family, tiny_model

NEW = ("attn_in", "q_pre", "k_pre", "scores", "mlp_in", "mlp_gate", "mlp_up")
"""Sites between the parts of a step that is one where nobody asks for them."""
OTHERS = [[3, 5, 7, 11, 4], [3, 5, 7, 11, 13, 17, 19, 4]]
BOUND = 1e-4


@pytest.fixture(params=each_family(FAMILIES.keys() - RECENT))
def model(request: pytest.FixtureRequest) -> Model:
    """A small model of each family."""
    return tiny_model(request.param)


def new_of(model: Model) -> list[str]:
    return [name for name in NEW if name in model.sites]


def variants_of(model: Model) -> list[list[Intervention]]:
    """Every kind of intervention at every one of the sites, at one layer after the other."""
    every = [(kind, site) for kind in KINDS for site in new_of(model)]
    return [
        [example(model, kind, site, number % model.n_layers, POSITIONS[number % len(POSITIONS)], seed=number)]
        for number, (kind, site) in enumerate(every)
    ]


def alone(model: Model, tokens: list[int], variants: list[list[Intervention]]) -> mx.array:
    return mx.concatenate([model.run(tokens, interventions=variant).logits for variant in variants])


def test_it_does_not_exist_without_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "KINDS", {name: kind for name, kind in sites.KINDS.items() if name != "mlp_in"})
    monkeypatch.setattr(sites, "_parsed", sites._parsed.__wrapped__)  # a selector read before is remembered
    with pytest.raises(SiteError, match=r"no site 'mlp_in\.1'"):
        tiny_model("llama").run(TOKENS, capture="mlp_in.1")


def test_a_run_captures_what_the_mlp_reads_and_stays_bitwise_the_same(model: Model) -> None:
    dense = "mlp_act" in model.sites
    assert set(NEW) - set(model.sites) <= ({"mlp_gate"} if dense else {"mlp_gate", "mlp_up"})
    out = model.run(TOKENS, capture=[*new_of(model), *(["mlp_act"] if dense else []), "pattern"], logits="all")
    assert mx.array_equal(out.logits, model.mlx_model(mx.array([TOKENS])))
    for layer in range(model.n_layers):
        if dense:
            assert mx.array_equal(model.network.mlp_act(layer, out[f"mlp_in.{layer}"]), out[f"mlp_act.{layer}"])
        assert mx.array_equal(model.network.qkv_pre(layer, out[f"attn_in.{layer}"])[0], out[f"q_pre.{layer}"])
        scores, pattern = out[f"scores.{layer}"], out[f"pattern.{layer}"]
        if not model.network.family.sinks:
            assert mx.allclose(mx.softmax(mx.where(pattern > 0, scores, -1e9), axis=-1), pattern, atol=1e-6)
        assert not mx.any(mx.where(pattern > 0, 0, scores)), "a score that no query looks at"


def test_an_edit_changes_all_that_is_computed_from_it(model: Model) -> None:
    net, value = model.network, mx.linspace(-1, 1, model.d_model)
    out = model.run(TOKENS, interventions=[Patch("mlp_in.1", value, 3)], capture=["mlp_in.1", "mlp_out.1"])
    assert mx.array_equal(out["mlp_in.1"][0, 3], value)
    x = value[None, None]
    dense = "mlp_act" in model.sites
    expected = net.mlp_out(1, net.mlp_act(1, x)) if dense else net.expert_mlp(1, x, net.router(1, x))
    assert worst(out["mlp_out.1"][:, 3], expected[:, 0]) < BOUND
    queries = model.run(TOKENS, interventions=[Scale("attn_in.1", 0.5)], capture="v.1")["v.1"]
    halves = net.qkv(1, model.run(TOKENS, capture="attn_in.1")["attn_in.1"] * 0.5)[2]
    assert mx.allclose(queries, halves, atol=1e-5)


def test_a_sweep_of_its_edits_is_each_alone_with_all_that_is_captured(model: Model) -> None:
    variants = variants_of(model)
    assert worst(model.sweep(TOKENS, variants), alone(model, TOKENS, variants)) < BOUND
    swept = model.sweep(TOKENS, variants, capture=new_of(model))
    for row, variant in enumerate(variants):
        expected = model.run(TOKENS, interventions=variant, capture=new_of(model))
        for name in map(str, expected.captured):
            difference = float(mx.linalg.norm(swept[name][row] - expected[name][0]))
            assert difference <= BOUND * float(mx.linalg.norm(expected[name][0])), (name, variant)


def test_prompts_swept_together_are_each_alone(model: Model) -> None:
    variants = [
        v
        for v in variants_of(model)
        if getattr(v[0], "positions", None) in (0, 3, -1)
        and not (isinstance(v[0], Patch | Add | Ablate) and "scores" in v[0].site)
    ]  # arrays of scores fit prompts of one length
    swept = model.sweep_prompts(OTHERS, variants)
    for row, tokens in enumerate(OTHERS):
        assert worst(swept[row], alone(model, tokens, variants)) < BOUND


def test_generation_under_its_edits_is_recomputing_from_scratch(model: Model) -> None:
    edits: list[Intervention] = [Scale(name, 0.4) for name in new_of(model)]
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

    found = model.gradients(TOKENS, metric, new_of(model))
    for name in new_of(model):
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
    """A site between two steps costs nothing, so that a variant enters where what it is made from does."""
    every = frozenset(sites.KINDS)
    for steps in (sequential(GATED), parallel(UNGATED)):
        whole, opened = order_of(steps, every - set(NEW)), order_of(steps, every)
        assert {name: join for name, join in opened.join_of.items() if name not in NEW} | {"scores": 1} == {
            **whole.join_of,
            "scores": 1,
        }
        assert opened.join_of["mlp_in"] < opened.join_of["mlp_up"] == opened.join_of["mlp_act"]
        assert opened.join_of["attn_in"] < opened.join_of["q_pre"] == opened.join_of["q"]


def test_what_a_family_lacks_is_an_error_that_says_why() -> None:
    with pytest.raises(SiteError, match="gpt2 has no site 'mlp_gate': its MLP has one matrix before the non-linearity"):
        tiny_model("gpt2").run(TOKENS, capture="mlp_gate.1")
    with pytest.raises(SiteError, match="phi has no site 'resid_mid': its attention and its MLP both read"):
        tiny_model("phi").run(TOKENS, capture="resid_mid.1")
