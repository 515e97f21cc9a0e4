"""Start-up: processor time until something is said, in units of `import mlx_lm`.

    python -m benchmarks.startup                     five rounds, about three minutes
    python -m benchmarks.startup --smoke             one round of three commands (CI)

Every command is a fresh process; its seconds are those that processors spent on it and its children, before and after
each an `import mlx_lm` in a process of its own. "A run's start" is what a study needs before it measures: library and
model there, one pass computed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable

from rich.console import Console

from benchmarks.timing import ratios
from mlx_interp.reporting import Table

PEER = "import mlx_lm"
STUDY = ["-m", "experiments.exp9_back_patching"]
STARTS = {
    "import mlx_interp": ["-c", "import mlx_interp"],
    "a run's start: tiny-llama loaded, one pass": ["-c", "import mlx_interp as mi; mi.load('tiny-llama').run('Hi')"],
    "a study's --help": [*STUDY, "--help"],
    "a misspelled model": [*STUDY, "--model", "gema-2-2b"],
    "a misspelled option": [*STUDY, "--modle", "tiny-llama"],
    "a misspelled study": ["-m", "mlx_interp", "run", "exp99"],
    "--dry-run of an unknown file": [*STUDY, "--dry-run", "--model", "missing.gguf"],
    "validation --help": ["-m", "validation", "--help"],
    "mlx-interp --help": ["-m", "mlx_interp", "--help"],
    "mlx-interp models": ["-m", "mlx_interp", "models"],
}


def children_seconds() -> float:
    """Processor seconds of all processes that this one has started and waited for."""
    spent = os.times()
    return spent.children_user + spent.children_system


def process(arguments: list[str]) -> Callable[[], object]:
    command = [sys.executable, *arguments]
    return lambda: subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    rounds = 1 if options.smoke else options.rounds
    chosen = list(STARTS.items())[:3] if options.smoke else list(STARTS.items())
    commands = {name: process(arguments) for name, arguments in chosen}
    seconds, found = ratios(process(["-c", PEER]), commands, rounds, clock=children_seconds)
    title = f"Start-up, in processor time of `{PEER}` ({seconds:.2f} s): median (range)"
    Console().print(
        Table(title, ["command", "ratio"], [[name, str(ratio)] for name, ratio in found.items()]).markdown()
    )


if __name__ == "__main__":
    main()
