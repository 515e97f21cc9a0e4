"""The suite catches faults in a trained language model too, where a first position outweighs all others by thirty."""

from __future__ import annotations

import pytest

import validation
from mlx_interp.loading.packaged import PACKAGED_MODELS
from tests.validation.fault_table import FAULTS, Fault, caught_on, loaded

REAL = "smollm2-135m"
CHOSEN = (
    *("mask missing: the future is seen", "RoPE left out", "attention scale wrong", "a layer is run twice"),
    *("captured layer is off by one", "patches land one position too far", "steering leaks into the next run"),
    *("interventions do nothing", "steering of one layer is ignored", "steering lands one layer too early"),
    *("a thousandth is lost behind a massive first position", "short prompts are read at the batch's last position"),
    *("sweep: heads in another order", "prompts together: a token sees other prompts"),
    *("cached generation: RoPE one position late", "BOS doubled", "lens without the last norm"),
)
"""One or more of every group of checks that a run is gated by."""
BY_NAME = {fault.name: fault for fault in FAULTS}
pytestmark = pytest.mark.skipif(
    not PACKAGED_MODELS[REAL].installed(), reason=f"{REAL} is not installed: make real, before make test"
)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [BY_NAME[name] for name in CHOSEN], ids=CHOSEN)
def test_a_fault_is_caught_where_a_real_model_runs(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    result = caught_on(loaded(REAL), fault, "quick", monkeypatch)
    assert result.status == "failed"
    assert result.measured != "an error", result.note


@pytest.mark.slow
def test_without_a_fault_the_same_checks_pass_on_a_real_model() -> None:
    report = validation.validate(loaded(REAL), "quick", only={BY_NAME[name].caught_by for name in CHOSEN})
    assert {result.status for result in report.results} == {"passed"}, report.failed
