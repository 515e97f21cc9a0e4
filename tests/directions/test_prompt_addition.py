"""The difference of two texts lies where they stand, is added at the front alone, and moves what it should."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_interp.directions.prompt_addition import front_of, prompt_difference, random_block, some_dimensions
from mlx_interp.errors import DataError
from mlx_interp.loading.load import load
from mlx_interp.model import Model


@pytest.fixture(scope="module", params=["tiny-llama", "tiny-qwen2"])
def model(request: pytest.FixtureRequest) -> Model:
    """One with a BOS token, one without."""
    return load(request.param)


def test_the_difference_is_that_of_two_runs_position_by_position(model: Model) -> None:
    found = prompt_difference(model, "I hate", "I like", chat=True)
    assert found.vectors.shape == (model.n_layers, 2, model.d_model)
    states = []
    for text in ("I hate tea.", "I like tea."):
        prompt = model.prompt(text, chat=True)
        at = front_of(model, prompt)
        assert prompt.strings[at].endswith("I")
        states.append(np.asarray(model.run(prompt, capture="resid_pre").stack("resid_pre"))[:, 0, at : at + 2])
    np.testing.assert_allclose(found.vectors, states[0] - states[1], rtol=1e-4, atol=1e-4)
    assert not found.vectors[0, 0].any()  # both open with the same word


def test_it_is_added_behind_the_head_of_the_template_and_nowhere_else(model: Model) -> None:
    found = prompt_difference(model, "I hate", "I like", chat=True)
    prompt = model.prompt("Is tea good?", chat=True)
    edit = found.added(model, prompt, 2, 2.0)
    start = front_of(model, prompt)
    clean, out = (
        np.asarray(model.run(prompt, capture="resid_pre.2", interventions=given)["resid_pre.2"])[0]
        for given in ([], [edit])
    )
    np.testing.assert_allclose(out[start : start + 2] - clean[start : start + 2], 2 * found.vectors[2], atol=1e-4)
    rest = [at for at in range(len(prompt)) if not start <= at < start + 2]
    np.testing.assert_array_equal(out[rest], clean[rest])


def test_the_shorter_text_is_filled_up_and_a_short_prompt_gets_what_fits(model: Model) -> None:
    found = prompt_difference(model, "I really like jazz and summer", "tea")
    assert found.vectors.shape[1] == 6
    space = model.tokenizer.encode(" ", add_special_tokens=False)[-1]
    rows = [model.prompt("I really like jazz and summer").tokens, [*model.prompt("tea").tokens, *[space] * 5]]
    states = np.asarray(model.run(rows, capture="resid_pre", logits="none").stack("resid_pre"))
    np.testing.assert_allclose(found.vectors, (states[:, 0] - states[:, 1])[:, -6:], rtol=1e-4, atol=1e-4)
    prompt = model.prompt("jazz tea")
    edit = found.added(model, prompt, 0, 1.0)
    assert edit.positions == list(range(front_of(model, prompt), len(prompt)))


def test_coefficient_0_leaves_the_logits_bitwise_alone(model: Model) -> None:
    found = prompt_difference(model, "I hate", "I like", chat=True)
    prompt = model.prompt("Is tea good?", chat=True)
    edits = [found.added(model, prompt, 1, 0.0)]
    both = [np.asarray(model.run(prompt, interventions=given).logits) for given in ([], edits)]
    np.testing.assert_array_equal(*both)


def test_hating_makes_plain_questions_answered_with_no_and_a_random_block_does_not(model: Model) -> None:
    found = prompt_difference(model, "I hate", "I like", chat=True)
    prompts = [model.prompt(f"Is {thing} good?", chat=True) for thing in ("tea", "tennis", "gardening", "camping")]
    for values, least in ((None, 3), (random_block(found.vectors[1], 0), 0)):
        edits = [[found.added(model, prompt, 1, 2.0, values)] for prompt in prompts]
        plain = [text.text for text in model.generate(prompts, max_tokens=6)]
        texts = [text.text for text in model.generate(prompts, per_prompt=edits, max_tokens=6)]
        said_no = sum(text.startswith("No") for text in texts)
        assert said_no >= least if values is None else said_no <= sum(text.startswith("No") for text in plain) + 1


def test_controls_are_as_long_at_each_position_and_dimensions_are_kept_by_share() -> None:
    block = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    np.testing.assert_allclose(*(np.linalg.norm(x, axis=1) for x in (block, random_block(block, 1))), rtol=1e-5)
    kept = some_dimensions(block, 0.25, 1)
    assert (kept != 0).any(axis=0).sum() == 10
    np.testing.assert_array_equal(kept[kept != 0], block[kept != 0])


def test_equal_texts_are_refused(model: Model) -> None:
    with pytest.raises(DataError, match="two texts are needed that differ"):
        prompt_difference(model, "tea", "tea")
