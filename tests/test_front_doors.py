"""The library's front doors: every room by name, every verb documented by an example that runs."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mlx_interp as mi

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
ROOMS = ("lenses", "patching", "directions", "in_context", "behaviour", "controls")
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def room(name: str) -> ModuleType:
    found = getattr(mi, name)
    assert inspect.ismodule(found)
    return found


def verbs() -> list[tuple[str, str]]:
    """(room, verb) of the page's table."""
    rows = re.findall(r"^\| `mi\.(\w+)` \| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [(name, verb) for name, cell in rows for verb in re.findall(r"`(\w+)`", cell)]


def test_the_page_s_table_names_the_rooms_of_the_library() -> None:
    assert tuple(dict.fromkeys(name for name, _ in verbs())) == ROOMS


@pytest.mark.parametrize("name", ROOMS[:-1])
def test_a_room_gives_out_what_it_says_and_describes_itself(name: str) -> None:
    found = room(name)
    assert found.__doc__
    assert len(set(found.__all__)) == len(found.__all__)
    for one in found.__all__:
        assert inspect.getdoc(getattr(found, one)) or not callable(getattr(found, one)), one


@pytest.mark.parametrize(("name", "verb"), verbs())
def test_a_verb_of_the_page_is_there_with_its_shapes_and_has_an_example_or_a_reference(name: str, verb: str) -> None:
    found = getattr(room(name), verb)
    assert callable(found)
    assert inspect.getdoc(found), verb
    text = PAGE.read_text(encoding="utf-8")
    assert f"mi.{name}.{verb}(" in text or f"`{verb}`" in text.split("## Lenses")[1], f"{verb} has no example"


def test_a_module_of_a_room_never_has_the_name_of_what_the_room_gives_out() -> None:
    """`from mlx_interp.directions import contrast` must mean one thing."""
    for name in ROOMS[:-1]:
        folder = Path(str(room(name).__file__)).parent
        modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        assert not modules & set(room(name).__all__)


@pytest.mark.slow
def test_every_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = CODE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) >= 15
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        try:
            exec(compile(block, f"{PAGE.name}, example {number}", "exec"), names)
        except Exception as error:
            raise AssertionError(f"example {number} of {PAGE.name} fails:\n{block}") from error
    model, found, grid = names["model"], names["found"], names["grid"]
    assert isinstance(model, mi.Model)
    assert grid.shape == (model.n_layers, len(names["prompt"]))  # type: ignore[attr-defined, arg-type]
    assert found.shape == (2 * model.n_heads,)  # type: ignore[attr-defined]
    assert "Paris" in capsys.readouterr().out


def test_old_module_names_lead_to_the_rooms_and_say_so() -> None:
    code = (
        "import mlx_interp, warnings; warnings.simplefilter('error', DeprecationWarning)\n"
        "try:\n    import mlx_interp.methods\nexcept DeprecationWarning as said:\n    print(said)\n"
        "warnings.simplefilter('ignore')\n"
        "from mlx_interp.methods.answers import question\n"
        "from mlx_interp.behaviour import answers\n"
        "assert question is answers.question is mlx_interp.methods.answers.question\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "became mlx_interp.lenses" in found.stdout
