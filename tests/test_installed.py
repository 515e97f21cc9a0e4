"""Whoever installs the wheel gets the command, the studies and the suite, and no top-level name but mlx_interp."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.harness.code import code_digest, report_digest
from mlx_interp.studies import study_names

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources, so that building leaves nothing here."""
    sources = tmp_path_factory.mktemp("sources")
    for name in ("mlx_interp", "experiments", "validation"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(out)]
    done = subprocess.run([*command, str(sources)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (built,) = out.glob("*.whl")
    return built


CALLS = """
import contextlib, io, json, sys
sys.argv[0] = "mlx-interp"
from mlx_interp.__main__ import main
found = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code
    found.append((status, out.getvalue(), err.getvalue()))
from pathlib import Path
from experiments.harness.code import code_digest, report_digest
import experiments
source = Path(experiments.__file__).parent / "exp9_back_patching" / "__init__.py"
print(json.dumps([found, code_digest(source), report_digest(source)]))
"""
"""Command lines one after the other, as the console script gives them, and the identity of a study: one process, for
an import takes seconds."""


class Installed:
    """What the wheel says, called in an empty folder with nothing of this clone on the path."""

    def __init__(self, site: Path, cwd: Path) -> None:
        self.site, self.cwd = site, cwd
        said = json.loads(self.python("-c", CALLS, json.dumps(list(ASKED.values()))).stdout.splitlines()[-1])
        self.code, self.report = said[1:]
        self.said = {name: (status, out, err) for name, (status, out, err) in zip(ASKED, said[0], strict=True)}

    def python(self, *arguments: str, paths: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(map(str, [*paths, self.site]))
        settings = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "COLUMNS": "160"}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=self.cwd, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done


ASKED = {
    "help": ["--help"],
    "models": ["models"],
    "list": ["run"],
    "where": ["where"],
    "typo": ["run", "exp9_backpatching"],
    "study help": ["run", "exp9", "--help"],
    "suite help": ["validate", "--help"],
    "tool help": ["query", "--help"],
    "dry run": ["run", "exp9", "--model", "tiny-llama", "--limit", "2", "--dry-run"],
    "config by its path in a clone": [
        "run",
        "exp18",
        "--config",
        "experiments/configs/acdc.yaml",
        "--model",
        "tiny-llama",
        "--limit",
        "2",
        "--dry-run",
    ],
    "ready-made config": [
        "run",
        "exp18",
        "--config",
        "acdc.yaml",
        "--model",
        "tiny-llama",
        "--limit",
        "2",
        "--dry-run",
    ],
}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel unpacked as an installer does it: what its dependencies are is no question here."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return Installed(site, tmp_path_factory.mktemp("empty"))


@pytest.mark.slow
def test_the_wheel_has_one_top_level_name_and_the_studies_inside_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"mlx_interp"}
    inside = {name.removeprefix("mlx_interp/_studies/") for name in names if name.startswith("mlx_interp/_studies/")}
    there = {
        path.relative_to(ROOT).as_posix()
        for folder in ("experiments", "validation")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == there
    assert "mlx_interp/py.typed" in names
    templates = {path.name for path in (ROOT / "mlx_interp" / "pages" / "templates").iterdir()}
    assert {name.rpartition("/")[2] for name in names if name.startswith("mlx_interp/pages/templates/")} == templates
    assert any(re.fullmatch(r"mlx_interp/embedded/checkpoints/tiny-llama/model.safetensors", name) for name in names)


@pytest.mark.slow
def test_the_wheel_s_script_is_the_library_s_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "mlx-interp = mlx_interp.__main__:main" in archive.read(name).decode()


@pytest.mark.slow
def test_help_models_and_the_list_of_studies_come_from_the_wheel(installed: Installed) -> None:
    said = installed.said
    for name in ("help", "models", "list", "where", "study help", "suite help", "tool help"):
        assert said[name][0] == 0, (name, said[name][2])
    assert "mlx-interp run exp9_back_patching --model tiny-llama --dry-run" in said["help"][1]
    for command in ("run", "validate", "models", "doctor", "steer", "publish", "query"):
        assert re.search(rf"^ +{command} +\w", said["help"][1], re.MULTILINE), command
    assert "gemma-2-9b" in said["models"][1]
    assert [name for name in study_names() if name not in said["list"][1]] == []
    assert said["where"][1].strip() == str(installed.site / "mlx_interp" / "_studies")


@pytest.mark.slow
def test_help_texts_name_the_program_as_it_was_called(installed: Installed) -> None:
    for name, program in (
        ("study help", "mlx-interp run exp9_back_patching"),
        ("suite help", "mlx-interp validate"),
        ("tool help", "mlx-interp run query"),
    ):
        text = installed.said[name][1]
        assert text.startswith(f"usage: {program} ")
    assert "mlx-interp run exp9_back_patching --dry-run" in installed.said["study help"][1]


@pytest.mark.slow
def test_a_dry_run_from_the_wheel_plans_and_writes_nothing(installed: Installed) -> None:
    circuits = "exp18_discover_circuits"
    for name, study in (
        ("dry run", "exp9_back_patching"),
        ("ready-made config", circuits),
        ("config by its path in a clone", circuits),
    ):
        status, planned, error = installed.said[name]
        assert status == 0, error
        assert study in planned
        assert "tiny-llama" in planned


@pytest.mark.slow
def test_a_mistyped_study_is_an_error_of_one_line(installed: Installed) -> None:
    status, _, error = installed.said["typo"]
    assert status == 2
    assert error.startswith("error: no study 'exp9_backpatching': did you mean 'exp9_back_patching'")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_run_has_the_same_identity_in_a_clone_and_from_the_wheel(installed: Installed) -> None:
    """Records measured by one go on under the other: the digest of measuring code does not see where it lies."""
    source = ROOT / "experiments" / "exp9_back_patching" / "__init__.py"
    assert [installed.code, installed.report] == [code_digest(source), report_digest(source)]


@pytest.mark.slow
def test_a_study_runs_from_the_wheel_as_a_module_too(installed: Installed) -> None:
    """A whole run: gate, data files, records, tables; and nothing outside the folder it was started in."""
    folder = installed.site / "mlx_interp" / "_studies"
    installed.python("-m", "experiments.exp3", "--model", "tiny-llama", "--limit", "2", paths=[folder])
    (run_file,) = installed.cwd.glob("runs/exp3_*/tiny-llama/run.json")
    assert json.loads(run_file.read_text())["status"] == "complete"
    assert {path.name for path in installed.cwd.iterdir()} == {"runs"}
