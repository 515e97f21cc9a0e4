"""Grid page in a browser, and activation patching on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import pages
from mlx_interp.errors import DataError, PageError
from mlx_interp.model import Model
from mlx_interp.pages import Details, Page
from mlx_interp.patching import PatchingGrid, activation_patching, patching_grid
from mlx_interp.reporting import Panel
from tests.pages.browser import focus, hover, press, selected, text_of
from tests.pages.test_page import EVIL

Opened = Callable[[Page], Any]
CLEAN, CORRUPTED = [5, 9, 3, 17], [5, 40, 3, 17]
LABELS = "return [...document.querySelectorAll('#grid tbody tr')].map(r => [...r.cells].slice(1).map(c => c.ariaLabel))"


@pytest.fixture(scope="module")
def patched(llama: Model) -> PatchingGrid:
    right, wrong = llama.text_of_token(21), llama.text_of_token(33)
    return patching_grid(llama, llama.prompts(CLEAN)[0], llama.prompts(CORRUPTED)[0], right=right, wrong=wrong, k=3)


def test_a_patching_grid_is_the_share_that_comes_back(llama: Model, patched: PatchingGrid) -> None:
    ids = [llama.token_id(word, after=patched.clean) for word in (patched.right, patched.wrong)]
    logits = np.asarray(llama.run([CLEAN, CORRUPTED]).logits)
    of_clean, of_corrupted = logits[:, ids[0]] - logits[:, ids[1]]
    found = np.asarray(activation_patching(llama, CLEAN, CORRUPTED))
    expected = (found[..., ids[0]] - found[..., ids[1]] - of_corrupted) / (of_clean - of_corrupted)
    assert patched.recovered == pytest.approx(expected, abs=1e-4)
    assert patched.recovered[0, 1] == pytest.approx(1, abs=1e-4)  # the only token that differs
    for layer, position in ((0, 1), (2, 3)):
        (expected_top,) = llama.top_tokens(mx.array(found[layer, position]), 3)
        assert dict(patched.top[layer][position]) == pytest.approx(dict(expected_top), abs=1e-5)


def test_answers_on_which_the_prompts_agree_are_refused(llama: Model, patched: PatchingGrid) -> None:
    with pytest.raises(DataError, match="nothing was lost that patching could bring back"):
        patching_grid(llama, patched.clean, patched.clean, right=patched.right, wrong=patched.wrong)


def test_a_cell_says_its_number_and_what_the_model_says_there(opened: Opened, patched: PatchingGrid) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(patched.page())
    focus(browser, "#grid td")
    press(browser, Keys.END, Keys.ARROW_DOWN)
    assert selected(browser) == [1, 3]
    detail = text_of(browser, "#detail")
    assert all(f"“{token}”" in detail for token, _ in patched.top[1][3])
    assert patched.clean.text in detail
    assert patched.corrupted.text in detail
    labels = browser.execute_script(LABELS)
    assert labels[2][1].startswith("layer 0, position 1")
    assert labels[2][1].endswith(": 100 %")  # the lowest row is layer 0


def test_panels_are_chosen_and_each_has_its_texts(opened: Opened) -> None:
    values = [[0.5, -0.25], [None, 1.0]]
    panels = [Panel("raw", values), Panel("rescaled", [[-1.0, 0.0], [0.0, 0.0]])]
    details = [
        [[Details(texts={"text": f"{panel} {row} {column}"}) for column in (0, 1)] for row in (0, 1)]
        for panel in (0, 1)
    ]
    browser = opened(pages.grid(panels, details=details, x_label="source", y_label="target", x_ticks=["a", "b"]))
    assert browser.execute_script(LABELS) == [
        ["target 1, source a: no value", "target 1, source b: 1"],
        ["target 0, source a: 0.500", "target 0, source b: -0.250"],
    ]
    browser.find_elements("css selector", "#grid td")[2].click()
    assert "0 0 0" in text_of(browser, "#detail")
    colours = browser.execute_script("return [...document.querySelectorAll('#grid td')].map(c => c.className)")
    assert colours == ["absent", "above strong", "above", "below"]
    browser.find_element("css selector", "#panel option:nth-child(2)").click()
    assert "1 0 0" in text_of(browser, "#detail")
    assert not browser.find_element("id", "tip").is_displayed()  # it told of the other panel
    hover(browser, "#grid td", 3)
    assert text_of(browser, "#tip") == "target 0, source bvalue: 0"


def test_html_in_texts_and_names_is_shown_as_text(opened: Opened) -> None:
    details = [[[Details({EVIL: 1.0}, {EVIL: EVIL}, [(EVIL, 0.5)])]]]
    browser = opened(pages.grid([[1.0]], details=details, x_ticks=[EVIL], y_ticks=[EVIL], x_label=EVIL, title=EVIL))
    assert browser.title == EVIL
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert text_of(browser, "#detail").count(EVIL) >= 4


def test_sizes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(PageError, match=r"panels share one shape \(rows, columns\)"):
        pages.grid([Panel("a", [[1.0]]), Panel("b", [[1.0, 2.0]])])
    with pytest.raises(PageError, match="x_ticks: 1 names for 2"):
        pages.grid([[1.0, 2.0]], x_ticks=["a"])
    with pytest.raises(PageError, match="details stand by panel, row and column"):
        pages.grid([[1.0, 2.0]], details=[[[None]]])
