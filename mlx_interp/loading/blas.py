"""A fast BLAS for MLX on Linux, opened before `mlx.core` is imported.

MLX's Linux wheel brings the reference BLAS, which reaches 5 GFLOP/s on two cores where MKL or OpenBLAS reach 270. Its
library resolves `cblas_sgemm` through the dynamic linker, so a faster BLAS whose symbols are global *before* MLX is
loaded is used in its place. This module therefore must not import mlx, and runs first of all: see
`mlx_interp/loading/__init__.py`. On macOS there is nothing to do: MLX uses Metal and Accelerate.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SWITCH = "MLX_INTERP_BLAS"
"""Environment variable: "none", "mkl", "openblas" or the path of a library; unset means the first that opens."""

TOO_LATE = "mlx was imported before mlx_interp and keeps the BLAS it bound: import mlx_interp first"
SORTED = "where isort or ruff put it second, write `import mlx_interp  # isort: skip` above"

SYSTEM_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
)
MKL_FOLDERS = ("/opt/intel/oneapi/mkl/latest/lib", *SYSTEM_FOLDERS)
OPENBLAS_FOLDERS = tuple(
    folder + build for folder in SYSTEM_FOLDERS for build in ("/openblas-pthread", "/openblas-openmp", "")
)


@dataclass(frozen=True)
class BlasStatus:
    """What was opened, and what a user should know about it."""

    library: str | None
    """Kind and path, e.g. "MKL (/venv/lib/libmkl_rt.so.3)", or None when MLX keeps its own."""
    note: str = ""
    """Why nothing was opened, or why what was opened is not in use; "" when all is well."""


def load_fast_blas() -> str | None:
    """Open the fastest BLAS there is with global symbols; its kind and path, or None. Only the first call acts."""
    return blas_status().library


@functools.cache
def blas_status() -> BlasStatus:
    """What `load_fast_blas` did. A library that cannot be opened is a note, never an error: MLX has its own."""
    if sys.platform != "linux":
        return BlasStatus(None, "not needed: MLX uses Metal and Accelerate here")
    wanted = os.environ.get(SWITCH, "").strip()
    if wanted.lower() == "none":
        return BlasStatus(None, f"switched off by {SWITCH}=none")
    too_late = "mlx.core" in sys.modules
    choose_thread_count()
    failures = []
    for kind, path in libraries(wanted):
        if kind == "MKL":
            choose_mkl_threads(path)
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            failures.append(str(error))
            continue
        if too_late:
            warnings.warn(
                f"{TOO_LATE} ({SORTED}): matrix products are some 50 times slower", RuntimeWarning, stacklevel=2
            )
        return BlasStatus(f"{kind} ({path})", TOO_LATE if too_late else "")
    note = "; ".join(failures) or "no MKL or OpenBLAS found"
    if wanted:
        note = f"{SWITCH}={wanted}: {note}"
        warnings.warn(f"{note}; MLX keeps its own, slow BLAS", RuntimeWarning, stacklevel=2)
    return BlasStatus(None, note)


def libraries(wanted: str = "") -> Iterator[tuple[str, str]]:
    """Kind and path of every BLAS worth opening, best first.

    wanted: "" for all, "mkl" or "openblas" for one kind, else the path of a library.
    """
    if wanted and wanted.lower() not in ("mkl", "openblas"):
        yield ("MKL" if "mkl" in Path(wanted).name else "BLAS"), wanted
        return
    if wanted.lower() in ("", "mkl"):
        for path in found("libmkl_rt.so*", (f"{sys.prefix}/lib", *MKL_FOLDERS)):
            yield "MKL", path
    if wanted.lower() in ("", "openblas"):
        named = ctypes.util.find_library("openblas")
        if named:
            yield "OpenBLAS", named
        for path in found("libopenblas*.so*", (f"{sys.prefix}/lib", *OPENBLAS_FOLDERS)):
            yield "OpenBLAS", path


def found(pattern: str, folders: tuple[str, ...]) -> list[str]:
    """Libraries matching a pattern: folders in the order given, newest version first inside each."""
    return [str(path) for folder in folders for path in sorted(Path(folder).glob(pattern), reverse=True)]


def choose_mkl_threads(path: str) -> None:
    """Choose MKL's threading library, unless the user has.

    MKL ends the process when the threading library it wants is missing, and torch brings an OpenMP of its own: Intel's
    OpenMP beside MKL is the one that works next to torch whichever is imported first; without it, one thread.
    """
    beside = Path(path).resolve().parent / "libiomp5.so"
    there = beside.exists() or ctypes.util.find_library("iomp5") is not None
    os.environ.setdefault("MKL_THREADING_LAYER", "INTEL" if there else "SEQUENTIAL")


def choose_thread_count() -> None:
    """Half of the cores for the BLAS, unless the user has chosen.

    A BLAS waits for its slowest thread after every product. Where another process holds a core, threads on all cores
    made a small model's forward ten times slower, and on an idle machine they gained a fifth.
    """
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    for name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, os.environ.get("OMP_NUM_THREADS", threads))


def install_hint() -> str | None:
    """The command that brings a fast BLAS to this machine, or None where none is needed."""
    if sys.platform != "linux" or load_fast_blas():
        return None
    if platform.machine() == "x86_64":
        return f"{sys.executable} -m pip install mkl"
    return "sudo apt install libopenblas0    # or your distribution's OpenBLAS"
