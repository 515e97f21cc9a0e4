"""The notebooks of docs/notebooks: executed from the top in a fresh kernel, outputs kept small and without noise.

`python scripts/notebooks.py [NAME ...]` executes them in place, all by default. A notebook is its own source: edit it
in Jupyter or as text, then run this. `tests/test_notebooks.py` does the same in a folder of its own.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
MOST_BYTES = 300_000
"""Of a notebook with its outputs."""
QUIET = {"PYTHONWARNINGS": "ignore:IProgress not found"}
"""tqdm, imported by transformers, asks every notebook for ipywidgets."""


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def executed(name: str, folder: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of this machine; files that it writes lie in `folder`. Raises what a cell raises."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    earlier = {key: os.environ.get(key) for key in QUIET}
    os.environ.update(QUIET)
    try:
        nbclient.NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        ).execute()
    finally:
        for key, value in earlier.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
    return tidy(notebook)


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what changes from run to run and nobody reads: times, ids, and text beside a picture or a page."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            if set(output.get("data", {})) & {"text/html", "image/png"}:
                output.data.pop("text/plain", None)
        merge_streams(cell)
    return notebook


def merge_streams(cell: nbformat.NotebookNode) -> None:
    """One output for what a cell prints, however the kernel cut it."""
    merged: list[nbformat.NotebookNode] = []
    for output in cell.get("outputs", []):
        if merged and output.output_type == merged[-1].output_type == "stream" and output.name == merged[-1].name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    if "outputs" in cell:
        cell.outputs = merged


def main(chosen: list[str]) -> None:
    for name in chosen or names():
        path = FOLDER / f"{name}.ipynb"
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(name, Path(folder))
        nbformat.write(notebook, path)
        size = path.stat().st_size
        print(f"{path.name}: {size // 1000} kB")
        if size > MOST_BYTES:
            sys.exit(f"{path.name}: {size} bytes, at most {MOST_BYTES}: draw fewer or smaller pictures")


if __name__ == "__main__":
    main(sys.argv[1:])
