"""Studies and validation suite: where they are, and how a command line hands over to them.

In a clone they are the packages `experiments` and `validation` beside the library. In an installed wheel they lie
inside it, in `mlx_interp/_studies/`, so that site-packages gets no packages of such general names; their folder is put
on the import path of the process that runs them, and they have the same names there.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from mlx_interp.errors import ConfigError, nearest

LIBRARY = Path(__file__).resolve().parent
STUDIES, SUITE = "experiments", "validation"
TOOLS = ("run_all", "query", "publish", "scale", "coverage", "inspect_log")
"""Commands of `python -m experiments` over many runs."""
COMMAND = "mlx-interp"
_from_command = False


def studies_folder() -> Path:
    """The folder that holds `experiments` and `validation`. Raises ConfigError where the library came without them."""
    for folder in (LIBRARY / "_studies", LIBRARY.parent):
        if (folder / STUDIES / "harness").is_dir():
            return folder
    raise ConfigError(
        f"{LIBRARY} came without its studies, which lie beside it in a clone and in _studies in a wheel: install the "
        "package anew, or run them from a clone as python -m experiments.NAME"
    )


def study_names() -> list[str]:
    """Names of all studies, by number; nothing is imported."""
    found = [path.parent.name for path in (studies_folder() / STUDIES).glob("exp[0-9]*_*/__init__.py")]
    return sorted(found, key=lambda name: (int(name.removeprefix("exp").split("_")[0]), name))


def study_called(name: str) -> str | None:
    """The study of a full name or a short one ("exp9"); None where it is none, or not one alone."""
    chosen = [full for full in study_names() if name in (full, full.partition("_")[0])]
    return chosen[0] if len(chosen) == 1 else None


def run_study(arguments: list[str]) -> int:
    """`mlx-interp run`: a study by its full name or its short one ("exp9"), a tool, or, without a name, the list.

    Raises ConfigError for a name that is none, with the nearest.
    """
    known = study_names()
    if not arguments or arguments[0] in ("-h", "--help"):
        return hand_over(STUDIES, "run", [])
    name, rest = arguments[0], arguments[1:]
    if name in TOOLS:
        return run_tool(name, rest)
    study = study_called(name)
    if study is None:
        raise ConfigError(
            f"no study {name!r}: {nearest(name, [*known, *TOOLS])}there are {', '.join([*known, *TOOLS])}"
        )
    return hand_over(f"{STUDIES}.{study}", f"run {study}", rest)


def run_tool(name: str, arguments: list[str]) -> int:
    """A tool over many runs, by its own command: `mlx-interp query`, and so on."""
    return hand_over(STUDIES, "run", [name, *arguments])


def hand_over(module: str, command: str, arguments: list[str]) -> int:
    """Run a module of the studies as a program of this process; returns its exit status."""
    global _from_command
    folder = str(studies_folder())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    before, _from_command = sys.argv, True
    sys.argv = [f"{COMMAND} {command}", *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv, _from_command = before, False
    return 0


def invocation(module: str) -> str:
    """How help texts name a program: as it was called, `mlx-interp run NAME` or `python -m experiments.NAME`.

    module: "experiments.NAME", "experiments TOOL" or "validation".
    """
    if not _from_command:
        return f"python -m {module}"
    if module == SUITE:
        return f"{COMMAND} validate"
    return f"{COMMAND} run {module.removeprefix(STUDIES).lstrip('. ')}".strip()
