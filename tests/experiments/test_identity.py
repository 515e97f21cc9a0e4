"""The code that a run's numbers depend on is part of its identity, and no other."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from experiments.harness import code, registry
from experiments.harness.code import ALWAYS, RUNNING, code_digest, measuring_code, report_digest

STUDY = '''"""A study."""

from experiments.harness.experiment import Experiment
from experiments.exp9_back_patching import back_patching_report as report
from mlx_interp.lenses import logit as lens

SHARE = 0.5  # of the queries


def kept(items):
    """The first of them."""
    return items[: int(SHARE * len(items))]


def measure(model, item, config):
    for one in kept([item]):
        yield {"value": lens.logit_lens(model, one)}


def items(model, config, earlier):
    return [1, 2]


def table(records, config):
    return len(records) + 1


EXPERIMENT = Experiment(name="exp0", stages=[("first", items, measure)], tables=[table, report.fix_table])
'''


def digest(tmp_path: Path, *changes: tuple[str, str]) -> str:
    text = STUDY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    source = tmp_path / "study.py"
    source.write_text(text)
    return code_digest(source)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SHARE = 0.5", "SHARE = 0.25"),
        ("items[: int", "items[1 : int"),
        ('"value":', '"score":'),
        ("return [1, 2]", "return [1, 2, 3]"),
        ("from mlx_interp.lenses import logit as lens", "from mlx_interp.patching import back_patching as lens"),
        ("[1, 2]\n", "[1, 2]\n\n\nSHARE += 0.1\n"),
        ("def table", "items.extra = True\n\n\ndef table"),
    ],
)
def test_what_can_change_a_number_changes_the_digest(tmp_path: Path, old: str, new: str) -> None:
    assert digest(tmp_path, (old, new)) != digest(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# of the queries", "# of all queries"),
        ('"""The first of them."""', '"""The first ones,\n    in their order."""'),
        ("items[: int(SHARE * len(items))]", "items[\n        : int(SHARE * len(items))\n    ]"),
        ("len(records) + 1", "len(records) + 2"),
        ("report.fix_table", "report.other_table"),
        ("def table", "def unused():\n    return 3\n\n\ndef table"),
    ],
)
def test_comments_layout_and_tables_do_not(tmp_path: Path, old: str, new: str) -> None:
    before, source = digest(tmp_path), tmp_path / "study.py"
    report = report_digest(source)
    assert digest(tmp_path, (old, new)) == before
    assert report_digest(source) != report


def test_a_module_that_states_no_experiment_counts_whole(tmp_path: Path) -> None:
    source = tmp_path / "study.py"
    found = []
    for text in ("def table():\n    return 1\n", "def table():\n    return 2\n"):
        source.write_text(text)
        found.append(code_digest(source))
    assert len(set(found)) == 2


def parts(name: str) -> tuple[set[str], set[str]]:
    """Modules, and definitions of the studies, that an experiment measures by."""
    source = Path(str(importlib.import_module(f"experiments.{name}").__file__))
    found = measuring_code(source)
    return {module for module, _ in found}, {f"{module}.{name}" for module, name in found}


def test_exp9_measures_by_its_stages_and_the_engine_and_not_by_its_tables() -> None:
    modules, definitions = parts("exp9_back_patching")
    for module in ("mlx_interp.engine.sweep_batch", "mlx_interp.engine.forward", "mlx_interp.lenses.logit", *ALWAYS):
        assert module in modules
    for module in (
        *("experiments.harness.runner", "mlx_interp.reporting.tables", "mlx_interp.loading.hub"),
        *("experiments.exp9_back_patching.back_patching_report", "mlx_interp.loading.names"),
    ):
        assert module not in modules
    assert "experiments.exp9_back_patching.describe.measure" in definitions
    assert "experiments.exp9_back_patching.plan" not in definitions


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def test_every_study_measures_by_more_than_its_own_module(name: str) -> None:
    modules, definitions = parts(name)
    assert f"experiments.{name}.<measured by>" in definitions
    assert {"mlx_interp.model", "mlx_interp.engine.forward", "mlx_interp.loading.configs"} <= modules
    assert not [
        module for module in modules if module.startswith(("mlx_interp.reporting", "experiments.harness.report"))
    ]


def test_every_module_that_the_digest_names_is_there() -> None:
    for name in (*ALWAYS, *RUNNING):
        assert code._file_of(name) is not None, name
