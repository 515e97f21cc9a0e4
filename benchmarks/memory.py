"""Memory profiles: peak memory and time of `memory="auto"` and `memory="low"`, each in fresh processes.

    python -m benchmarks.memory                                      SmolLM2 135M (`make real`), two rounds
    python -m benchmarks.memory --model qwen.gguf --rounds 3         any name that `load` takes, repeatable
    python -m benchmarks.memory --smoke                              an embedded model, one round (CI)

A process loads the model, runs a forward of 16 tokens and a sweep of 66 pairs of layers at the last token and in the
middle (position 8), and writes 8 tokens. *peak* is the resident memory of that process at its highest (Linux's VmHWM),
after loading and at the end; *MLX* what MLX's allocator had at its highest. Seconds are those of the processor, the
least of two after one that is not counted; ratios are of the two processes of a round, one after the other. The
benchmark exits with status 1 where logits of the two profiles differ by more than 1e-5 of their size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx_interp as mi  # isort: skip
import mlx.core as mx
import numpy as np
from rich.console import Console

from benchmarks.timing import Ratio
from experiments.harness.identity import peak_memory
from mlx_interp import Patch
from mlx_interp.loading.profile import MEMORY
from mlx_interp.reporting import Table

N_TOKENS, N_PAIRS, N_WRITTEN = 16, 66, 8
POSITIONS = {"last": N_TOKENS - 1, "middle": N_TOKENS // 2}
BOUND = 1e-5


def measured(name: str, memory: str, out: Path) -> dict[str, Any]:
    """Bytes and seconds of one profile in this process; logits go to a file."""
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where nothing is quantised it says so
        model = mi.load(name, memory=memory)  # type: ignore[arg-type]
    found: dict[str, Any] = {"load": time.process_time() - started, "held": model.weight_bytes}
    found["peak after loading"] = peak()
    tokens = np.random.default_rng(0).integers(10, min(model.d_vocab, 50_000), N_TOKENS).tolist()
    states = model.run(tokens, capture="resid_post")
    pairs = [(s, t) for t in range(model.n_layers) for s in range(t + 1, model.n_layers)][:N_PAIRS]
    computed: dict[str, Callable[[], Any]] = {"forward": lambda: model.run(tokens, logits="all").logits}
    for place, at in POSITIONS.items():
        variants = [[Patch(f"resid_post.{t}", states[f"resid_post.{s}"][0, at], at)] for s, t in pairs]
        computed[f"sweep, {place}"] = lambda variants=variants: model.sweep(tokens, variants)  # type: ignore[misc]
    computed["written"] = lambda: mx.array(model.generate(tokens, max_tokens=N_WRITTEN)[0].tokens)
    logits: dict[str, Any] = {what: np.asarray(compute()) for what, compute in computed.items()}
    for what, compute in computed.items():
        found[what] = min(_seconds(compute) for _ in range(2))
    np.savez(out, **logits)
    return {**found, "peak": peak(), "MLX": mx.get_peak_memory()}


def _seconds(compute: Callable[[], Any]) -> float:
    started = time.process_time()
    mx.eval(compute())
    return time.process_time() - started


def peak() -> int:
    """Bytes of this process at its highest; what `getrusage` says begins with the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_memory({})["process"]
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def in_a_process(name: str, memory: str, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", "--model", name, "--one", memory, "--out", str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def difference(folder: Path) -> float:
    """The largest difference of the two profiles' logits, as a share of their size."""
    auto, low = (np.load(folder / f"{memory}.npz") for memory in MEMORY)
    return max(float(np.abs(auto[what] - low[what]).max() / np.abs(auto[what]).max()) for what in auto.files)


def rows_of(name: str, rounds: int) -> tuple[list[list[Any]], list[Any], float]:
    """A row of memory a profile, the row of times, and the largest difference of logits."""
    found: dict[str, list[dict[str, Any]]] = {memory: [] for memory in MEMORY}
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for memory in MEMORY:
                found[memory].append(in_a_process(name, memory, Path(folder) / f"{memory}.npz"))
            worst = max(worst, difference(Path(folder)))
    short = Path(name).stem
    sizes = [
        [short, memory, *(round(max(one[key] for one in found[memory]) / 1e6) for key in SIZES)] for memory in MEMORY
    ]
    times: list[Any] = [short]
    for key in ("load", "forward", *(f"sweep, {place}" for place in POSITIONS), "written"):
        pairs = zip(*(found[memory] for memory in MEMORY), strict=True)
        shares = [low[key] / auto[key] for auto, low in pairs]
        times.append(str(Ratio(statistics.median(shares), min(shares), max(shares))))
    return sizes, [*times, f"{worst:.0e}" if worst else "0"], worst


SIZES = ("held", "peak after loading", "peak", "MLX")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", metavar="NAME", help="repeatable (default: smollm2-135m)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--one", choices=MEMORY, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = ["tiny-qwen2"] if options.smoke else options.model or ["smollm2-135m"]
    if options.one:
        print(json.dumps(measured(names[0], options.one, options.out)))
        return 0
    sizes: list[list[Any]] = []
    times: list[list[Any]] = []
    worst = 0.0
    for name in names:
        of_model, row, error = rows_of(name, 1 if options.smoke else options.rounds)
        sizes += of_model
        times.append(row)
        worst = max(worst, error)
    console = Console(width=200)
    heads = ["model", "memory", "weights held", "peak of loading", "peak with runs", "MLX's own peak"]
    console.print(Table("Memory of two profiles (MB)", heads, sizes).markdown(), soft_wrap=True)
    heads = [
        "model",
        "loading",
        "forward",
        *(f"66 pairs, {place}" for place in POSITIONS),
        f"{N_WRITTEN} tokens written",
    ]
    heads.append("difference of logits")
    title = "Seconds with memory='low', in those without: median (range)"
    console.print(Table(title, heads, times).markdown(), soft_wrap=True)
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
