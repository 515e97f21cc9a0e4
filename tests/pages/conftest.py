"""One browser for all tests of pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_interp.pages import Page
from tests.pages.browser import session


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with session(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[[Page], Any]]:
    """Opens a page; at the end of the test nothing may stand on the browser's console."""

    def show(page: Page) -> Any:
        browser.get(page.save(tmp_path / "page.html").as_uri())
        return browser

    yield show
    assert browser.get_log("browser") == []
