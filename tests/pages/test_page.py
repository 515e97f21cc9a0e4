"""What holds for every page: one file that asks for nothing, texts stay texts, it is small, and a notebook shows it."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from mlx_interp import pages
from mlx_interp.errors import PageError, RunError
from mlx_interp.pages import Page
from mlx_interp.pages.page import page

EVIL = "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"


def one_lens(text: str = "a", n: int = 2) -> Page:
    readings = [[[(text, 0.75), ("b", 0.25)]] * n] * 3
    return pages.lens(readings, tokens=[text] * n, title=text, about=text)


def test_a_page_asks_for_nothing_from_anywhere() -> None:
    text = one_lens().html
    assert re.search(r"(?:src|href)=\"(?!data:,)", text) is None
    assert "@import" not in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text


def test_data_cannot_end_the_element_that_it_stands_in() -> None:
    text = one_lens(EVIL).html
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data)["tokens"] == [EVIL, EVIL]
    assert EVIL not in text


def test_a_notebook_shows_the_page_in_a_frame_of_its_own() -> None:
    made = one_lens(EVIL)
    (held,) = re.findall(r'srcdoc="([^"]*)"', made._repr_html_())
    assert html.unescape(held) == made.html
    assert "allow-same-origin" not in made._repr_html_()


def test_a_page_is_saved_with_the_folders_above_it(tmp_path: Path) -> None:
    made = one_lens("é \ud800")  # half of a surrogate pair, as JSON of a browser may hold it
    assert made.save(tmp_path / "a" / "lens.html").read_text(encoding="utf-8") == made.html
    with pytest.raises(RunError, match=r"lens\.png: a page is written as HTML: give a name that ends in \.html"):
        made.save(tmp_path / "lens.png")


def test_a_page_too_large_to_open_is_refused_with_the_way_out() -> None:
    with pytest.raises(PageError, match=r"would be 5\.1 MB, and pages are up to 5 MB: show fewer layers"):
        page("lens", title="large", tokens=["x" * 5_080_000])


def test_numbers_that_json_does_not_have_are_refused() -> None:
    with pytest.raises(PageError, match="cannot be written as JSON"):
        page("lens", title="none", tokens=[float("nan")])


def test_a_lens_whose_rows_do_not_fit_its_tokens_is_refused() -> None:
    with pytest.raises(PageError, match=r"a lens of 1 layers over 3 tokens .* rows of \[2\]"):
        pages.lens([[[("a", 1.0)]] * 2], tokens=["a", "b", "c"])
