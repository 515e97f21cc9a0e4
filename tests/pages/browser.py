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
