"""The glossary's words are used: what its last column names stands in no table, help text or docstring."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
ROWS = re.compile(r"^\| (?P<word>[^|]+?) \| (?P<meaning>[^|]+?) \| (?P<avoided>[^|]*?) ?\|$", re.MULTILINE)


def rows() -> list[tuple[str, str]]:
    """(word, what is not written) of every row of the glossary's tables."""
    found = ROWS.findall(GLOSSARY.read_text(encoding="utf-8"))
    return [(word, avoided) for word, _, avoided in found if word not in ("word", "---") and set(word) != {"-"}]


def avoided() -> list[str]:
    return [phrase.strip() for _, cell in rows() for phrase in cell.split(",") if phrase.strip()]


def test_each_word_stands_once_in_the_glossary() -> None:
    words = [word for word, _ in rows()]
    assert len(words) > 40
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("phrase", avoided())
def test_what_the_glossary_avoids_is_not_written(phrase: str) -> None:
    pattern = re.compile(r"\s+".join(map(re.escape, phrase.split())), re.IGNORECASE)
    folders = ("mlx_interp", "validation", "experiments", "benchmarks")
    files = [path for folder in folders for kind in ("*.py", "*.md", "*.yaml") for path in (ROOT / folder).rglob(kind)]
    files += [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    for path in files:
        if path != GLOSSARY:
            found = pattern.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{path.relative_to(ROOT)}: {found and found.group()!r}; see docs/glossary.md"
