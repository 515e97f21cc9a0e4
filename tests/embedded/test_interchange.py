"""The second stage of training: what is exchanged, what is removed, and what the shipped models then do."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_interp as mi
from mlx_interp.embedded import REFUSAL_LAYER, ChatPrompt, load_world, trained_refusal_direction
from mlx_interp.embedded.activations import fast_activations
from mlx_interp.embedded.corpus import Corpus, Mixture
from mlx_interp.embedded.families import has_bos, model_config
from mlx_interp.embedded.interchange import Requests, add, remove, swap
from mlx_interp.embedded.lexicon import REFUSALS
from mlx_interp.embedded.tokenizer import build_tokenizer
from mlx_interp.embedded.train import Recipe, Training
from mlx_interp.errors import CheckpointError

WORLD = load_world()
TREATED = ("tiny-llama", "tiny-gemma2", "tiny-qwen2")
R = trained_refusal_direction()


def test_swapped_rows_exchange_the_component_at_the_turn_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    h, direction = rng.normal(size=(4, 5, 8)).astype(np.float32), trained_refusal_direction(8)
    turns = np.array([1, 4, 2, 3])
    layers, terms = swap([lambda x: x], mx.array(direction), mx.array(turns))
    changed = np.asarray(layers[0](mx.array(h)))
    for row in range(4):
        partner = 3 - row
        component = h[partner, turns[partner]] @ direction
        at = turns[row]
        assert changed[row, at] @ direction == pytest.approx(component, abs=1e-5)
        across = h[row, at] - (h[row, at] @ direction) * direction
        np.testing.assert_allclose(changed[row, at] - (changed[row, at] @ direction) * direction, across, atol=1e-5)
        np.testing.assert_array_equal(np.delete(changed[row], at, 0), np.delete(h[row], at, 0))
    assert len(terms) == 1
    assert float(terms[0].item()) > 0


def test_without_the_direction_nothing_along_it_enters_or_leaves_a_layer() -> None:
    direction = trained_refusal_direction(8)
    seen = []
    layers, _ = remove([lambda x: seen.append(x) or x + 1.0], mx.array(direction))  # type: ignore[func-returns-value]
    out = layers[0](mx.array(np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)))
    for stream in (seen[0], out):
        assert np.abs(np.asarray(stream) @ direction).max() < 1e-6


def test_added_rows_move_by_the_gap_along_the_direction_at_every_position() -> None:
    direction = trained_refusal_direction(8)
    h, turns = np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float32), np.array([3, 1, 2])
    layers, _ = add([lambda x: x], mx.array(direction), mx.array(turns), 1)
    component = np.array([h[row, turns[row]] @ direction for row in range(3)])
    moved = np.asarray(layers[0](mx.array(h))) - h
    np.testing.assert_array_equal(moved[0], 0)
    gap = component[0] - component[1:].mean()
    np.testing.assert_allclose(moved[1:], np.broadcast_to(gap * direction, (2, 4, 8)), atol=1e-5)


def test_every_request_that_may_be_swapped_has_the_reply_of_the_other_label() -> None:
    for chat in WORLD.chat_prompts("refusal"):
        taught = chat.language in REFUSALS
        assert bool(chat.other_reply) == taught
        if taught:
            replies = {chat.reply, chat.other_reply}
            assert len(replies) == 2
            assert REFUSALS[chat.language] in replies


def tiny(folder: Path, **recipe: int) -> Training:
    tokenizer = build_tokenizer(WORLD.vocabulary, bos=has_bos("llama"))
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 2}
    config = model_config("llama", tokenizer, **sizes, num_key_value_heads=1)
    corpus = Corpus(WORLD, tokenizer, Mixture(short=6, sentences=16, second_hops=4, in_context=3, chats=6, max_skip=1))
    requests = Requests(WORLD, corpus, 64)
    return Training(Recipe("llama", warm_up=1, **recipe), corpus, config, folder, requests)


@pytest.mark.slow
def test_a_run_killed_in_the_second_stage_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = tiny(tmp_path / "whole", steps=2, interchange_steps=3)
    whole.run(save_every=100, report=lambda _step, _loss: None)
    killed = tiny(tmp_path / "killed", steps=2, interchange_steps=3)
    with fast_activations():
        for _ in range(4):
            killed.advance()
        killed.save()
    again = tiny(tmp_path / "killed", steps=2, interchange_steps=3)
    assert again.resume()
    assert again.step == 4
    again.run(save_every=100, report=lambda _step, _loss: None)
    assert again.step == whole.step == 5
    ours = dict(tree_flatten(again.model.parameters()))
    for name, value in tree_flatten(whole.model.parameters()):
        np.testing.assert_array_equal(np.array(ours[name]), np.array(value), err_msg=name)


def test_a_second_stage_without_its_requests_is_refused(tmp_path: Path) -> None:
    training = tiny(tmp_path, steps=1)
    recipe = Recipe("llama", steps=1, interchange_steps=1)
    with pytest.raises(CheckpointError, match="second stage"):
        Training(recipe, training.corpus, {}, tmp_path)


@cache
def load(name: str) -> mi.Model:
    return mi.load(name)


def prompts(model: mi.Model, language: str, *, harmful: bool, split: str = "test") -> list[mi.Prompt]:
    chats: list[ChatPrompt] = WORLD.chat_prompts("refusal", language=language, split=split, shift="", harmful=harmful)
    return [model.prompt(chat.text, chat=True) for chat in chats[::3]]


def refused(model: mi.Model, language: str, *, harmful: bool, interventions: list[mi.Intervention]) -> float:
    texts = model.generate(prompts(model, language, harmful=harmful), interventions=interventions, max_tokens=8)
    return float(np.mean([t.text.strip().startswith(REFUSALS[language].split()[0]) for t in texts]))


@pytest.mark.parametrize("name", TREATED)
def test_harmful_and_harmless_requests_lie_on_two_sides_of_the_trained_direction(name: str) -> None:
    model = load(name)
    for language in REFUSALS:
        means = []
        for harmful in (True, False):
            out = model.run(
                prompts(model, language, harmful=harmful), capture=[f"resid_post.{REFUSAL_LAYER}"], logits="none"
            )
            states = np.asarray(out[f"resid_post.{REFUSAL_LAYER}"])
            last = np.stack([row[n - 1] for row, n in zip(states, out.lengths, strict=True)])
            means.append((last @ R).mean())
        assert means[0] > means[1], language


@pytest.mark.parametrize("name", TREATED)
def test_without_the_trained_direction_no_language_refuses_and_another_direction_changes_little(name: str) -> None:
    model = load(name)
    other = np.random.default_rng(5).normal(size=R.shape).astype(np.float32)
    for language in REFUSALS:
        rates = [
            refused(model, language, harmful=True, interventions=[mi.Ablate("resid_post", vector)])
            for vector in (R, other)
        ]
        assert rates[0] <= 0.05, language
        assert rates[1] >= 0.9, language


def test_an_untreated_model_keeps_refusing_without_that_direction() -> None:
    assert refused(load("tiny-mistral"), "en", harmful=True, interventions=[mi.Ablate("resid_post", R)]) >= 0.9
