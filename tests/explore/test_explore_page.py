"""The page of `mlx-interp explore` in a browser: read, look, patch by a click, steer by a slider; and its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import mlx_interp as mi
from tests.explore.served import PROMPT, Served, served
from tests.pages.browser import press, slide, text_of
from tests.pages.test_page import EVIL


@pytest.fixture(scope="module")
def running() -> Iterator[Served]:
    with served() as found:
        yield found


def wait(browser: Any, script: str) -> None:
    """Until a script says true."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 15, poll_frequency=0.05).until(lambda seen: seen.execute_script(script))


def reading(browser: Any, served_: Served, prompt: str) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(served_.address)
    browser.execute_script("byId('prompt').value = arguments[0]; byId('prompt').focus()", prompt)
    press(browser, Keys.CONTROL + Keys.ENTER)
    wait(browser, "return !byId('read').hidden || byId('state').classList.contains('wrong')")


def test_a_prompt_is_read_and_both_views_are_there(browser: Any, running: Served) -> None:
    reading(browser, running, PROMPT)
    assert text_of(browser, "#code").startswith("import mlx_interp as mi\n\nmodel = mi.load('tiny')\n\nprompt = ")
    for name, cells in (("lens", 12), ("attention", 18)):
        browser.find_element("id", f"tab-{name}").click()
        browser.switch_to.frame(name)
        grid = "#grid" if name == "lens" else "#heads"
        wait(browser, f"return document.querySelectorAll('{grid} td[role=gridcell]').length === {cells}")
        browser.switch_to.default_content()
    assert browser.get_log("browser") == []


def test_a_click_on_a_cell_patches_it(browser: Any, running: Served) -> None:
    reading(browser, running, PROMPT)
    browser.execute_script("byId('source').value = '8 40 2'")
    browser.switch_to.frame("lens")
    wait(browser, "return document.querySelectorAll('#grid td').length === 12")
    browser.find_elements("css selector", "#grid td")[1 * 4 + 2].click()
    browser.switch_to.default_content()
    wait(browser, "return byId('patched').textContent.includes('after')")
    assert "resid_post.1, position 2" in text_of(browser, "#cell")
    assert "edit = mi.Patch('resid_post.1', source['resid_post.1'][0, 2], 2)" in text_of(browser, "#code")
    assert browser.get_log("browser") == []


def test_a_strength_that_is_drawn_steers(browser: Any, running: Served) -> None:
    reading(browser, running, PROMPT)
    browser.execute_script("byId('plus').value = '7 8 20'; byId('minus').value = '60 1'; byId('length').value = 5")
    slide(browser, "strength", 2)
    assert text_of(browser, "#said") == "2 times the difference"
    browser.execute_script("byId('strength').dispatchEvent(new Event('change'))")
    wait(browser, "return byId('steered').textContent.includes('steered')")
    status, answer = running.act("steer", prompt=PROMPT, plus="7 8 20", minus="60 1", layer=1, strength=2, max_tokens=5)
    texts = browser.execute_script("return [...document.querySelectorAll('#steered .text')].map(t => t.textContent)")
    assert (status, texts) == (200, [answer["plain"], answer["steered"]])
    assert "edit = mi.Add('resid_post.1', plus - minus, 2.0)" in text_of(browser, "#code")


def test_html_in_a_prompt_is_text_everywhere(browser: Any) -> None:
    with served(model=lambda: mi.load("tiny-llama")) as found:
        status, answer = found.act("read", prompt="a \ud800")  # half of a surrogate pair, as JSON may hold it
        assert (status, answer["tokens"][-1].strip()) == (200, "?")
        reading(browser, found, EVIL)
        assert browser.title == "explore tiny-llama"
        assert "<img src=x onerror=" in text_of(browser, "#code")
        browser.switch_to.frame("lens")
        wait(browser, "return document.querySelectorAll('#grid td').length > 0")
        assert text_of(browser, ".about") == EVIL
        framed = browser.execute_script("return [document.title, document.querySelectorAll('img').length]")
        assert framed == ["Logit lens at resid_post", 0]
        browser.switch_to.default_content()
        assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert browser.get_log("browser") == []


def test_a_mistake_is_said_and_nothing_is_lost(browser: Any, running: Served) -> None:
    reading(browser, running, "5 " * 97)
    assert "97 tokens, and the page shows up to 96" in text_of(browser, "#state")
    assert not browser.find_element("id", "read").is_displayed()


def test_a_model_that_ends_while_the_page_is_open_is_said(browser: Any) -> None:
    with served() as found:
        reading(browser, found, PROMPT)
    browser.find_element("css selector", "#reading button").click()
    wait(browser, "return byId('state').textContent.startsWith('The program behind this page has ended')")
    assert browser.find_element("id", "read").is_displayed()  # what was read stays
    browser.get_log("browser")  # of the request that found nobody
