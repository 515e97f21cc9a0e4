"""Back-patching: every cell of a grid is the run that its two layers name."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_interp import Patch
from mlx_interp.model import Model
from mlx_interp.patching.back_patching import (
    EMBEDDING,
    back_patching_pairs,
    patches,
    random_states,
    same_layer_pairs,
    states_at,
)

TOKENS, OTHER = [3, 5, 7, 11, 13], [2, 90, 41]


def test_pairs_have_the_source_above_the_target() -> None:
    assert back_patching_pairs(3, embedding=False) == [(1, 0), (2, 0), (2, 1)]
    assert back_patching_pairs(3) == [(0, EMBEDDING), (1, EMBEDDING), (2, EMBEDDING), (1, 0), (2, 0), (2, 1)]
    assert len(back_patching_pairs(12, embedding=False)) == 66


def test_every_cell_is_the_run_with_that_state_in_that_place(model: Model) -> None:
    position, pairs = 2, back_patching_pairs(model.n_layers)
    states = states_at(model, TOKENS, position)
    grid = model.sweep(TOKENS, patches(states, states, pairs, position, "raw"))
    clean = model.run(TOKENS, capture=["resid_post", "resid_pre.0"])
    for row, (source, target) in enumerate(pairs):
        site = "resid_pre.0" if target == EMBEDDING else f"resid_post.{target}"
        value = clean[f"resid_post.{source}"][0, position]
        expected = model.run(TOKENS, interventions=[Patch(site, value, position)]).logits
        assert mx.allclose(grid[row], expected[0], rtol=1e-4, atol=1e-4), (source, target)


def test_rescaled_states_have_the_length_of_what_they_replace(llama: Model) -> None:
    pairs = [*back_patching_pairs(llama.n_layers), *same_layer_pairs(llama.n_layers)]
    own, other = states_at(llama, TOKENS, 2), states_at(llama, OTHER, -1)
    for (source, target), (patch,) in zip(pairs, patches(other, own, pairs, 2, "rescaled"), strict=True):
        assert float(mx.linalg.norm(patch.value)) == pytest.approx(float(mx.linalg.norm(own[target])), rel=1e-5)
        cosine = (patch.value @ other[source]) / mx.linalg.norm(patch.value) / mx.linalg.norm(other[source])
        assert float(cosine) == pytest.approx(1, abs=1e-5)


def test_a_layer_written_into_itself_changes_nothing(model: Model) -> None:
    states = states_at(model, TOKENS, 3)
    grid = model.sweep(TOKENS, patches(states, states, same_layer_pairs(model.n_layers), 3, "raw"))
    clean = model.run(TOKENS).logits
    assert mx.allclose(grid, mx.broadcast_to(clean, grid.shape), rtol=1e-4, atol=1e-5)


def test_random_states_have_the_lengths_and_nothing_else_in_common(llama: Model) -> None:
    states = states_at(llama, TOKENS, 3)
    drawn = random_states(states, seed=4)
    assert mx.allclose(mx.linalg.norm(drawn, axis=-1), mx.linalg.norm(states, axis=-1), rtol=1e-5)
    assert mx.array_equal(drawn, random_states(states, seed=4))
    assert not mx.array_equal(drawn, random_states(states, seed=5))
    cosines = (drawn * states).sum(-1) / mx.linalg.norm(states, axis=-1) ** 2
    assert float(mx.max(mx.abs(cosines))) < 0.8
