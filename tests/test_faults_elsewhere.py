"""Every test that docs/faults_elsewhere.md names exists: a renamed test must not leave a fault unguarded."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_fault_names_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs" / "faults_elsewhere.md").read_text(encoding="utf-8"))
    assert len(named) >= 20
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), (path, name)
