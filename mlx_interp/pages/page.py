"""A page: one HTML file with its data, look and scripts inside, which asks for nothing from anywhere.

Templates are jinja2's, with every text escaped; data stands in the page as JSON in which no sign can end its element,
and scripts write it as text, never as markup. A page names its own policy: nothing may be loaded, nothing sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlx_interp.deferred import jinja2
from mlx_interp.errors import PageError, RunError
from mlx_interp.reporting.files import make_folder, write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
LARGEST = 5_000_000
"""Bytes of a page at most: what every browser opens at once, and a mail takes."""
HEIGHT = 640
"""Pixels of a page inside a notebook."""
DIGITS = 4


@dataclass(frozen=True, eq=False)
class Page:
    """A finished page; a notebook shows it, `save` writes the file."""

    title: str
    template: str = field(repr=False)
    about: str = field(repr=False)
    data: Mapping[str, Any] = field(repr=False)
    mark: str = ""
    """A warning above all else, such as that a run was not validated."""

    def marked(self, mark: str) -> Page:
        """The same page under a warning."""
        return replace(self, mark=mark)

    @cached_property
    def html(self) -> str:
        """The page, whole. Raises PageError for more than 5 MB, and for data that is no JSON, such as nan."""
        name = f"{self.template}.html"
        try:
            text = _environment().get_template(name).render(**{f.name: getattr(self, f.name) for f in fields(self)})
        except (TypeError, ValueError) as error:
            raise PageError(f"page {self.title!r}: its data cannot be written as JSON: {error}") from error
        # Half of a surrogate pair, which JSON from a browser may hold, has no bytes in UTF-8.
        content = text.encode("utf-8", "replace")
        if len(content) > LARGEST:
            raise PageError(
                f"page {self.title!r} would be {len(content) / 1e6:.1f} MB, and pages are up to {LARGEST / 1e6:.0f} "
                "MB: show fewer layers, positions or texts"
            )
        return content.decode("utf-8")

    def save(self, path: Path | str) -> Path:
        """Writes the page, with folders above it. Raises RunError for a name that is no .html, or cannot be written."""
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise RunError(f"{path}: a page is written as HTML: give a name that ends in .html")
        make_folder(path.parent)
        write_atomically(path, self.html)
        return path

    def _repr_html_(self) -> str:
        return _environment().get_template("notebook.html").render(page=self.html, title=self.title, height=HEIGHT)


class AsPage:
    """A result that makes its own page: `to_html` writes it, a notebook shows it."""

    def page(self) -> Page:
        raise NotImplementedError

    def to_html(self, path: Path | str) -> Path:
        """Writes the page; returns its path. Raises RunError for a path that is no .html or cannot be written."""
        return self.page().save(path)

    def _repr_html_(self) -> str:
        return self.page()._repr_html_()


def page(template: str, *, title: str, about: str = "", **data: Any) -> Page:
    """A page from its template and data. Raises what `Page.html` raises."""
    made = Page(title, template, about, data)
    _ = made.html  # what cannot be a page is said where it is made, not where it is shown
    return made


def numbers(values: npt.ArrayLike) -> Any:
    """Numbers as JSON has them: lists of lists, four significant digits, None where one is not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0:
        return float(f"{array:.{DIGITS}g}") if np.isfinite(array) else None
    return [numbers(row) for row in array]


def shares(tokens: Any) -> list[list[Any]]:
    """Pairs (token, number) as JSON has them."""
    return [[str(token), numbers(value)] for token, value in tokens]


@cache
def _environment() -> Environment:
    """The templates; no text of theirs changes while a program runs."""
    made: Environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    settings: Mapping[str, Any] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    made.policies["json.dumps_kwargs"] = settings
    return made
