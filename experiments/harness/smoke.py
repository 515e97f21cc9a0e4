"""Every study's plain command on two prompts: `python -m experiments.harness.smoke`, in CI.

Each study runs as `mlx-interp run NAME --limit 2`, in a process of its own with one thread of linear algebra,
two at a time; exp6 on all default models, the others on one. Exit status 1 where one ends with another status than 0,
with what it said.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from experiments.harness import registry

ON_ALL_MODELS = "exp6_twohop_scaling"
MODEL = "tiny-qwen2"
AT_ONCE = 2
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SECONDS = 900
"""After which a study counts as hanging."""


def command(name: str) -> list[str]:
    """The plain command of a study."""
    return [sys.executable, "-m", "mlx_interp", "run", name, "--limit", "2"] + (
        [] if name == ON_ALL_MODELS else ["--model", MODEL]
    )


def tried(name: str) -> str:
    """Run a study; what is wrong with how it ended, empty where nothing is."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            command(name),
            env=os.environ | ONE_THREAD,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{name}: still running after {SECONDS} s"
    print(f"{name}: status {done.returncode} after {time.monotonic() - started:.0f} s", flush=True)
    return f"{name}: status {done.returncode}\n{done.stderr[-2000:]}" if done.returncode else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 if all studies end well, else 1."""
    parser = argparse.ArgumentParser(prog="python -m experiments.harness.smoke", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="EXPERIMENT", help="only these (default: all)")
    names = [registry.experiment(name).name for name in parser.parse_args(arguments).names] or registry.names()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        faults = [fault for fault in pool.map(tried, names) if fault]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
