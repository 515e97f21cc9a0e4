"""Directions: found where the contrast is, refused where it is not, and tied to the model they were made on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp import Ablate
from mlx_interp.directions.direction import Direction, diff_of_means, load_direction, save_direction
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError, DirectionError
from mlx_interp.model import Model
from tests.tiny import tiny_model

PROMPTS = ([[50 + i, 5, 7] for i in range(40)], [[50 + i, 5, 41] for i in range(40)])  # alike but for the last token


@pytest.fixture(scope="module")
def chat_model() -> Model:
    return mi.load("tiny-gemma2")


@pytest.fixture(scope="module")
def refusal(chat_model: Model) -> Direction:
    """The layer's direction whose ablation leaves the fewest refusals on training prompts."""
    harmful, harmless = chats(chat_model, "train")
    found = [
        diff_of_means(chat_model, harmful, harmless, f"resid_post.{layer}", template="chat")
        for layer in range(1, chat_model.n_layers - 1)
    ]
    return min(found, key=lambda direction: refusals(chat_model, harmful[:16], *everywhere(direction)))


def everywhere(direction: Direction) -> list[Ablate]:
    return [direction.ablated(site) for site in ("resid_pre", "resid_mid", "resid_post")]


def refusals(model: Model, prompts: list[mi.Prompt], *interventions: mi.Intervention) -> int:
    """How many replies open as a refusal does."""
    opening = model.generate(chats(model, "train")[0][0], max_tokens=3)[0].text
    return sum(c.text == opening for c in model.generate(prompts, interventions=interventions, max_tokens=3))


def chats(model: Model, split: str) -> list[list[mi.Prompt]]:
    world = load_world()
    found = [
        world.chat_prompts("refusal", split=split, language="en", shift="", harmful=harmful)
        for harmful in (True, False)
    ]
    return [[model.prompt(chat.text, chat=True) for chat in group[:32]] for group in found]


def test_it_is_the_difference_of_the_means(llama: Model) -> None:
    found = diff_of_means(llama, *PROMPTS, "resid_post.-3")
    above, below = (
        np.mean([np.asarray(llama.run(p, capture="resid_post.0")["resid_post.0"])[0, -1] for p in group], axis=0)
        for group in PROMPTS
    )
    assert np.allclose(np.asarray(found.vector), above - below, atol=1e-4)
    assert found.site == "resid_post.0"
    assert found.norm > found.floor > 0
    assert found.p_value is not None
    assert found.significant == (found.p_value <= 0.05)


def test_a_position_before_the_texts_diverge_is_refused(llama: Model) -> None:
    with pytest.raises(DirectionError, match="does not carry the contrast"):
        diff_of_means(llama, *PROMPTS, "resid_post.1", position=1)


def test_two_halves_of_one_class_are_no_contrast(chat_model: Model) -> None:
    harmful, _ = chats(chat_model, "train")
    found = [
        diff_of_means(chat_model, harmful[start::2], harmful[start + 1 :: 2], "resid_post.4", seed=start)
        for start in range(4)
    ]
    assert sum(bool(one.significant) for one in found) <= 1
    assert all(one.norm > one.floor for one in found)  # told as not significant, and there to be looked at all the same


def test_ablating_it_stops_refusals_and_adding_it_brings_them(chat_model: Model, refusal: Direction) -> None:
    harmful, harmless = chats(chat_model, "test")
    harmful, harmless = harmful[:16], harmless[:16]
    assert refusals(chat_model, harmful) >= 15
    assert refusals(chat_model, harmless) <= 1
    assert refusals(chat_model, harmful, *everywhere(refusal)) <= 2
    assert refusals(chat_model, harmless, refusal.added(1.0)) >= 14
    noise = mx.random.normal(refusal.vector.shape, key=mx.random.key(0))
    random = replace(refusal, vector=noise / mx.linalg.norm(noise) * refusal.norm)
    assert refusals(chat_model, harmful, *everywhere(random)) >= 14
    assert refusals(chat_model, harmless, random.added(1.0)) <= 2


def test_a_file_gives_back_all_of_it(chat_model: Model, refusal: Direction, tmp_path: Path) -> None:
    save_direction(refusal, tmp_path / "refusal.safetensors")
    found = load_direction(tmp_path / "refusal.safetensors", chat_model)
    assert mx.array_equal(found.vector, refusal.vector)
    assert replace(found, vector=refusal.vector).__dict__ == refusal.__dict__
    assert [path.name for path in tmp_path.iterdir()] == ["refusal.safetensors"]


def test_a_direction_of_another_model_is_refused_with_the_reason(refusal: Direction, tmp_path: Path) -> None:
    path = tmp_path / "refusal.safetensors"
    save_direction(refusal, path)
    with pytest.raises(DirectionError, match=r"8 layers, width 128.*which is not random-llama \(3 layers"):
        load_direction(path, tiny_model("llama"))
    with pytest.raises(DirectionError, match=r"other weights: tiny-gemma2, 4-bit.*make it anew"):
        load_direction(path, mi.load("tiny-llama"))


def test_a_damaged_file_is_refused(refusal: Direction, tmp_path: Path) -> None:
    path = tmp_path / "refusal.safetensors"
    save_direction(refusal, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DirectionError, match="cannot be read as a direction"):
        load_direction(path)
    with pytest.raises(DirectionError, match="cannot be read"):
        load_direction(tmp_path / "none.safetensors")
    with pytest.raises(DirectionError, match="cannot be written"):
        save_direction(refusal, tmp_path / "no" / "folder.safetensors")


def test_too_few_prompts_and_positions_that_are_not_there_are_errors(llama: Model) -> None:
    with pytest.raises(DataError, match="four prompts"):
        diff_of_means(llama, PROMPTS[0][:3], PROMPTS[1], "resid_post.1")
    with pytest.raises(DataError, match="position 3 does not exist"):
        diff_of_means(llama, *PROMPTS, "resid_post.1", position=3)
