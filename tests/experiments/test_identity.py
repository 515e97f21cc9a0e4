"""The code that a run's numbers depend on is part of its identity."""

from __future__ import annotations

from pathlib import Path

from experiments.exp9_back_patching import EXPERIMENT
from experiments.identity import ROOT, code_digest, code_files


def names(source: Path) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in code_files(source) if path.is_relative_to(ROOT)}


def test_what_measures_belongs_to_a_run_and_what_only_runs_it_does_not() -> None:
    found = names(EXPERIMENT.source)
    for part in ("experiments/two_hop/describe.py", "mlx_interp/engine/sweep.py", "mlx_interp/methods/lens.py"):
        assert part in found
    for part in ("experiments/runner.py", "mlx_interp/reporting/tables.py", "mlx_interp/loading/hub.py"):
        assert part not in found


def test_a_change_of_the_module_changes_its_digest_and_only_then(tmp_path: Path) -> None:
    source = tmp_path / "study.py"
    source.write_text("from mlx_interp.methods import lens\n")
    before = code_digest(source)
    assert ROOT / "mlx_interp" / "engine" / "forward.py" in code_files(source)
    assert code_digest(source) == before
    source.write_text("from mlx_interp.methods import lens  # changed\n")
    assert code_digest(source) != before
