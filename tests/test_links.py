"""Links of every page lead somewhere, and the published results stay as small as what people read of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)\s]+)\)")
MOST_FILES, MOST_BYTES = 600, 25e6


def tracked(*patterns: str) -> list[Path]:
    """Files under version control; what lies beside them is nobody's to check."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", *patterns]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("not a clone: files under version control are not known")
    return [path for name in found.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_relative_links_of_every_page_are_alive() -> None:
    dead = []
    for page in tracked("*.md"):
        text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in LINK.findall(text):
            place = target.partition("#")[0]
            outside = not place or "://" in target or target.startswith("mailto:")
            if not outside and not (page.parent / place).exists():
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert not dead


def test_published_results_are_what_people_read() -> None:
    files = tracked("results")
    assert len(files) < MOST_FILES
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert {path.suffix for path in files if path.name != "run.json"} <= {".md", ".png", ".html"}
