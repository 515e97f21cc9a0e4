"""What is a family's own stands in its description: loading asks no family for its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlx_interp.architectures import FAMILIES

LOADING = Path(__file__).resolve().parents[2] / "mlx_interp" / "loading"
READERS = ("configs.py", "weights.py", "rope.py", "load.py", "checkpoint.py", "profile.py")


@pytest.mark.parametrize("name", READERS)
def test_loading_names_no_family(name: str) -> None:
    text = (LOADING / name).read_text(encoding="utf-8")
    named = [family for family in FAMILIES if re.search(rf"[\"']{re.escape(family)}[\"']", text)]
    assert not named, f"loading/{name} has something of {', '.join(named)}: make it a field of Family"


def test_families_say_what_loading_does_for_them() -> None:
    assert FAMILIES["gpt2"].read_as == {"n_positions": "n_ctx"}
    assert [name for name, family in FAMILIES.items() if family.dropped_prefix] == ["gpt2"]
    assert {name for name, family in FAMILIES.items() if family.pattern_of_types} == {
        "gemma3_text",
        "gemma3",
        "cohere2",
        "qwen3_5",
    }
    assert [name for name, family in FAMILIES.items() if family.rereads] == ["phi3"]
