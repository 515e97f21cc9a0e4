"""Attention page in a browser, and the patterns that make it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlx_interp import pages
from mlx_interp.errors import PageError, PositionError, SiteError
from mlx_interp.lenses import AttentionPatterns, attention_patterns
from mlx_interp.model import Model
from mlx_interp.pages import Page
from tests.pages.browser import focus, hover, press, selected, text_of
from tests.pages.test_page import EVIL

Opened = Callable[[Page], Any]
CELLS = "return [...document.querySelectorAll('#pattern td')].map(cell => cell.ariaLabel)"


@pytest.fixture(scope="module")
def read(llama: Model) -> AttentionPatterns:
    return attention_patterns(llama, [5, 9, 3, 17])


def test_patterns_are_what_a_run_captures(llama: Model, read: AttentionPatterns) -> None:
    out = llama.run([5, 9, 3, 17], capture="pattern", logits="none")
    assert np.array_equal(np.asarray(read.of_head(2, 5)), np.asarray(out["pattern.2"])[0, 5])
    some = attention_patterns(llama, [5, 9, 3, 17], "pattern.1-2")
    assert some.layers == (1, 2)
    assert np.array_equal(np.asarray(some.of_head(1, 3)), np.asarray(read.of_head(1, 3)))
    with pytest.raises(PositionError, match="layer 0, head 3 was not read: layers are 1, 2, heads 0 to 5"):
        some.of_head(0, 3)
    with pytest.raises(SiteError, match=r'read at "pattern" or some of its layers .*, not \'z\''):
        attention_patterns(llama, [5, 9], "z")


def test_the_chosen_head_is_shown_to_the_percent(opened: Opened, read: AttentionPatterns) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(read.page())
    assert text_of(browser, "#which") == "layer 2, head 0"
    focus(browser, '#heads td[tabindex="0"]')
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert selected(browser) == [1, 2]
    assert text_of(browser, "#which") == "layer 1, head 2"
    shares = np.asarray(read.of_head(1, 2))
    for index, label in enumerate(browser.execute_script(CELLS)):
        query, key = divmod(index, 4)
        if key > query:
            assert "comes before" in label
        else:
            digits = 1 if shares[query, key] < 0.0995 else 0
            assert label.endswith(f"{100 * shares[query, key]:.{digits}f} %")


def test_a_pair_of_tokens_is_told_by_keys_and_by_the_pointer(opened: Opened, read: AttentionPatterns) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(read.page())
    focus(browser, '#pattern td[tabindex="0"]')
    press(browser, Keys.ARROW_UP)
    assert selected(browser) == [2, 0]
    assert "(position 2) attends most to" in text_of(browser, "#detail")
    hover(browser, "#pattern td", 4)
    assert "positions 1 and 0, layer 2, head 0" in text_of(browser, "#tip")


def test_small_patterns_are_drawn_anew_in_the_dark(opened: Opened, read: AttentionPatterns) -> None:
    drawn = "return document.querySelector('canvas').toDataURL()"
    browser = opened(read.page())
    before = browser.execute_script(drawn)
    browser.find_element("id", "theme").click()
    assert browser.execute_script(drawn) != before


def test_a_token_of_html_stays_text(opened: Opened) -> None:
    browser = opened(pages.attention(np.eye(2)[None, None], tokens=[EVIL, "b"], about=EVIL))
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert EVIL in text_of(browser, "#detail")


def test_a_page_of_many_heads_stays_small() -> None:
    patterns = np.random.default_rng(0).dirichlet(np.ones(40), size=(30, 9, 40))
    assert len(pages.attention(patterns, tokens=["word"] * 40).html) < 1_000_000


def test_patterns_that_are_none_are_refused() -> None:
    with pytest.raises(PageError, match=r"patterns \(1, 2, 2\) over 2 tokens: give \(layer, head, query, key\)"):
        pages.attention(np.zeros((1, 2, 2)), tokens=["a", "b"])
    with pytest.raises(PageError, match="probabilities from 0 to 1"):
        pages.attention(np.full((1, 1, 2, 2), -3.0), tokens=["a", "b"])
