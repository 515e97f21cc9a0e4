"""Text page in a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlx_interp import pages
from mlx_interp.errors import PageError
from mlx_interp.pages import Page
from tests.pages.browser import focus, press, text_of
from tests.pages.test_page import EVIL

Opened = Callable[[Page], Any]
ROWS = [
    {"vector": vector, "scale": scale, "text": f"the {word} of {vector} at {scale}"}
    for vector in ("own", "random")
    for scale in ("1", "2")
    for word in ("house", "garden")
]
SHOWN = "return [...document.querySelectorAll('tbody tr')].filter(r => !r.hidden).map(r => r.lastChild.textContent)"


@pytest.fixture(scope="module")
def page() -> Page:
    return pages.texts(ROWS, filters=["vector", "scale"], start={"vector": "own"})


def test_filters_and_words_choose_the_rows(opened: Opened, page: Page) -> None:
    browser = opened(page)
    assert browser.execute_script(SHOWN) == [row["text"] for row in ROWS if row["vector"] == "own"]
    browser.find_element("css selector", "select[name=scale] option[value='2']").click()
    assert text_of(browser, "output") == "2 of 8 rows"
    browser.find_element("css selector", "input[name=words]").send_keys("GARDEN")
    assert browser.execute_script(SHOWN) == ["the garden of own at 2"]
    assert browser.execute_script("return location.hash") == "#vector=own&scale=2&words=GARDEN"


def test_a_view_has_an_address(opened: Opened, page: Page) -> None:
    browser = opened(page)
    address = browser.current_url
    browser.get("about:blank")  # another hash alone would not load the page
    browser.get(address + "#vector=*&words=garden")
    assert len(browser.execute_script(SHOWN)) == 4


def test_arrow_keys_lead_from_row_to_shown_row(opened: Opened, page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(page)
    browser.find_element("css selector", "input[name=words]").send_keys("garden")
    focus(browser, "tbody tr[tabindex='0']")
    press(browser, Keys.ARROW_DOWN)
    assert browser.execute_script("return document.activeElement.lastChild.textContent") == "the garden of own at 2"


def test_html_in_texts_is_shown_as_text(opened: Opened) -> None:
    browser = opened(pages.texts([{EVIL: EVIL, "b": EVIL}], filters=[EVIL], title=EVIL, about=EVIL))
    assert browser.title == EVIL
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert browser.execute_script(SHOWN) == [EVIL]


def test_rows_and_filters_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PageError, match=r"row 1 has columns \['b'\], the first one \['a'\]"):
        pages.texts([{"a": ""}, {"b": ""}])
    with pytest.raises(PageError, match="no column 'b' to choose by: columns are a"):
        pages.texts([{"a": ""}], filters=["b"])
