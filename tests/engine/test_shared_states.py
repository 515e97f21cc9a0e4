"""States read from prefix trees are those of each prompt's own run, whatever prompts begin with in common."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.engine import shared_states
from mlx_interp.errors import PositionError, PromptError, ShapeError, SiteError
from mlx_interp.model import Model
from tests.validation.fault_table import loaded

FRONT = [3, 5, 7, 11, 13, 2, 4, 6]
PROMPTS = [[*FRONT, 9], [*FRONT, 9, 12, 3], [*FRONT, 8, 1], [4, 4], [*FRONT, 9], [*FRONT[:5], 1, 2]]
LATE = (-1, -2)


def one_by_one(model: Model, site: str, positions: tuple[int, ...]) -> np.ndarray:
    read = []
    for prompt in PROMPTS:
        states = model.run(prompt, capture=site, logits="none").stack(site)[:, 0]
        read.append(np.asarray(states[:, mx.array([len(prompt) + at for at in positions])]))
    return np.stack(read)


def trees(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts of each tree that is read from now on."""
    seen: list[list[int]] = []
    original = shared_states._of_tree

    def watched(net, prompts, members, *rest):  # type: ignore[no-untyped-def]
        seen.append(list(members))
        return original(net, prompts, members, *rest)

    monkeypatch.setattr(shared_states, "_of_tree", watched)
    return seen


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "mlp_out"])
def test_states_are_those_of_each_prompts_own_run(model: Model, site: str) -> None:
    alone = one_by_one(model, site, LATE)
    read = model.states(PROMPTS, site, LATE)
    assert read.dtype == np.float32
    assert read.shape == (len(PROMPTS), model.n_layers, 2, model.d_model)
    np.testing.assert_allclose(read, alone, rtol=1e-4, atol=1e-4 * np.abs(alone).max())


def test_prompts_that_begin_alike_are_one_tree_and_others_a_batch(
    llama: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = trees(monkeypatch)
    llama.states(PROMPTS, "resid_post")
    assert [sorted(members) for members in seen] == [[0, 1, 2, 4, 5]]  # the fourth shares nothing
    seen.clear()
    llama.states([[1, 2, 3], [2, 3, 4], [3, 4, 5]], "resid_post")
    assert seen == []


def test_memory_cuts_the_trees_and_changes_nothing(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = llama.states(PROMPTS, "resid_post", LATE)
    seen = trees(monkeypatch)
    np.testing.assert_allclose(llama.states(PROMPTS, "resid_post", LATE, memory=1), whole, rtol=1e-4, atol=1e-5)
    assert seen == []


def test_rope_that_depends_on_a_prompts_length_keeps_prompts_apart() -> None:
    """Texts beyond the eighth token are turned otherwise from their first token on."""
    model = loaded("random-llama, LongRoPE")
    alone = one_by_one(model, "resid_post", LATE)
    np.testing.assert_allclose(model.states(PROMPTS, "resid_post", LATE), alone, rtol=1e-4, atol=1e-4)


def test_positions_may_differ_from_prompt_to_prompt(llama: Model) -> None:
    read = llama.states(PROMPTS[:2], "resid_post.1", [[0, 8], [1, 10]])
    for row, places, prompt in zip(read, ([0, 8], [1, 10]), PROMPTS, strict=False):
        own = np.asarray(llama.run(prompt, capture="resid_post.1")["resid_post.1"][0])
        np.testing.assert_allclose(row[0], own[places], rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused(llama: Model) -> None:
    with pytest.raises(ShapeError, match="states of z: give sites"):
        llama.states(PROMPTS, "z")
    with pytest.raises(ShapeError, match=r"mlp_act.*of one width"):
        llama.states(PROMPTS, ["resid_post", "mlp_act"])
    with pytest.raises(PositionError, match="the prompt has 2 tokens"):
        llama.states(PROMPTS, "resid_post", (-3,))
    with pytest.raises(PositionError, match=r"\[1, 2\] positions"):
        llama.states(PROMPTS[:2], "resid_post", [[0], [0, 1]])
    with pytest.raises(SiteError):
        llama.states(PROMPTS, "resid_last")
    with pytest.raises(PromptError):
        llama.states([[]], "resid_post")
