"""Shared fixtures. Importing mlx_interp first lets it open a fast BLAS before anything imports MLX."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import mlx_interp  # noqa: F401  isort: skip
import matplotlib
import pytest
from hypothesis import settings
from matplotlib.figure import Figure

from mlx_interp.architectures import FAMILIES
from mlx_interp.model import Model
from mlx_interp.reporting import plots
from tests.reporting.canvas import beyond_canvas, overlapping
from tests.tiny import PACKED, RECENT, each_family, packed_model, tiny_model

# The same examples in every run: a red test is red for everyone. HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(scope="session", autouse=True)
def _figures() -> Iterator[None]:
    """Figures of few dots and no PDF: drawing took a third of a study's test. Tests of the files turn both on.

    Whatever a test draws lies whole on its canvas, and no text lies on another.
    """
    drawn = plots._drawn

    def checked(figure: Figure, ending: str, metadata: Mapping[str, None]) -> bytes:
        with matplotlib.rc_context(plots.STYLE):
            faults = [*beyond_canvas(figure), *overlapping(figure)]
        assert not faults, faults
        return drawn(figure, ending, metadata)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "DPI", 40)
        patch.setattr(plots, "VECTOR", False)
        patch.setattr(plots, "_drawn", checked)
        yield


@pytest.fixture(
    scope="session",
    params=[
        *each_family(FAMILIES.keys() - RECENT),
        *(pytest.param(f"{family}, packed", marks=pytest.mark.slow) for family in PACKED),
    ],
)
def model(request: pytest.FixtureRequest) -> Model:
    """A small random model of each family in turn, two in little memory too; recent ones have tests of their own."""
    family, _, packed = request.param.partition(", ")
    return packed_model(family) if packed else tiny_model(family)


@pytest.fixture(scope="session")
def llama() -> Model:
    return tiny_model("llama")
