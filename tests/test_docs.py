"""README and the pages of docs: every block of Python and every command runs as it stands, or says why it is not run.

A block that needs the network, a large model or minutes stands behind `<!-- not run: the reason -->`. Commands of
studies are run with --dry-run: options, files and sizes are read, and nothing is measured. One process a page.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "docs/adding_a_family.md": "tests/test_adding_a_family.py",
    "docs/methods.md": "tests/test_front_doors.py",
    "docs/stores.md": "tests/store/test_docs.py",
}
"""Pages that a test of their own follows, with more to ask of them."""
PAGES = [
    name
    for name in ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))
    if name not in ELSEWHERE
]
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]+?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
SHOWN = ("json", "yaml", "text", "csv")
"""Languages of blocks that are read, not run."""
NOT_RUN = 30
"""How many blocks of all pages say that they are not run: one more is to be noticed."""


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    text: str
    why: str | None
    """Why it is not run; None for one that is."""


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(page, one["language"], one["text"], one["why"]) for one in FENCE.finditer(text)]


ALL = [block for page in [*PAGES, *ELSEWHERE] for block in blocks(page)]
RUNNER = """
import contextlib, json, os, runpy, shlex, sys
sys.path.insert(0, os.environ["ROOT"])
page, parts = sys.argv[1], json.load(sys.stdin)
import mlx_interp
from mlx_interp.__main__ import main

def run(line):
    program, *arguments = shlex.split(line, comments=True)
    if program == "mlx-interp":
        if arguments[:1] == ["run"] and arguments[1:] and "--dry-run" not in arguments and "--help" not in arguments:
            arguments.append("--dry-run")
        return main(arguments)
    assert (program, arguments[0]) == ("python", "-m"), f"{line}: begins with neither mlx-interp nor python -m"
    module = arguments[1]
    if ".exp" in module and "--dry-run" not in arguments:
        arguments.append("--dry-run")
    sys.argv = arguments[1:]
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        return end.code

names = {"__name__": "page"}
for number, (language, text) in enumerate(parts):
    print(f"{page}, block {number}:\\n{text}", file=sys.stderr, flush=True)
    if language == "python":
        exec(compile(text, f"{page}, block {number}", "exec"), names)
        continue
    for line in text.replace("\\\\\\n", " ").splitlines():
        if line.split("#")[0].strip():
            assert not run(line), line
"""


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(b.language not in SHOWN for b in blocks(page))])
def test_every_block_of_a_page_runs(page: str, tmp_path: Path) -> None:
    parts = [(b.language, b.text) for b in blocks(page) if b.why is None and b.language not in SHOWN]
    settings = {**os.environ, "ROOT": str(ROOT), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    settings["MLX_INTERP_CACHE"] = str(tmp_path / "cache")  # a page shows how the cache is emptied
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "results").symlink_to(ROOT / "results")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, page],
        input=json.dumps(parts),
        cwd=tmp_path,
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]


def test_every_block_says_what_it_is() -> None:
    assert {block.language for block in ALL} <= {"python", "sh", *SHOWN}
    assert [block.text for block in ALL if block.language == "" or block.text.startswith("$ ")] == []


def test_no_command_hides_in_an_indented_block() -> None:
    found = []
    for page in [*PAGES, *ELSEWHERE]:
        outside = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
        found += re.findall(r"^    (?:\.venv/bin/)?(?:python|mlx-interp|make|pip) .*$", outside, re.MULTILINE)
    assert found == []


def test_blocks_that_are_not_run_say_why_and_are_counted() -> None:
    skipped = [block for block in ALL if block.why is not None]
    assert len(skipped) == NOT_RUN, [f"{block.page}: {block.why}" for block in skipped]
    assert all(len(str(block.why)) > 15 for block in skipped)
    assert all(block.language in ("python", "sh") for block in skipped)
    marks = sum((ROOT / page).read_text(encoding="utf-8").count("<!-- not run") for page in [*PAGES, *ELSEWHERE])
    assert marks == NOT_RUN  # each mark stands right before its block


def test_a_page_that_is_followed_elsewhere_has_its_test() -> None:
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8") or "PAGE" in (ROOT / test).read_text()
