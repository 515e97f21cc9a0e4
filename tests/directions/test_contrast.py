"""Contrasts are differences of means, above what random halves and rounding give."""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.directions import contrasts as module
from mlx_interp.directions.contrasts import contrast, cosines, template_positions
from mlx_interp.directions.direction import diff_of_means
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError, DirectionError
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt


@cache
def llama() -> Model:
    return mi.load("tiny-llama")


def chats(harmful: bool, n: int = 24) -> list[Prompt]:
    chosen = load_world().chat_prompts("refusal", language="en", split="train", harmful=harmful)
    return [llama().prompt(chat.text, chat=True) for chat in chosen[:n]]


@pytest.mark.slow
def test_every_layer_and_position_is_the_difference_of_means_read_one_by_one() -> None:
    found = contrast(llama(), chats(True), chats(False), positions=(-2, -1))
    for layer, at, position in ((1, 1, -1), (5, 0, -2), (7, 1, -1)):
        means = []
        for prompts in (chats(True), chats(False)):
            states = [llama().run(p, capture=f"resid_pre.{layer}")[f"resid_pre.{layer}"][0, position] for p in prompts]
            means.append(mx.stack(states).mean(axis=0))
        np.testing.assert_allclose(found.vectors[layer, at], np.asarray(means[0] - means[1]), atol=1e-4)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_prompts() -> None:
    def peak(times: int) -> int:
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        contrast(small, chats(True) * times, chats(False) * times)
        return mx.get_peak_memory() - before

    small = mi.load("tiny-llama")
    plain = type(small).batches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(small), "batches", lambda self, *a, **k: plain(self, *a, **{**k, "memory": 4_000_000}))
        peak(1)
        assert peak(8) < 1.5 * peak(2)


def test_a_position_where_the_texts_are_still_the_same_is_refused() -> None:
    shared = llama().prompt("The capital of France is").tokens
    rows = [[*shared, token] for token in range(100, 112)]
    found = contrast(llama(), rows[:5], rows[5:], positions=(-2, -1), template="plain")
    assert not found.carries[:, 0].any()
    with pytest.raises(DirectionError, match="does not carry the contrast"):
        found.direction(5, -2)


def test_rounding_between_batches_is_no_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    """On other devices equal texts in batches of other sizes differ in their last bits; no half of a class does."""
    plain = Model.states

    def noisy(self: Model, prompts, *places, **named):  # type: ignore[no-untyped-def]
        noise = np.asarray(mx.random.normal((self.d_model,), key=mx.random.key(len(prompts)))) * 1e-7
        return plain(self, prompts, *places, **named) * (1 + noise)

    monkeypatch.setattr(Model, "states", noisy)
    same = [llama().prompt("The capital of France is")] * 9
    found = contrast(llama(), same[:4], same[4:], template="plain")
    assert found.norms.max() > 0
    assert not found.carries.any()
    with pytest.raises(DirectionError, match="does not carry the contrast"):
        diff_of_means(llama(), same[:4], same[4:], "resid_post.5")


def test_shuffled_labels_are_less_stable_than_the_contrast() -> None:
    mixed = [prompt for pair in zip(chats(True), chats(False), strict=True) for prompt in pair]
    real = contrast(llama(), chats(True), chats(False))
    null = contrast(llama(), mixed[0::4] + mixed[1::4], mixed[2::4] + mixed[3::4])
    assert real.stability[5, 0] > 0.9
    assert null.stability[5, 0] < 0.8
    assert null.norms[5, 0] < 0.5 * real.norms[5, 0]


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2", "tiny-qwen2", "tiny-mistral", "tiny-gpt2"])
def test_template_positions_are_the_tokens_behind_the_instruction(name: str) -> None:
    model = mi.load(name)
    positions = template_positions(model)
    strings = model.prompt("How do I sort a list?", chat=True).strings
    assert [strings[position] for position in positions] == ["<end_of_turn>", "<assistant>"]


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match="found 3 and 24"):
        contrast(llama(), chats(True, 3), chats(False))
    with pytest.raises(DataError, match="count from the end"):
        contrast(llama(), chats(True), chats(False), positions=(-99,))
    with pytest.raises(DataError, match="count from the end"):
        contrast(llama(), chats(True), chats(False), positions=(0,))


def test_cosines_of_vectors_without_length_are_zero() -> None:
    assert cosines(np.zeros(3), np.ones(3)) == 0
    assert cosines(np.array([1.0, 0.0]), np.array([-2.0, 0.0])) == -1
    assert module.DRAWS >= 20


def test_prompts_of_which_some_went_through_the_template_are_refused() -> None:
    texts = [f"How do I make a {name}?" for name in ("cake", "box", "chair", "table")]
    chat, plain = ([llama().prompt(text, chat=kind) for text in texts] for kind in (True, False))
    with pytest.raises(DataError, match=r"unequal templates: 4 of 8 prompts end as the chat template does"):
        contrast(llama(), chat, plain)
    with pytest.raises(DataError, match="unequal templates: 7 of 8"):
        contrast(llama(), chat, [*chat[:3], plain[3]])


def test_prompts_of_which_some_lack_the_bos_token_are_refused() -> None:
    bos = llama().tokenizer.bos_token_id
    assert bos is not None
    with_it = [[bos, 100 + n, 200 + n] for n in range(4)]
    with pytest.raises(DataError, match="4 of 8 prompts begin with the BOS token"):
        contrast(llama(), with_it, [row[1:] for row in with_it])
