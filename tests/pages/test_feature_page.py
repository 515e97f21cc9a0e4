"""Feature page in a browser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mlx_interp.pages import FeaturePage, Page
from mlx_interp.sae import dashboard, feature_pages
from tests.pages.browser import focus, hover, press, text_of
from tests.pages.test_page import EVIL
from tests.sae.examples import random_sae
from tests.tiny import tiny_model

Opened = Callable[[Page], Any]


@pytest.fixture(scope="module")
def found() -> Sequence[FeaturePage]:
    model = tiny_model("llama")
    sae = random_sae("relu", model.d_model, "resid_post.1")
    prompts = model.prompts([[5, 9, 3, 17, 40], [8, 2, 33], [7, 7]])
    return feature_pages(model, sae, prompts, [4, 9, 11], titles={4: "four"}, n_examples=2, n_tokens=3)


def test_a_feature_is_chosen_by_keys_and_shown_with_its_texts(opened: Opened, found: Sequence[FeaturePage]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(dashboard(found, title="features"))
    assert "Feature 4 four" in text_of(browser, "#detail")
    focus(browser, "#list li")
    press(browser, Keys.ARROW_DOWN)
    assert browser.execute_script("return document.activeElement.getAttribute('aria-selected')") == "true"
    detail = text_of(browser, "#detail")
    assert f"active on {found[1].n_active} of {found[1].n_tokens} tokens" in detail
    assert all(f"“{token}”" in detail for token, _ in found[1].raised + found[1].lowered)
    texts = browser.execute_script("return [...document.querySelectorAll('.example p')].map(p => p.textContent)")
    assert texts == ["".join(one.tokens) for one in found[1].examples]


def test_tokens_tell_the_feature_where_the_pointer_or_the_focus_is(
    opened: Opened, found: Sequence[FeaturePage]
) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(dashboard(found, title="features"))
    example = found[0].examples[0]
    hover(browser, ".example .token", 1)
    assert text_of(browser, "#tip").startswith(f"“{example.tokens[1]}” ")
    assert float(text_of(browser, "#tip").split()[-1]) == pytest.approx(example.values[1], abs=5e-3)
    focus(browser, ".example .token")
    at = "return [...document.querySelector('.example p').children].indexOf(document.activeElement)"
    for key, index in ((Keys.END, len(example.tokens) - 1), (Keys.ARROW_LEFT, len(example.tokens) - 2), (Keys.HOME, 0)):
        press(browser, key)
        assert browser.execute_script(at) == index
        assert float(text_of(browser, "#tip").split()[-1]) == pytest.approx(example.values[index], abs=5e-3)


def test_features_are_found_by_number_or_name(opened: Opened, found: Sequence[FeaturePage]) -> None:
    browser = opened(dashboard(found, title="features"))
    browser.find_element("id", "find").send_keys("fou")
    visible = browser.execute_script("return [...document.querySelectorAll('#list li')].filter(i => !i.hidden).length")
    assert visible == 1


def test_html_in_names_and_texts_is_shown_as_text(opened: Opened, found: Sequence[FeaturePage]) -> None:
    example = replace(found[0].examples[0], tokens=(EVIL,) * len(found[0].examples[0].tokens))
    bad = replace(found[0], title=EVIL, raised=((EVIL, 1.0),), examples=(example,))
    browser = opened(dashboard([bad], title=EVIL, note=EVIL))
    assert browser.title == EVIL
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert text_of(browser, "#detail").count(EVIL) >= 2 + len(example.tokens)
