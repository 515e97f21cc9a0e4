"""Docstrings as the site shows them: a line that describes an argument begins a line there too.

Docstrings of this project are sentences and lines such as `layers: which of them, all by default`. Markdown would join
those lines into one paragraph, and read brackets in them as links.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

BEGINS = re.compile(r"^(?=(?:[a-z_]\w*(?:, [a-z_]\w*)*: |Returns |Raises ))", re.MULTILINE)
SIDE_BY_SIDE = re.compile(r"\](?=[\[(])")


class Lines(griffe.Extension):
    """Breaks before lines that describe an argument, what is returned or raised; brackets that are no links."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)


def shown(text: str) -> str:
    """A docstring as markdown: indented examples stay code, the rest gets its line breaks."""
    parts = re.split(r"(`[^`]*`)", BEGINS.sub("\n", text))
    return "".join(part if n % 2 else SIDE_BY_SIDE.sub("]\\\\", part) for n, part in enumerate(parts))
