"""Rooms import rooms with a smaller number, deferred imports included: the house stays a list, never a knot."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RANK = {
    "errors": -1,  # below all rooms: each of them raises
    **dict.fromkeys(("sites", "stats", "authority"), 0),
    **dict.fromkeys(("activations", "architectures", "interventions", "prompts", "datasets", "reporting"), 1),
    "engine": 2,
    **dict.fromkeys(("progress", "wrapped"), 3),
    "model": 4,
    **dict.fromkeys(("loading", "methods"), 5),
    **dict.fromkeys(("embedded", "store"), 6),
    "sae": 7,
    "circuits": 8,
    "validation": 9,
    "experiments": 10,
}
PACKAGES = ("mlx_interp", "validation", "experiments")
FRONT = {"__init__", "__main__"}
"""The library's own front door may name any of its rooms."""


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def room(path: Path) -> str:
    """The room a file belongs to."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "mlx_interp" else parts[0]


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, anywhere in it."""
    rooms = set()
    for name in imported_names(path):
        package, *inside = name.split(".")
        if package == "mlx_interp" and inside:
            rooms.add(inside[0])
        elif package in PACKAGES[1:]:
            rooms.add(package)
        elif package == "mlx_interp":
            rooms.add("__init__")
    return rooms


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room they lead to"
            whole = node.module in PACKAGES
            yield from (f"{node.module}.{alias.name}" if whole else str(node.module) for alias in node.names)


def test_imports_run_downward_only() -> None:
    for path in sources():
        here = room(path)
        if here in FRONT:
            continue
        for there in (imported_rooms(path) & RANK.keys()) - {here}:
            assert RANK[there] < RANK[here], f"{path.relative_to(ROOT)}: {here} may not import {there}"


def test_every_room_has_its_number() -> None:
    rooms = {room(path) for path in sources()} - FRONT
    assert rooms <= RANK.keys(), f"give {rooms - RANK.keys()} a number in RANK"


def test_no_room_imports_the_library_by_its_front_door() -> None:
    """`import mlx_interp` inside the library would import upward, and in a circle."""
    for path in sorted((ROOT / "mlx_interp").rglob("*.py")):
        if room(path) in FRONT:
            continue
        names = set(imported_names(path))
        assert "mlx_interp" not in names, f"{path.relative_to(ROOT)}: import the room that is meant"


def test_studies_do_not_import_each_other() -> None:
    """A study may have a second file of its own, an exp9_report.py beside exp9_back_patching.py."""
    for path in sorted((ROOT / "experiments").glob("exp*.py")):
        studies = {study(name.split(".")[1]) for name in imported_names(path) if name.startswith("experiments.")}
        others = studies - {"", study(path.stem)}
        assert not others, f"{path.name} imports {others}: what two studies share is a function of methods/"


def study(module: str) -> str:
    """The study a module of experiments/ belongs to, "exp9", or "" for one that serves all."""
    found = re.match(r"exp\d+", module)
    return found.group() if found else ""
