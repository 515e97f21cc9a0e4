"""Shared fixtures. Importing mlx_interp first lets it open a fast BLAS before anything imports MLX."""

from __future__ import annotations

from pathlib import Path

import mlx_interp  # noqa: F401  isort: skip
import pytest

from mlx_interp.architectures import FAMILIES
from mlx_interp.model import Model
from tests.tiny import tiny_model

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest) -> Model:
    """A small random model of each family in turn."""
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def llama() -> Model:
    return tiny_model("llama")
