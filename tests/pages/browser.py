"""A headless browser for tests of pages: Chromium or Chrome where there is one, driven by selenium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
DRIVERS = ("chromedriver", "/usr/lib/chromium/chromedriver", "/opt/homebrew/bin/chromedriver")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,900",
)
WAY_OUT = (
    "no {what} was found: install Chromium and its driver (Debian: apt-get install chromium chromium-driver; macOS: "
    "Google Chrome, and brew install chromedriver), or name them in MLX_INTERP_BROWSER and MLX_INTERP_BROWSER_DRIVER"
)


def found(variable: str, names: tuple[str, ...]) -> str | None:
    """A program: as the environment names it, or the first of some names that is there."""
    asked = os.environ.get(variable)
    return next((path for name in ((asked,) if asked else names) if (path := shutil.which(name))), None)


@contextmanager
def session(profile: Path) -> Iterator[Any]:
    """One browser with a new profile; skips the test where there is none."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium drives the browser: pip install 'mlx-interp[dev]'"
    )
    browser = found("MLX_INTERP_BROWSER", BROWSERS)
    driver = found("MLX_INTERP_BROWSER_DRIVER", DRIVERS)
    for what, path in (("browser", browser), ("driver of a browser", driver)):
        if path is None:
            pytest.skip(WAY_OUT.format(what=what))
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (*QUIET, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield running
    finally:
        running.quit()


def focus(browser: Any, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).focus()", selector)


def text_of(browser: Any, selector: str) -> str:
    return str(browser.execute_script("return document.querySelector(arguments[0]).textContent", selector))


def press(browser: Any, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def selected(browser: Any) -> list[Any]:
    """Row and column of the selected cell, which has the focus and is its grid's only one in the tab order."""
    return list(
        browser.execute_script(
            "const cell = document.activeElement, grid = cell.closest('table');"
            "const tabs = [...grid.querySelectorAll('td[tabindex=\"0\"]')];"
            "const chosen = [...grid.querySelectorAll('td[aria-selected=true]')];"
            "return tabs.length === 1 && tabs[0] === cell && chosen.length === 1 && chosen[0] === cell"
            " ? [Number(cell.dataset.row), Number(cell.dataset.column)] : [];"
        )
    )


def hover(browser: Any, selector: str, index: int = 0) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).move_to_element(browser.find_elements("css selector", selector)[index]).perform()


def slide(browser: Any, name: str, value: int) -> None:
    """A slider drawn to a value."""
    browser.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('input'))",
        name,
        value,
    )
