"""Families that a user describes in a file, for every command: `MLX_INTERP_FAMILIES=starcoder2.py python -m ...`."""

from __future__ import annotations

import functools
import os
import runpy

from mlx_interp.errors import ConfigError, MlxInterpError

SWITCH = "MLX_INTERP_FAMILIES"
"""Environment variable: Python files that call `mi.register`, separated as in PATH. Workers and ranks inherit it."""


def register_named_files() -> None:
    """Runs the files that the environment names, each once. Raises ConfigError for one that cannot be run."""
    for path in os.environ.get(SWITCH, "").split(os.pathsep):
        if path:
            _run(os.path.abspath(path))


@functools.cache
def _run(path: str) -> None:
    try:
        runpy.run_path(path)
    except MlxInterpError:
        raise
    except Exception as error:
        raise ConfigError(f"{SWITCH} names {path}: {type(error).__name__}: {error}") from error
