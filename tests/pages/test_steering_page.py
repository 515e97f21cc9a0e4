"""Steering page in a browser, and the texts on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from mlx_interp import pages
from mlx_interp.directions import Direction, SteeredTexts, diff_of_means, steer, steered_texts
from mlx_interp.errors import DirectionError, PageError
from mlx_interp.model import Model
from mlx_interp.pages import Page, Steered
from tests.pages.browser import focus, press, slide, text_of
from tests.pages.test_page import EVIL

Opened = Callable[[Page], Any]
PROMPTS = [[5, 9, 3], [8, 2, 33, 4]]
STRENGTHS = (-2.0, 0.0, 2.0)
SHOWN = (
    "return [...document.querySelectorAll('.pair')].map(p => [...p.querySelectorAll('.text')].map(t => t.textContent))"
)


@pytest.fixture(scope="module")
def direction(llama: Model) -> Direction:
    return diff_of_means(
        llama,
        [[1, 2, 3], [4, 2, 6], [9, 1, 1], [2, 2, 8]],
        [[30, 31, 32], [33, 40, 41], [8, 50, 7], [60, 1, 30]],
        site="resid_post.1",
    )


@pytest.fixture(scope="module")
def written(llama: Model, direction: Direction) -> SteeredTexts:
    return steered_texts(llama, PROMPTS, direction, STRENGTHS, max_tokens=6)


def test_texts_at_a_strength_are_those_of_steering_at_it(
    llama: Model, direction: Direction, written: SteeredTexts
) -> None:
    for index, strength in enumerate(STRENGTHS):
        alone = steer(llama, PROMPTS, direction, strength, max_tokens=6)
        assert [one[index].tokens for one in written.steered] == [one.tokens for one in alone]
    assert [one.tokens for one in written.plain] == [texts[1].tokens for texts in written.steered]
    assert written.plain[0].tokens != written.steered[0][2].tokens


def test_the_slider_shows_the_texts_of_each_strength(opened: Opened, written: SteeredTexts) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(written.page())
    focus(browser, "#strength")
    press(browser, Keys.HOME)
    for index, strength in enumerate(STRENGTHS):
        assert text_of(browser, "#said") == f"{strength:g} of the stream's norm"
        assert browser.execute_script(SHOWN) == [
            [plain.text, texts[index].text] for plain, texts in zip(written.plain, written.steered, strict=True)
        ]
        press(browser, Keys.ARROW_RIGHT)
    label = browser.find_element("id", "strength").get_attribute("aria-valuetext")
    assert label == "strength 2 of the stream's norm"


def test_what_differs_is_marked_from_the_first_word_on(opened: Opened) -> None:
    row = Steered("How?", "a small house", ["a small house", "a smart house"], {"score": [0.5, None]})
    browser = opened(pages.steering([row], strengths=[0.0, 1.0], start=0.0))
    assert browser.execute_script("return document.querySelectorAll('mark').length") == 0
    assert "score 0.500" in text_of(browser, ".pair")
    slide(browser, "strength", 1)
    assert text_of(browser, "mark") == "smart house"
    assert "score" not in text_of(browser, ".pair")


def test_html_in_texts_is_shown_as_text(opened: Opened) -> None:
    browser = opened(pages.steering([Steered(EVIL, EVIL, [EVIL + "x"], {EVIL: [EVIL]})], strengths=[1.0], title=EVIL))
    assert browser.title == EVIL
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert browser.execute_script(SHOWN) == [[EVIL, EVIL + "x"]]


def test_strengths_and_texts_that_do_not_fit_are_refused() -> None:
    row = Steered("a", "b", ["c"])
    with pytest.raises(PageError, match=r"strengths rise from the first to the last: given were \[1.0, 0.5\]"):
        pages.steering([row], strengths=[1.0, 0.5])
    with pytest.raises(PageError, match="'a' has 1 texts for 2 strengths"):
        pages.steering([row], strengths=[0.5, 1.0])
    with pytest.raises(PageError, match="finite"):
        pages.steering([row], strengths=[float("inf")])


def test_a_strength_that_overflows_is_named(llama: Model, direction: Direction) -> None:
    large = replace(direction, vector=direction.vector.astype(mx.float32) * 1e30)
    with pytest.raises(DirectionError, match=r"not finite at strength 1e\+20: give smaller ones"):
        steered_texts(llama, PROMPTS[0], large, [0.0, 1e20], unit="difference", max_tokens=2)
