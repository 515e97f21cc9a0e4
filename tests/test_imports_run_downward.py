"""Rooms import rooms with a smaller number, deferred imports included: the house stays a list, never a knot."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RANK = {
    **dict.fromkeys(("errors", "deferred"), -2),  # below all rooms: each of them raises, and uses MLX
    **dict.fromkeys(("shapes", "copies"), -1),
    **dict.fromkeys(("sites", "stats", "authority", "studies", "transformer_lens_names"), 0),
    **dict.fromkeys(
        ("activations", "architectures", "controls", "interventions", "prompts", "datasets", "ranks", "reporting"), 1
    ),
    **dict.fromkeys(("engine", "continuations", "pages"), 2),
    **dict.fromkeys(("progress", "wrapped"), 3),
    "model": 4,
    **dict.fromkeys(("loading", "behaviour", "massive_activations"), 5),
    **dict.fromkeys(("patching", "directions", "in_context"), 6),
    "lenses": 7,
    "methods": 8,  # old names of the rooms before it
    **dict.fromkeys(("embedded", "store"), 8),
    "sae": 9,
    **dict.fromkeys(("circuits", "explore", "providers", "sharing"), 10),
    "validation": 11,
    "experiments": 12,
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


ROOMS_OF_STUDIES = {"data": 0, "harness": 1, "shared": 2}
"""Inside experiments/: what all studies stand on, below the studies themselves."""


def test_a_study_imports_only_itself_and_what_all_studies_share() -> None:
    for path in sorted((ROOT / "experiments").rglob("*.py")):
        here = part_of_experiments(path.relative_to(ROOT).with_suffix("").parts)
        if here == "":
            continue
        for name in imported_names(path):
            if not name.startswith("experiments."):
                continue
            there = part_of_experiments(tuple(name.split(".")))
            if there != here:
                assert there in ROOMS_OF_STUDIES, f"{path.relative_to(ROOT)} imports {name}: share it through shared/"
                below = ROOMS_OF_STUDIES[there] < ROOMS_OF_STUDIES.get(here, 3)
                assert below, f"{path.relative_to(ROOT)}: {here} may not import {there}"


def test_experiments_holds_studies_and_few_rooms_beside_them() -> None:
    folder = ROOT / "experiments"
    rooms = {path.name for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"}
    studies = {name for name in rooms if re.fullmatch(r"exp\d+_\w+", name)}
    assert rooms - studies == {"harness", "shared", "data", "configs"}
    assert {path.name for path in folder.glob("*.py")} == {"__init__.py", "__main__.py"}
    for name in studies:
        assert {"__init__.py", "__main__.py"} <= {path.name for path in (folder / name).glob("*.py")}, name


def test_a_study_begins_with_its_method_section() -> None:
    """Docstring, config and experiment; the parts are files of their own."""
    for path in sorted((ROOT / "experiments").glob("exp*/__init__.py")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines < 120, f"{path.relative_to(ROOT)}: {lines} lines; give a part a file of its own in the folder"


def test_a_file_name_in_experiments_stands_for_one_thing() -> None:
    seen: dict[str, Path] = {}
    for path in sorted((ROOT / "experiments").rglob("*.py")):
        if path.stem not in FRONT:
            here = path.relative_to(ROOT)
            assert path.name not in seen, f"{here} and {seen[path.name]} share a name; say what each one holds"
            seen[path.name] = here


def part_of_experiments(parts: tuple[str, ...]) -> str:
    """A study or a room of experiments/, "" for its front door."""
    return "" if parts[1:] in ((name,) for name in FRONT) else parts[1]
