"""Publishing replaces whole folders in one step, and only by what is fit to be quoted."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.harness import publish
from experiments.harness.publish import main, replace_folder
from mlx_interp.errors import RunError
from mlx_interp.reporting import files
from mlx_interp.reporting.folders import FORMAT

EXPERIMENT = "exp9_back_patching"
READ = ("figures/heat.png", "files/page.html", "run.json", "table.md")
"""What is published of a run folder."""


def run_in(out: Path, model: str, text: str, **changes: Any) -> Path:
    """A run folder with a table, a figure and records."""
    folder = out / EXPERIMENT / model
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    table = {"title": "Fixed by one cell", "columns": ["n"], "numeric": [True], "rows": [[text]], "notes": []}
    run = {"format": FORMAT, "status": "complete", "validated": True, "title": "exp9", "tables": [table]}
    run |= {"model": {"name": model, "family": model[5:]}, "headline": text, "finished": "2026-11-01T00:00:00Z"}
    run |= {"identity": {"config": {"limit": None}, "code": "123456abcdef"}, "scaling": []}
    (folder / "run.json").write_text(json.dumps(run | changes))
    (folder / "files" / "directions").mkdir(parents=True, exist_ok=True)
    for name in ("records.jsonl", "records.parquet", "figures/heat.png", "figures/heat.pdf", "figures/heat.md"):
        (folder / name).write_text(text)
    for name in ("page.html", "numbers.csv", "directions/layer_1.safetensors"):
        (folder / "files" / name).write_text(text)
    (folder / "table.md").write_text(f"{text}\n\n![heat](figures/heat.png)\n\nShares.\n")
    return folder


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Where runs are, and where results are published: an older run of tiny-llama."""
    source, target = tmp_path / "runs", tmp_path / "results"
    run_in(target, "tiny-llama", "old")
    (target / EXPERIMENT / "tiny-llama" / "figures" / "gone.png").write_text("old")
    run_in(source, "tiny-llama", "new", finished="2026-11-02T00:00:00Z")
    return source, target


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def published(places: tuple[Path, Path], *arguments: str) -> int:
    source, target = places
    return main([*arguments, "--from", str(source), "--to", str(target)])


def test_a_run_takes_the_place_of_the_published_one(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = places
    (target / "COVERAGE.md").write_text("old")
    assert published(places, "exp9") == 0
    folder = target / EXPERIMENT / "tiny-llama"
    assert sorted(texts(folder)) == sorted(READ)
    assert (folder / "figures" / "heat.png").read_text() == "new"
    said = capsys.readouterr().out
    assert "replaces" in said
    assert "2026-11-01T00:00:00Z, code 123456ab" in said
    for overview in (target / "README.md", target / EXPERIMENT / "table.md", target / "COVERAGE.md"):
        assert "new" in overview.read_text() or "tiny-llama" in overview.read_text()
        assert str(overview) in said
    assert not list(target.rglob(".*"))
    assert (source / EXPERIMENT / "tiny-llama" / "records.jsonl").exists()


def test_nothing_that_is_published_says_where_the_publishers_files_lie(places: tuple[Path, Path]) -> None:
    source, target = places
    file = str(source.parent / "models" / "own.gguf")
    command = ["python", "-m", "experiments.exp9", "--model", file, "--out", str(source / "mine")]
    folder = run_in(source, "own", "new", command=command)
    run = json.loads((folder / "run.json").read_text())
    run["model"]["id"] = file
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "table.md").write_text(f"own (`{file}`, 4-bit)\n")
    (folder / "files" / "page.html").write_text(f"<p>{file}</p>")
    assert published(places, "exp9") == 0
    found = texts(target / EXPERIMENT / "own")
    state = json.loads(found["run.json"])
    assert state["command"] == [*command[:4], "own.gguf", "--out", "mine"]
    assert state["model"]["id"] == "own.gguf"
    assert found["table.md"] == "own (`own.gguf`, 4-bit)\n"
    assert not any(str(source.parent) in text for text in found.values())
    assert json.loads((folder / "run.json").read_text())["command"] == command


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "stopped"}, "not complete (stopped)"),
        ({"validated": False}, "not validated"),
        ({"identity": {"config": {"limit": 2}}}, "measured with --limit 2"),
    ],
)
def test_what_is_not_fit_to_be_quoted_stops_all_unless_told(
    places: tuple[Path, Path], changes: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = places
    run_in(source, "tiny-qwen2", "new", **changes)
    before = texts(target)
    assert published(places, "all") == 2
    message = capsys.readouterr().err
    for part in ("nothing is published", f"tiny-qwen2: {said}", "--anyway"):
        assert part in message
    assert texts(target) == before
    assert published(places, "all", "--model", "tiny-llama") == 0
    assert not (target / EXPERIMENT / "tiny-qwen2").exists()
    assert published(places, "all", "--anyway") == 0
    assert (target / EXPERIMENT / "tiny-qwen2" / "table.md").read_text().startswith("new")


def test_names_that_are_not_there_are_named(places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["exp9_backpatching"], "did you mean 'exp9_back_patching'"),
        (["exp9", "--model", "huge"], "no run of huge there"),
        (["exp9", "--modle", "x"], "unrecognized arguments"),
    ):
        assert published(places, *arguments) == 2
        assert said in capsys.readouterr().err
    assert main(["all", "--from", str(places[0] / "nothing"), "--to", str(places[1])]) == 2
    assert "--from" in capsys.readouterr().err


def test_validation_reports_are_published_unless_they_failed(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = places
    (source / "validation").mkdir()
    (source / "validation" / "tiny-llama.md").write_text("tiny-llama: passed at level full")
    assert published(places, "validation") == 0
    assert (target / "validation" / "tiny-llama.md").is_file()
    (source / "validation" / "tiny-llama.md").write_text("tiny-llama: FAILED at level full")
    assert published(places, "validation") == 2
    assert "the model failed" in capsys.readouterr().err


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("step", range(6))
def test_an_end_at_any_step_leaves_the_old_or_the_new(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, exchange: bool, step: int
) -> None:
    source, target = (place / EXPERIMENT / "tiny-llama" for place in places)
    old, count = texts(target), iter(range(99))
    if not exchange:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)

    def stopping(function: Any) -> Any:
        def stopped(*arguments: Any, **options: Any) -> Any:
            if next(count) == step:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return stopped

    monkeypatch.setattr(publish, "write_atomically", stopping(files.write_atomically))
    monkeypatch.setattr(os, "rename", stopping(os.rename))
    monkeypatch.setattr(publish, "swap_folders", stopping(files.swap_folders))
    with contextlib.suppress(KeyboardInterrupt):
        replace_folder(source, target)
    monkeypatch.undo()
    new = {name: text for name, text in texts(source).items() if name in READ}
    assert texts(target) in (old, new)
    replace_folder(source, target)
    assert texts(target) == new


def test_a_full_disk_leaves_the_old_folder_and_nothing_else(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = (place / EXPERIMENT / "tiny-llama" for place in places)
    old = texts(places[1])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(RunError, match="the disk is full"):
        replace_folder(source, target)
    assert texts(places[1]) == old


@pytest.mark.parametrize(
    ("model_id", "most"), [("someone/a", publish.PICTURES), ("tiny-llama", publish.BENCH_PICTURES)]
)
def test_the_first_pictures_are_published_and_the_table_says_where_the_others_are(
    places: tuple[Path, Path], model_id: str, most: int
) -> None:
    source, target = places
    folder = source / EXPERIMENT / "tiny-llama"
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "model": {**run["model"], "id": model_id}}))
    links = []
    for number in range(most + 2):
        (folder / "figures" / f"p{number}.png").write_text("drawn")
        links.append(f"![p{number}](figures/p{number}.png)\n\nWhat picture {number} shows.\n")
    (folder / "table.md").write_text("\n".join(links))
    assert published(places, "exp9") == 0
    there = target / EXPERIMENT / "tiny-llama"
    assert len(list((there / "figures").iterdir())) == most
    table = (there / "table.md").read_text()
    assert re.findall(r"\]\((.*?)\)", table) == [f"figures/p{number}.png" for number in range(most)]
    assert f"`figures/p{most}.png` of the run shows:\n\nWhat picture {most} shows." in table
    assert f"](figures/p{most + 1}.png)" in (folder / "table.md").read_text()


def test_a_run_that_lacks_a_picture_is_said_and_the_published_one_stays(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = places
    old = texts(target)
    (source / EXPERIMENT / "tiny-llama" / "figures" / "heat.png").unlink()
    assert published(places, "exp9") == 2
    assert "heat.png cannot be read" in capsys.readouterr().err
    assert texts(target) == old
