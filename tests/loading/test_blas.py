"""The fast BLAS is opened before MLX is loaded, and never at the price of an error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="nothing to open on macOS")


def python(code: str, **variables: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip() + done.stderr.strip()


def test_the_module_does_not_import_mlx() -> None:
    code = (
        "import importlib.util, sys, mlx_interp.errors as e, pathlib;"
        "spec = importlib.util.spec_from_file_location('blas', pathlib.Path(e.__file__).parent / 'loading/blas.py');"
        "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('mlx')];"
        "module = importlib.util.module_from_spec(spec); sys.modules['blas'] = module; spec.loader.exec_module(module);"
        "print(any(name.startswith('mlx') for name in sys.modules))"
    )
    assert python(code) == "False"


@on_linux
def test_the_switch_turns_it_off() -> None:
    code = "import mlx_interp; from mlx_interp.loading.blas import blas_status; print(blas_status())"
    assert "switched off by MLX_INTERP_BLAS=none" in python(code, MLX_INTERP_BLAS="none")


@on_linux
def test_a_library_that_does_not_open_is_a_warning() -> None:
    out = python("import mlx_interp", MLX_INTERP_BLAS="/no/such/library.so")
    assert "RuntimeWarning: MLX_INTERP_BLAS=/no/such/library.so" in out


@on_linux
def test_importing_mlx_first_is_noticed() -> None:
    code = (
        "import mlx.core, mlx_interp; from mlx_interp.loading.blas import blas_status as s;"
        "print(s().library is None or 'import mlx_interp first' in s().note)"
    )
    shown = python(code)
    assert shown.startswith("True")
    assert "RuntimeWarning: mlx was imported before mlx_interp" in shown
    assert "write `import mlx_interp  # isort: skip` above" in shown


@on_linux
def test_the_opened_library_is_the_one_that_mlx_uses() -> None:
    """Two orders of magnitude lie between the wheel's BLAS and a fast one: 40 GFLOP/s is far from both."""
    code = (
        "import mlx_interp, time, mlx.core as mx; from mlx_interp.loading.blas import load_fast_blas as f;"
        "a = mx.random.normal((768, 768)); mx.eval(a, a @ a); t = time.perf_counter(); mx.eval(a @ a);"
        "print(f() is None or 2 * 768**3 / (time.perf_counter() - t) > 15e9)"
    )
    assert python(code) == "True"


ENTRY_POINTS = [
    *("experiments.exp9_back_patching", "experiments.exp9_back_patching.__main__", "experiments.harness.runner"),
    *("validation.__main__", "validation.check"),
]


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("module", ENTRY_POINTS)
def test_entry_points_open_the_blas_before_mlx_is_imported(module: str) -> None:
    code = f"import {module}; from mlx_interp.loading import blas; print(blas.blas_status().note != blas.TOO_LATE)"
    assert python(code).splitlines()[-1] == "True"
