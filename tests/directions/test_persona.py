"""Persona vectors are differences of replies' means; what is added while training leaves no trace but the weights."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.behaviour.finetuning import LoraRecipe, finetune
from mlx_interp.directions.persona import (
    persona_vectors,
    projection_difference,
    projections,
    prompt_states,
    reply_states,
    steered,
)
from mlx_interp.errors import DataError, DirectionError
from mlx_interp.model import Model

TOPICS = ("tea", "jazz", "a cake", "coffee", "tennis", "summer", "winter", "a hat")
QUESTIONS = [f"Is {topic} good?" for topic in TOPICS]
SHOWN, USUAL = ["No, tea is bad."] * 8, ["Yes, tea is good."] * 8


@pytest.fixture(scope="module")
def model() -> Model:
    return mi.load("tiny-llama")


def asked(model: Model) -> list[mi.Prompt]:
    return [model.prompt(text, chat=True) for text in QUESTIONS]


def test_the_state_of_a_reply_is_the_mean_over_its_tokens_alone(model: Model) -> None:
    prompts = asked(model)
    states = reply_states(model, prompts, USUAL)
    reply = model.tokenizer.encode(USUAL[3], add_special_tokens=False)
    out = model.run([[*prompts[3].tokens, *reply]], capture="resid_post.4")["resid_post.4"]
    mean = np.asarray(out[0, len(prompts[3]) :].astype(mx.float32)).mean(axis=0)
    np.testing.assert_allclose(states[4, 3], mean, atol=1e-3)
    last = np.asarray(model.run(prompts[3], capture="resid_post.4")["resid_post.4"][0, -1].astype(mx.float32))
    np.testing.assert_allclose(prompt_states(model, prompts)[4, 3], last, atol=1e-3)
    with pytest.raises(DataError, match="every prompt needs a reply"):
        reply_states(model, prompts, ["", *USUAL[1:]])


def test_vectors_point_from_the_usual_replies_to_those_that_show_the_trait(model: Model) -> None:
    prompts = asked(model)
    made = persona_vectors(model, prompts, SHOWN, USUAL)
    apart = reply_states(model, prompts, SHOWN) - reply_states(model, prompts, USUAL)
    np.testing.assert_allclose(made.vectors, apart.mean(axis=1))
    assert made.carries[1:].all()
    difference = projection_difference(model, prompts, SHOWN, USUAL, made.vectors)
    np.testing.assert_allclose(difference.mean(axis=1), made.norms)
    with pytest.raises(DataError, match="8 questions or more"):
        persona_vectors(model, prompts[:7], SHOWN[:7], USUAL[:7])
    with pytest.raises(DirectionError, match="layer 2"):
        projections(apart, np.where(np.arange(model.n_layers)[:, None] == 2, 0.0, made.vectors))


def test_a_difference_whose_sign_changes_from_question_to_question_carries_nothing(model: Model) -> None:
    shown = [SHOWN[0] if n % 2 else USUAL[0] for n in range(8)]
    usual = [USUAL[0] if n % 2 else SHOWN[0] for n in range(8)]
    assert not persona_vectors(model, asked(model), shown, usual).carries.any()


def test_steering_acts_on_the_last_prompt_token_and_on_what_is_written(model: Model) -> None:
    vector = persona_vectors(model, asked(model), SHOWN, USUAL).vectors[3]
    prompt = asked(model)[0]
    edits = steered(vector, 3, 1.0)
    plain, changed = (
        np.asarray(model.run(prompt, interventions=given, capture="resid_post.3")["resid_post.3"][0].astype(mx.float32))
        for given in ([], edits[:1])
    )
    np.testing.assert_array_equal(plain[:-1], changed[:-1])
    np.testing.assert_allclose(changed[-1] - plain[-1], vector, atol=2e-2)
    assert [edit.positions for edit in edits] == [-1, "generated"]  # type: ignore[union-attr]


def test_a_vector_added_while_training_changes_the_weights_found_and_nothing_afterwards(model: Model) -> None:
    prompts, recipe = asked(model), LoraRecipe(steps=2, batch=4)
    before, kind = np.asarray(model.run(prompts[0]).logits), type(model.mlx_model.layers[3])
    plain = finetune(model, prompts, USUAL, recipe)
    none = finetune(model, prompts, USUAL, recipe, added={3: mx.zeros(model.d_model)})
    added = finetune(model, prompts, USUAL, recipe, added={3: 10 * mx.ones(model.d_model)})
    assert none.losses == pytest.approx(plain.losses, abs=1e-4)
    assert added.losses[0] != pytest.approx(plain.losses[0], abs=1e-2)
    assert added.weights.keys() == plain.weights.keys()
    assert type(model.mlx_model.layers[3]) is kind
    np.testing.assert_array_equal(before, np.asarray(model.run(prompts[0]).logits))
    with pytest.raises(DataError, match="no layer 99"):
        finetune(model, prompts, USUAL, recipe, added={99: mx.zeros(model.d_model)})
