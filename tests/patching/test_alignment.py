"""Distributed alignment search: its slope is the true one, and it finds a direction that was planted."""

from __future__ import annotations

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Interchange, Model, Patch, patching
from mlx_interp.embedded import load_world
from mlx_interp.embedded.world import trained_refusal_direction
from mlx_interp.errors import DataError, PositionError, ShapeError, SiteError
from mlx_interp.patching.alignment import Exchange, Subspace, _orthonormal, _read, _slope
from tests.tiny import tiny_model

SITE = "resid_post.1"
RNG = np.random.default_rng(2)


def exchanges_of(model: Model) -> list[Exchange]:
    """Of unequal lengths, read and changed in different places."""
    rows = [("3 5 8 13", "7 9 2 4 6", 17), ("21 5 8 13 34", "7 9 4", 23), ("3 3 1 9 8", "2 9 2 4 6", 9)]
    return [Exchange(model.prompt(a), model.prompt(b), token, -2, 1) for a, b, token in rows]


@pytest.fixture(scope="module")
def refusals() -> tuple[Model, list[Exchange]]:
    """Requests of the embedded world: harmful and harmless ones exchanged, each with the reply that the other has."""
    model = mi.load("tiny-llama")
    chats = [one for one in load_world().chat_prompts("refusal", language="en", split="train") if one.other_reply]
    found = []
    for harmful in (True, False):
        bases, sources = ([one for one in chats if one.harmful == kind][:48] for kind in (harmful, not harmful))
        for base, source in zip(bases, sources, strict=False):
            prompts = [model.prompt(one.text, chat=True) for one in (base, source)]
            answer = model.prompt(prompts[0].text + base.other_reply).tokens[len(prompts[0])]
            found.append(Exchange(prompts[0], prompts[1], answer))
    return model, [found[row] for row in np.random.default_rng(0).permutation(len(found))]


def test_an_interchange_moves_the_component_in_its_subspace_and_nothing_else(llama: Model) -> None:
    tokens, basis = [3, 5, 8, 13], patching.random_subspace(llama, 4, seed=1)
    other = mx.array(RNG.normal(size=30).astype(np.float32))
    clean = llama.run(tokens, capture=SITE)[SITE]
    found = llama.run(tokens, capture=SITE, interventions=Interchange(SITE, other, basis, -2))[SITE]
    assert mx.array_equal(found[0, 0], clean[0, 0])
    assert mx.allclose(found[0, 2] @ basis, other @ basis, atol=1e-5)
    beside = mx.eye(30) - basis @ basis.T
    assert mx.allclose(found[0, 2] @ beside, clean[0, 2] @ beside, atol=1e-5)


def test_in_the_whole_space_it_is_a_patch_and_a_sweep_is_each_alone(llama: Model) -> None:
    tokens, other = [3, 5, 8, 13], mx.array(RNG.normal(size=30).astype(np.float32))
    small = patching.random_subspace(llama, 3, seed=0)
    variants = [
        [Interchange(SITE, other, mx.eye(30), -1)],
        [Interchange(SITE, other, small)],
        [],
        [Interchange(SITE, 2 * other, small, 1)],
    ]
    swept = llama.sweep(tokens, variants)
    alone = mx.concatenate([llama.run(tokens, interventions=one).logits for one in variants])
    assert mx.allclose(swept, alone, atol=1e-4)
    assert mx.allclose(swept[0], llama.run(tokens, interventions=Patch(SITE, other, -1)).logits[0], atol=1e-4)  # type: ignore[index]


def test_the_slope_by_the_basis_is_what_finite_differences_give(llama: Model) -> None:
    made = exchanges_of(llama)
    where, states = _read(llama, made, SITE)
    basis = patching.random_subspace(llama, 2, seed=3)
    _, slope = _slope(llama, made, where, states, basis)

    def loss(at: np.ndarray) -> float:
        """With any matrix in the place of an orthonormal one: x + (s - x) B B^T."""
        values = states[0] + ((states[1] - states[0]) @ mx.array(at)) @ mx.array(at).T
        runs = [
            llama.run(one.base, interventions=Patch(SITE, values[row], -2)).logits[0] for row, one in enumerate(made)
        ]  # type: ignore[index]
        return float(np.mean([float(mx.logsumexp(row) - row[one.answer]) for row, one in zip(runs, made, strict=True)]))

    for row, column in ((4, 0), (11, 1)):
        step = np.zeros((30, 2), np.float32)
        step[row, column] = 1e-2
        expected = (loss(np.asarray(basis) + step) - loss(np.asarray(basis) - step)) / 2e-2
        assert slope[row, column].item() == pytest.approx(expected, rel=0.03, abs=2e-3)


def test_it_finds_the_direction_that_the_embedded_models_were_trained_to_refuse_along(
    refusals: tuple[Model, list[Exchange]],
) -> None:
    model, made = refusals
    train, test = made[:64], made[64:]
    found = patching.distributed_alignment_search(model, train, "resid_post.4", size=1, steps=20, batch=12, rate=1e-1)
    assert abs(float(np.asarray(found.basis)[:, 0] @ trained_refusal_direction())) > 0.8  # of a random one about 0.1
    assert found.losses[-5:].mean() < 0.5 * found.losses[:5].mean()
    random = Subspace(patching.random_subspace(model, 1, seed=9), found.site, found.losses)
    whole = Subspace(mx.eye(model.d_model), found.site, found.losses)
    ours, by_chance, most = (patching.interchange_accuracy(model, test, one).mean() for one in (found, random, whole))
    assert ours > 0.8 > 0.2 > by_chance
    assert most > 0.8


def test_columns_are_made_orthonormal_without_turning_them_round() -> None:
    columns = mx.array(RNG.normal(size=(30, 3)).astype(np.float32))
    basis = _orthonormal(columns)
    assert mx.allclose(basis.T @ basis, mx.eye(3), atol=1e-5)
    assert float((basis[:, 0] * columns[:, 0]).sum()) > 0


def test_what_it_would_cost_is_told_and_mistakes_name_both_sides(llama: Model) -> None:
    made = exchanges_of(llama)
    assert patching.search_cost(llama, made, steps=10, batch=2).forward_passes == 2 * 3 + 3 * 10 * 2
    search = patching.distributed_alignment_search
    with pytest.raises(DataError, match=r"size=31.*resid_post.1 has 1 to 30 dimensions"):
        search(llama, made, SITE, size=31)
    with pytest.raises(DataError, match="size=0"):
        search(llama, made, SITE, size=0)
    with pytest.raises(DataError, match="no exchanges"):
        search(llama, [], SITE, size=1)
    with pytest.raises(DataError, match=r"z\.1 is no state of the stream's width"):
        search(llama, made, "z.1", size=1)
    with pytest.raises(SiteError, match="layer 7 does not exist"):
        search(llama, made, "resid_post.7", size=1)
    with pytest.raises(PositionError, match="position 9 does not exist"):
        search(llama, [Exchange(made[0].base, made[0].source, 3, 9)], SITE, size=1)
    other = Subspace(patching.random_subspace(tiny_model("qwen2"), 2, seed=0), SITE, np.zeros(1))
    with pytest.raises(DataError, match=r"the subspace is of 48 dimensions, resid_post\.1 of random-llama of 30"):
        patching.interchange_accuracy(llama, made, other)
    for basis, hint in (
        (mx.ones((30, 2)), r"columns are not orthonormal"),
        (mx.eye(48)[:, :2], r"the basis is \(48, 2\), resid_post.1 of this model is 30 wide"),
        (mx.zeros((30, 0)), r"one column or more, not \(30, 0\)"),
    ):
        with pytest.raises(ShapeError, match=hint):
            llama.run([3, 5], interventions=Interchange(SITE, mx.ones(30), basis))
