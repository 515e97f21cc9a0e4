"""What docs/stores.md shows runs as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from experiments.exp16_collect_activations import EXPERIMENT
from experiments.harness.runner import run
from mlx_interp.store.config import FIELDS, read_collection

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "stores.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks("python")), "docs/stores.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "ActivationStore('stores/first', tiny-llama, 5 sites" in printed
    assert "0 opinion 7 True" in printed


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 3
    for python, flag, module, *arguments in commands:
        assert (python, flag, module) == ("python", "-m", f"experiments.{EXPERIMENT.name}")
        with pytest.raises(SystemExit) as stopped:
            run(EXPERIMENT, [*arguments, "--limit", "12", "--checked", "3", "--no-validate", "--fresh"])
        assert stopped.value.code == 0
    made = {path.parent.name for path in (tmp_path / "stores" / "tiny-llama").glob("*/store.json")}
    assert made == {"sparse", "middle", "all", "collect_middle_embedded"}


def test_the_file_of_the_page_is_read(tmp_path: Path):
    (text,) = blocks("yaml")
    (tmp_path / "c.yaml").write_text(text)
    assert read_collection(tmp_path / "c.yaml").config.subset == "or-bench-toxic"
    assert set(yaml.safe_load(text)) == set(FIELDS)
