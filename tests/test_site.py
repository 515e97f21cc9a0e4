"""The docs site: links that leave docs/, the reference's rooms, docstrings as markdown, nothing from the network.

`make docs` builds the whole of it with warnings as errors; these are the parts that are this project's own.
"""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import mlx_interp as mi

ROOT = Path(__file__).resolve().parents[1]


def script(name: str, needs: str) -> ModuleType:
    pytest.importorskip(needs, reason=f"{needs} is not installed: `make docs` brings it, or pip install '.[docs]'")
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    return script("site_hook", "mkdocs")


def test_every_room_of_the_front_door_has_a_page_of_the_reference(hook: ModuleType) -> None:
    assert hook.rooms() == [name for name in mi.__all__ if inspect.ismodule(getattr(mi, name))]


def test_a_link_leads_to_what_the_site_has_and_otherwise_keeps_its_words(hook: ModuleType) -> None:
    known = {"index.md", "lenses.md", "repository/BUGFIX.md", "repository/results/README.md"}
    cases = [
        ("index.md", "[a](docs/lenses.md#x)", "[a](lenses.md#x)"),  # README's own links, from the site's first page
        ("index.md", "[a](BUGFIX.md)", "[a](repository/BUGFIX.md)"),
        ("index.md", "[code](mlx_interp/sites.py)", "code"),
        ("lenses.md", "[a](../results)", "[a](repository/results/README.md)"),  # a folder is its README
        ("lenses.md", "[code](../mlx_interp/pages/)", "code"),
        ("lenses.md", "[gone](nowhere.md)", "[gone](nowhere.md)"),  # left for the build to name
        ("lenses.md", "[a](https://example.org/x.md) [b](#c)", "[a](https://example.org/x.md) [b](#c)"),
        ("lenses.md", "`[a](../BUGFIX.md)`", "`[a](../BUGFIX.md)`"),
        ("repository/BUGFIX.md", "[a](docs/lenses.md)", "[a](../lenses.md)"),
        ("repository/BUGFIX.md", "[a](README.md)", "[a](../index.md)"),
    ]
    for page, text, wanted in cases:
        assert hook.rewritten(text, page, known) == wanted, (page, text)


def test_a_page_that_would_fetch_something_stops_the_build(hook: ModuleType) -> None:
    class Here:
        class file:  # noqa: N801 - as mkdocs names it
            src_uri = "lenses.md"

    for fetched in (
        '<script src="https://cdn.example.org/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example.org/css">',
        '<img alt="" src="http://example.org/x.png">',
    ):
        with pytest.raises(hook.PluginError, match=r"lenses.md would fetch .*needs no network"):
            hook.on_post_page(fetched, page=Here, config=None)
    kept = (
        '<a href="https://example.org">a</a><img src="data:image/png;base64,//"><link rel="canonical" href="https://x">'
    )
    assert hook.on_post_page(kept, page=Here, config=None) == kept


def test_a_docstring_keeps_its_lines_and_its_brackets() -> None:
    shown = script("site_docstrings", "griffe").shown
    assert shown("A thing.\n\nlayers: which.\nsite: where; `out[0][1]`, cache[0][1]\nRaises X.") == (
        "A thing.\n\n\nlayers: which.\n\nsite: where; `out[0][1]`, cache[0]\\[1]\n\nRaises X."
    )
