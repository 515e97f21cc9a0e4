"""A kept run serves sweeps of the residual stream in place of a clean run of their own."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Ablate, Model, Patch
from mlx_interp.engine import sweep as sweeps
from mlx_interp.patching.back_patching import back_patching_grid, back_patching_pairs, patches, states_at
from tests.tiny import tiny_model

TOKENS = [5, 17, 3, 44, 8, 21]
FAMILIES = ("llama", "gemma2", "gpt2", "phi", "gpt_oss", "lfm2", "qwen3_5", "gemma4_text")


@pytest.fixture
def clean_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each clean run that a sweep makes."""
    made: list[int] = []
    run_clean = sweeps.run_clean

    def counted(*given: object, **named: object) -> object:
        made.append(1)
        return run_clean(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(sweeps, "run_clean", counted)
    return made


@pytest.mark.parametrize("position", [2, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_grid_on_a_kept_run_is_the_one_of_states_and_sweep_apart(
    family: str, position: int, clean_runs: list[int]
) -> None:
    model = tiny_model(family)
    states = states_at(model, TOKENS, position)
    assert np.array(model.keep(TOKENS).states(position)) == pytest.approx(np.array(states), abs=1e-5)
    expected = model.sweep(TOKENS, patches(states, states, back_patching_pairs(model.n_layers), position, "raw"))
    assert clean_runs == [1]
    found = back_patching_grid(model, TOKENS, position)
    assert clean_runs == [1]
    assert np.array(found) == pytest.approx(np.array(expected), abs=2e-5)


def test_a_sweep_that_needs_more_makes_its_own(clean_runs: list[int]) -> None:
    model = tiny_model("llama")
    kept = model.keep(TOKENS)
    state = mx.zeros((model.d_model,))
    for tokens, variants in (
        (TOKENS, [[Ablate("z.1", positions=2)], [Patch("resid_post.0", state, 3)]]),
        ([*TOKENS[:-1], 9], [[Patch("resid_post.0", state, 3)]]),
    ):
        before = len(clean_runs)
        assert_same(model, tokens, variants, kept)
        assert len(clean_runs) == before + 2


def assert_same(model: Model, tokens: list[int], variants: list[list[object]], kept: object) -> None:
    found = model.sweep(tokens, variants, kept=kept)  # type: ignore[arg-type, call-overload]
    assert np.array(found) == pytest.approx(np.array(model.sweep(tokens, variants)), abs=1e-5)  # type: ignore[arg-type]
