"""What is said before anything is measured needs no MLX: told by what a fresh process has imported, never by time."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_interp.deferred import Deferred
from mlx_interp.loading.names import MODELS
from mlx_interp.studies import study_names

ROOT = Path(__file__).resolve().parents[1]
SLOW = (
    "PIL duckdb html huggingface_hub matplotlib mlx mlx.core mlx_lm pyarrow scipy.optimize scipy.stats sklearn "
    "tabulate tokenizers torch transformers"
).split()

PROGRAMS = """
import contextlib, io, json, runpy, sys

said = []
for module, *arguments in json.loads(sys.argv[1]):
    text, sys.argv = io.StringIO(), [module, *arguments]
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=False)
            status = 0
        except SystemExit as end:
            status = end.code
    said.append((status, text.getvalue()))
json.dump({"said": said, "imported": sorted(sys.modules)}, sys.stdout)
"""


def run_all(programs: list[list[str]]) -> tuple[list[tuple[int, str]], set[str]]:
    """Programs one after another in one fresh process -> status and text of each, and all that was imported."""
    command = [sys.executable, "-c", PROGRAMS, json.dumps(programs)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return [(status, text) for status, text in found["said"]], set(found["imported"])


def test_importing_the_library_imports_nothing_that_is_slow() -> None:
    program = f"import mlx_interp, sys; print([name for name in {(*SLOW, 'rich')} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_help_of_every_study_and_tool_is_printed_before_mlx_is_imported() -> None:
    studies = study_names()
    tools = [
        ["experiments", tool, "--help"] for tool in ("run_all", "publish", "query", "scale", "coverage", "inspect_log")
    ]
    programs = [
        *([f"experiments.{name}", "--help"] for name in studies),
        *tools,
        ["experiments"],
        ["validation", "--help"],
        ["mlx_interp", "--help"],
    ]
    said, imported = run_all(programs)
    assert [status for status, _ in said] == [0] * len(programs)
    for name, (_, text) in zip(studies, said, strict=False):
        assert f"usage: python -m experiments.{name}" in text
        assert f"\n{name.split('_')[0]}: " in text  # the study's own text, not that of a part
        assert "--dry-run" in text
    assert [name for name in SLOW if name in imported] == []


def test_what_is_misspelled_is_said_before_mlx_is_imported(tmp_path: Path) -> None:
    study = "experiments.exp9_back_patching"
    wrong = [
        ([study, "--model", "gema-2-2b"], "did you mean 'gemma-2-2b'"),
        ([study, "--modle", "tiny-llama"], "unknown option --modle: did you mean '--model'"),
        ([study, "--set", "positon=last"], "no field 'positon': did you mean"),
        ([study, "--limit", "many"], "many"),
        ([study, "--dry-run", "--model", str(tmp_path / "missing")], str(tmp_path / "missing")),
        ([study, "--dry-run", "--model", str(tmp_path / "missing.gguf")], "missing.gguf"),
        (["experiments", "run_al"], "did you mean 'run_all'"),
        (["mlx_interp", "run", "exp99"], "no study 'exp99'"),
        (["mlx_interp", "download", "gema-2-2b"], "did you mean 'gemma-2-2b'"),
        (["validation", "--model", "gema-2-2b"], "did you mean 'gemma-2-2b'"),
        (["validation", "--model", str(tmp_path / "missing")], str(tmp_path / "missing")),
    ]
    said, imported = run_all([program for program, _ in wrong])
    for (status, text), (_, message) in zip(said, wrong, strict=True):
        assert status == 2
        assert message in " ".join(text.split())
    assert [name for name in SLOW if name in imported] == []


def test_models_are_listed_without_what_would_run_them() -> None:
    [(status, text)], imported = run_all([["mlx_interp", "models"]])
    assert status == 0
    assert all(name in text for name in MODELS)
    # mlx.core alone: whether a model fits depends on the device, which is MLX's to know
    assert [name for name in ("mlx_lm", "transformers", "torch", "matplotlib") if name in imported] == []


def test_a_deferred_module_is_the_module_it_stands_for() -> None:
    deferred = Deferred("xml")
    assert deferred.dom.minidom.Node is importlib.import_module("xml.dom.minidom").Node
    assert "dom" in vars(deferred)  # the second time, nothing of this project runs
    with pytest.raises(AttributeError, match="module 'xml' has no attribute 'dmo'"):
        _ = deferred.dmo


def test_what_is_set_on_a_deferred_module_is_set_on_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    import textwrap

    before, deferred = textwrap.fill, Deferred("textwrap")
    monkeypatch.setattr(deferred, "fill", len)
    assert textwrap.fill is deferred.fill is len
    monkeypatch.undo()
    assert textwrap.fill is deferred.fill is before
