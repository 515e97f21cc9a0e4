"""Mixtures of experts: what is chosen can be read, forced, forbidden and patched, alike in every way of running."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Apply, Intervention, Patch, Route, Scale
from mlx_interp.errors import NeverFired, ShapeError, SiteError, UnsupportedModel
from mlx_interp.model import Model
from tests.engine.examples import TOKENS
from tests.tiny import tiny_model

FAMILIES = ("qwen3_moe", "mixtral", "olmoe", "gpt_oss")
OTHERS = [23, 2, 29, 31, 3, 37, 41]
BOUND = 1e-4
OF_EXPERTS = ["router", "choice", "expert_weights", "experts", "expert_out", "mlp_in", "mlp_out"]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny_model(request.param)


def read(model: Model, *edits: Intervention, layer: int = 1) -> dict[str, np.ndarray]:
    """What is at the sites of one layer's experts, of the only row."""
    names = [f"{name}.{layer}" for name in OF_EXPERTS]
    out = model.run(TOKENS, capture=names, interventions=list(edits))
    return {name.partition(".")[0]: np.asarray(out[name])[0] for name in names}


def relative(ours: Any, expected: Any) -> float:
    ours, expected = np.asarray(ours, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    return float(np.linalg.norm(ours - expected) / np.linalg.norm(expected))


def each_expert(model: Model, x: np.ndarray, layer: int = 1) -> np.ndarray:
    """What every expert gives, one after the other: (pos, expert, d_model)."""
    net = model.network
    one = [np.full((len(x), 1), number) for number in range(net.n_experts)]
    return np.concatenate([np.asarray(net.expert_out(layer, mx.array(x), mx.array(number))) for number in one], axis=1)


def test_the_output_is_what_the_chosen_experts_give_by_their_weights(model: Model) -> None:
    found, k = read(model), model.network.n_chosen
    assert all(len(set(row)) == k for row in found["experts"])
    assert ((found["expert_weights"] > 0).sum(-1) == k).all()
    every = each_expert(model, found["mlp_in"])
    assert relative((every * found["expert_weights"][..., None]).sum(1), found["mlp_out"]) < BOUND
    assert relative(np.take_along_axis(every, found["experts"][..., None], axis=1), found["expert_out"]) < BOUND


def test_a_forced_expert_is_taken_with_the_weight_that_the_router_has_for_it(model: Model) -> None:
    plain, k = read(model), model.network.n_chosen
    forced = int(np.argmin(plain["router"][3]))
    found = read(model, Route(1, force=forced, positions=[3]))
    assert (found["experts"][3] == forced).any()
    taken = np.sort(found["experts"][3])
    best = [n for n in np.argsort(-plain["router"][3]) if n != forced][: k - 1]
    assert taken.tolist() == sorted([forced, *map(int, best)])
    weights = np.exp(plain["router"][3].astype(np.float64))
    weights /= weights.sum()
    if model.config.get("norm_topk_prob", True):
        weights /= weights[taken].sum()
    assert relative(found["expert_weights"][3][taken], weights[taken]) < BOUND
    assert (np.delete(found["expert_weights"][3], taken) == 0).all()
    rest = [position for position in range(len(TOKENS)) if position != 3]
    assert np.array_equal(found["experts"][rest], plain["experts"][rest])
    assert np.array_equal(found["router"], plain["router"])


def test_a_forbidden_expert_makes_room_for_the_next(model: Model) -> None:
    plain, k = read(model), model.network.n_chosen
    best = int(np.argmax(plain["router"][-1]))
    found = read(model, Route("1", forbid=[best], positions=-1))
    ranked = [n for n in np.argsort(-plain["router"][-1]) if n != best][:k]
    assert sorted(found["experts"][-1]) == sorted(ranked)
    assert found["expert_weights"][-1][best] == 0


def test_the_whole_routing_of_another_prompt_can_be_patched(model: Model) -> None:
    names = ["choice.1", "expert_weights.1", "experts.1"]
    donor = model.run(OTHERS, capture=names)
    for name in names[:2]:
        found = read(model, Patch(name, donor[name]))
        assert np.array_equal(np.sort(found["experts"]), np.sort(np.asarray(donor["experts.1"])[0]))
    assert np.array_equal(found["expert_weights"], np.asarray(donor["expert_weights.1"])[0])
    every = each_expert(model, found["mlp_in"])
    assert relative((every * found["expert_weights"][..., None]).sum(1), found["mlp_out"]) < BOUND


def test_an_expert_that_is_given_a_weight_is_computed(model: Model) -> None:
    plain = read(model)
    left_out = int(np.argmin(plain["expert_weights"][2]))
    alone = np.zeros(model.network.n_experts, dtype=np.float32)
    alone[left_out] = 2.0
    found = read(model, Patch("expert_weights.1", alone, positions=2))
    assert relative(found["mlp_out"][2], 2 * each_expert(model, found["mlp_in"])[2, left_out]) < BOUND


def test_reading_and_changing_nothing_leaves_the_logits_bitwise_the_same(model: Model) -> None:
    own = model.mlx_model(mx.array([TOKENS]))
    out = model.run(TOKENS, capture=OF_EXPERTS, logits="all")
    assert mx.array_equal(out.logits, own)
    for name in ("router.1", "choice.1", "expert_weights.1", "expert_out.1"):
        itself = Patch(name, out[name])
        assert mx.array_equal(model.run(TOKENS, interventions=[itself], logits="all").logits, own), name


def test_a_sweep_of_routes_is_each_alone_with_all_that_is_captured(model: Model) -> None:
    n = model.network.n_experts
    variants: list[list[Intervention]] = [[]]
    variants += [[Route(layer, force=e, positions=p)] for layer in (0, 2) for e in range(n) for p in (None, 4)]
    variants += [[Route("all", forbid=[e])] for e in range(n)]
    variants += [[Scale("expert_out.1", 0.3, 2, heads=1)], [Scale("expert_weights.2", 0.0, -1), Scale("router.0", 2.0)]]
    variants += [[Apply("expert_weights.1", lambda x: x.mean(axis=1, keepdims=True) + 0 * x)]]
    swept = model.sweep(TOKENS, variants, capture=["expert_weights", "experts", "mlp_out"])
    plain = model.sweep(TOKENS, variants)
    for row, variant in enumerate(variants):
        out = model.run(TOKENS, interventions=variant, capture=["expert_weights", "experts", "mlp_out"])
        assert relative(plain[row], out.logits[0]) < BOUND, variant
        for name in map(str, out.captured):
            if name.startswith("experts"):
                assert np.array_equal(np.sort(np.asarray(swept[name][row])), np.sort(np.asarray(out[name][0]))), variant
            else:
                assert relative(swept[name][row], out[name][0]) < BOUND, (name, variant)


def test_generation_under_a_route_is_recomputing_from_scratch(model: Model) -> None:
    edits: list[Intervention] = [Route("all", force=0, forbid=1)]
    text, so_far = model.generate(TOKENS, interventions=edits, max_tokens=5)[0].tokens, [*TOKENS]
    for token in text:
        assert token == int(mx.argmax(model.run(so_far, interventions=edits).logits))
        so_far.append(token)


@pytest.mark.parametrize(
    ("edit", "error", "hint"),
    [
        (Route(1, force=5), ShapeError, r"Route\(layers=1, force=5.*no expert 5: a layer has experts 0 to 4"),
        (Route(1, forbid=[0, -1]), ShapeError, "no expert -1"),
        (Route(1, force=[0, 1, 2]), ShapeError, "a token takes 2 of 5 experts; 3 are forced.*force at most 2"),
        (Route(1, forbid=[0, 1, 2, 3]), ShapeError, "forbid at most 3"),
        (Route(1, force=2, forbid=2), ShapeError, "name each expert once"),
        (Route(1), ShapeError, "one at least"),
        (Route(7, force=1), SiteError, "layer 7 does not exist"),
        (Route(1, force=1, positions=slice(50, None)), NeverFired, "touches nothing"),
        (Scale("mlp_act.1", 0.0), SiteError, "no site 'mlp_act': its MLPs are made of experts"),
        (Scale("experts.1", 0.0), SiteError, "experts is read only"),
    ],
)
def test_mistakes_are_named_with_the_way_out(edit: Intervention, error: type[Exception], hint: str) -> None:
    with pytest.raises(error, match=hint):
        tiny_model("qwen3_moe").run(TOKENS, interventions=[edit])


def test_a_dense_model_has_no_experts() -> None:
    with pytest.raises(SiteError, match=r"llama has no site 'choice': its MLPs are not made of experts"):
        tiny_model("llama").run(TOKENS, interventions=[Route(1, force=0)])


def test_layers_without_experts_among_them_are_refused() -> None:
    for dense in ({"mlp_only_layers": [1]}, {"decoder_sparse_step": 2}):
        with pytest.raises(UnsupportedModel, match="has layers without experts"):
            tiny_model("qwen3_moe", **dense)
