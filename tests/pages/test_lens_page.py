"""Logit lens page in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_interp.lenses import DecodedLens, decoded_lens
from mlx_interp.model import Model
from mlx_interp.pages import Page
from tests.pages.browser import focus, press, selected, text_of
from tests.pages.test_page import EVIL, one_lens

Opened = Callable[[Page], Any]


@pytest.fixture(scope="module")
def read(llama: Model) -> DecodedLens:
    return decoded_lens(llama, [5, 9, 3, 17], k=3)


def test_every_reading_stands_in_its_cell_last_layer_on_top(opened: Opened, read: DecodedLens) -> None:
    browser = opened(read.page())
    labels = browser.execute_script(
        "return [...document.querySelectorAll('table[role=grid] tbody tr')]"
        ".map(row => [...row.cells].slice(1).map(cell => cell.ariaLabel))"
    )
    assert len(labels) == 3
    assert len(labels[0]) == 4
    for row, layer in enumerate((2, 1, 0)):
        for position in range(4):
            best, share = read.at(layer, position)[0]
            assert labels[row][position].startswith(f"layer {layer}, position {position}")
            assert f": {best} {100 * share:.{1 if share < 0.0995 else 0}f} %" in labels[row][position]


def test_arrow_keys_move_the_selected_cell_and_its_details_follow(opened: Opened, read: DecodedLens) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(read.page())
    focus(browser, 'td[tabindex="0"]')
    assert selected(browser) == [0, 3]
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_LEFT)
    assert selected(browser) == [1, 2]
    assert "layer 1, position 2" in text_of(browser, "#detail")
    press(browser, Keys.HOME, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_UP)
    assert selected(browser) == [0, 0]
    press(browser, Keys.CONTROL + Keys.END)
    assert selected(browser) == [2, 3]
    outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_the_alternatives_are_shown_where_the_pointer_rests(opened: Opened, read: DecodedLens) -> None:
    from selenium.webdriver import ActionChains

    browser = opened(read.page())
    assert not browser.find_element("id", "tip").is_displayed()
    ActionChains(browser).move_to_element(browser.find_elements("css selector", "td[role=gridcell]")[5]).perform()
    assert browser.find_element("id", "tip").is_displayed()
    shown = text_of(browser, "#tip")
    assert all(f"“{token}”" in shown for token, _ in read.at(1, 1))


def test_a_token_is_followed_through_all_cells(opened: Opened, read: DecodedLens) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(read.page())
    focus(browser, 'td[tabindex="0"]')
    press(browser, Keys.ENTER)
    token = read.at(2, 3)[0][0]
    marked = browser.execute_script("return document.querySelectorAll('td.marked').length")
    assert marked == sum(one[0][0] == token for row in read.readings for one in row)
    press(browser, Keys.ESCAPE)
    assert browser.execute_script("return document.querySelectorAll('td.marked').length") == 0


def test_html_in_a_prompt_is_shown_as_text(opened: Opened) -> None:
    browser = opened(one_lens(EVIL))
    assert browser.title == EVIL
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert text_of(browser, "h1") == EVIL
    assert EVIL in text_of(browser, "#detail")


def test_light_and_dark_differ_and_the_button_changes_them(opened: Opened, read: DecodedLens) -> None:
    browser = opened(read.page())
    background = "return getComputedStyle(document.body).backgroundColor"
    before = browser.execute_script(background)
    browser.find_element("id", "theme").click()
    assert browser.execute_script(background) != before
    browser.find_element("id", "theme").click()
    assert browser.execute_script(background) == before


def test_a_result_writes_its_page_and_shows_itself_in_a_notebook(read: DecodedLens, tmp_path: Path) -> None:
    path = read.to_html(tmp_path / "lens.html")
    assert path.read_text(encoding="utf-8") == read.page().html
    assert "srcdoc" in read._repr_html_()
