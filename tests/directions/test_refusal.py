"""The refusal direction in one call: found on one half, selected on the other, and what it does to texts."""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import pytest

import mlx_interp as mi
from mlx_interp import directions
from mlx_interp.behaviour import opener_tokens, refusal
from mlx_interp.directions.candidates import select
from mlx_interp.directions.contrasts import template_positions
from mlx_interp.embedded import load_world
from mlx_interp.errors import ConfigError, DataError, DirectionError
from mlx_interp.stats import split_halves

BOUND = 0.5
"""Nats: an embedded model is small enough that an ablation changes more of it than the paper's 0.1."""


@cache
def texts(harmful: bool) -> list[str]:
    return [one.text for one in load_world().chat_prompts("refusal", language="en", harmful=harmful)][::9]


@cache
def model() -> mi.Model:
    return mi.load("tiny-gemma2")


@cache
def found() -> mi.Direction:
    return directions.refusal_direction(model(), texts(True), texts(False), kl_bound=BOUND)


def chats(harmful: bool, n: int = 6) -> list[mi.Prompt]:
    return [model().prompt(text, chat=True) for text in texts(harmful)[:n]]


@pytest.mark.slow
def test_it_is_what_contrast_and_selection_by_hand_give() -> None:
    halves = [split_halves(list(texts(kind)), 0) for kind in (True, False)]
    ways = [[[model().prompt(text, chat=True) for text in half[part]] for half in halves] for part in (0, 1)]
    contrast = mi.contrast(model(), *ways[0], positions=template_positions(model()))
    chosen = select(model(), contrast, ways[1][0], ways[1][1], opener_tokens(model(), *ways[0]))
    by_hand = contrast.direction(*chosen.within(BOUND)[0])
    assert mx.array_equal(found().vector, by_hand.vector)
    assert (found().site, found().position) == (by_hand.site, by_hand.position)


def test_without_it_the_model_complies_and_with_it_it_refuses() -> None:
    plain = [refusal(one.text) for one in model().generate(chats(True), max_tokens=12)]
    ablated = [refusal(one.text) for one in directions.ablate(model(), chats(True), found(), max_tokens=12)]
    asked = [refusal(one.text) for one in model().generate(chats(False), max_tokens=12)]
    steered = [refusal(one.text) for one in directions.steer(model(), chats(False), found(), 1.0, max_tokens=12)]
    assert sum(one is not None for one in plain) >= 5
    assert sum(one is not None for one in ablated) <= 1
    assert sum(one is not None for one in asked) <= 1
    assert sum(one is not None for one in steered) >= 5


def test_steering_writes_what_generate_with_the_addition_writes() -> None:
    edit = directions.added_at_strength(model(), found(), 0.4, chats(False))
    by_hand = model().generate(chats(False), interventions=[edit], max_tokens=6)
    assert [one.tokens for one in directions.steer(model(), chats(False), found(), 0.4, max_tokens=6)] == [
        one.tokens for one in by_hand
    ]


def test_a_bound_that_none_passes_few_texts_and_strengths_that_are_none_are_refused() -> None:
    with pytest.raises(DirectionError, match=r"none of \d+ candidates passes: .*below 1e-09 nats"):
        directions.refusal_direction(model(), texts(True), texts(False), kl_bound=1e-9)
    with pytest.raises(DataError, match="8 instructions of each kind or more are needed, found 3 and 32"):
        directions.refusal_direction(model(), texts(True)[:3], texts(False))
    with pytest.raises(ConfigError, match="strength nan"):
        directions.steer(model(), chats(False), found(), float("nan"))
    with pytest.raises(DirectionError, match="are not finite: give a smaller strength"):
        directions.steer(model(), chats(False), found(), 1e30)
