"""Runs the checks, remembers a pass, and stops what asks for one and does not get it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mlx_interp import Model
from mlx_interp.architectures import PACKAGED
from mlx_interp.deferred import mx
from mlx_interp.loading.proofs import layer_classes
from mlx_interp.reporting.files import files_digest, make_folder, write_atomically
from mlx_interp.studies import LIBRARY
from validation import directions, exactness, generation, knowledge, numerics, steering, tokens, windows
from validation.check import LEVELS, Check, Finding, Level, Result, Subject

CHECKS: list[Check] = [
    *(*exactness.CHECKS, *steering.CHECKS, *numerics.CHECKS, *generation.CHECKS, *windows.CHECKS),
    *(*knowledge.CHECKS, *tokens.CHECKS, *directions.CHECKS),
]
DECIDING = ("mlx", "mlx-lm")
"""Packages whose version decides what a model computes."""
SOURCES = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Report:
    """What the suite found for one model."""

    model: str
    level: str
    results: tuple[Result, ...]
    conditions: str = ""
    """What it was measured under: dtype, bits, device, packages, weights."""
    remembered: bool = False
    """The pass is of an earlier run with the same weights, code and device."""

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.status == "failed"]

    @property
    def passed(self) -> bool:
        """Everything that applies passed, and something applied."""
        return not self.failed and any(result.status == "passed" for result in self.results)

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        facts = {"model": self.model, "level": self.level, "passed": self.passed, "conditions": self.conditions}
        return {**facts, "results": [result.as_data() for result in self.results]}

    @property
    def summary(self) -> dict[str, Any]:
        """For run.json: each check's status and figure."""
        checks = {r.name: f"{r.status}: {r.measured} (bound {r.bound})" for r in self.results}
        checks |= {r.name: f"{checks[r.name]}; {r.note}" for r in self.results if r.note}
        return {"level": self.level, "passed": self.passed, "checks": checks}


def validate(
    model: Model,
    level: Level = "quick",
    progress: Callable[[str], None] = lambda name: None,
    *,
    only: Collection[str] = (),
) -> Report:
    """Runs every check of a level on a model, or those named by `only`.

    A check that raises has failed, with the error as its note.
    """
    if level not in LEVELS:
        raise ValueError(f"level is one of {', '.join(LEVELS)}, not {level!r}")
    subject = Subject(model, level)
    results = []
    for check in (check for check in CHECKS if check.belongs_to(level) and (not only or check.name in only)):
        progress(check.name)
        results.append(_result(check, subject))
    return Report(model.name, level, tuple(results), _conditions(model))


def gate(model: Model, *, level: Level = "quick", cache_dir: Path | None = None) -> Report:
    """A report for an experiment, remembered once passed: by weights, dtype, package versions, this code and device.

    A model of a registered family is checked every time: what describes it lies outside the code that is hashed, and
    may change from one run to the next. The caller stops when `passed` is false.
    """
    keep = cache_dir is not None and model.family in PACKAGED
    remembered = cache_dir / f"{_key(model, level)}.json" if cache_dir is not None and keep else None
    if remembered is not None and (known := _read(remembered)) is not None:
        return known
    report = validate(model, level)
    if report.passed and remembered is not None:
        make_folder(remembered.parent)
        # Studies that begin at the same time remember the same proof.
        write_atomically(remembered, json.dumps(report.as_data(), indent=1) + "\n", writer=f".{os.getpid()}")
    return report


def _result(check: Check, subject: Subject) -> Result:
    try:
        found = check.measure(subject)
    except Exception as error:  # a check that cannot be carried out has found something
        found = Finding("failed", "an error", "none", f"{type(error).__name__}: {error}")
    return Result(
        check.name,
        found.status,
        found.measured,
        found.bound,
        found.note,
        check.protects,
        check.reason(subject),
        check.look_at,
    )


def _conditions(model: Model) -> str:
    bits = model.quantization or "unquantised"
    if model.quantization and "Quantized" not in layer_classes(model):
        bits += ", dequantised"
    dtype = str(model.network.dtype).rpartition(".")[2]
    packages = [f"{name} {metadata.version(name)}" for name in DECIDING]
    weights = f"weights {model.weights_hash[:12]}" if model.weights_hash else "weights without a hash"
    return "; ".join([model.model_id, dtype, bits, mx.default_device().type.name, *packages, weights])


def _key(model: Model, level: str) -> str:
    versions = [metadata.version(name) for name in DECIDING]
    library = (path for path in LIBRARY.rglob("*.py") if "_studies" not in path.parts)  # in a wheel they lie inside
    code = files_digest([*SOURCES.rglob("*.py"), *library], LIBRARY.parent)
    facts = [model.weights_hash or model.model_id, level, str(model.network.dtype), str(mx.default_device())]
    facts += [layer_classes(model), *versions, code]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:24]


def _read(path: Path) -> Report | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = tuple(Result(**result) for result in content["results"])
        report = Report(content["model"], content["level"], results, content["conditions"], remembered=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return report if report.passed else None
