"""The gate: what a model must pass before a study measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from mlx_interp.errors import ValidationFailed


class GateReport(Protocol):
    """What the validation gate returns: whether all that applies passed, and its figures for run.json."""

    @property
    def passed(self) -> bool: ...

    @property
    def summary(self) -> Mapping[str, Any]: ...


Gate = Callable[..., GateReport]
"""(model, level=, cache_dir=) -> GateReport."""


def passed(gate: Gate, model: Any, memory: Path | None) -> Mapping[str, Any]:
    """The gate's figures for run.json. memory: where what has passed is kept. Raises ValidationFailed."""
    report = gate(model, level="quick", cache_dir=memory)
    if not report.passed:
        checks = report.summary.get("checks", report.summary)
        failed = {name: found for name, found in checks.items() if str(found).startswith("failed")} or checks
        raise ValidationFailed(
            f"{model.name} did not pass validation, so nothing was measured:\n"
            + "".join(f"  {name}: {found}\n" for name, found in failed.items())
            + f"look at it with `python -m validation --model {model.name}`, or give --no-validate: "
            "the result is then marked UNVALIDATED"
        )
    return dict(report.summary)
