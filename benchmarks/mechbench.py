"""Back-patching in mechbench-compute, the strongest other library on MLX, beside one sweep: seconds against seconds.

    python -m benchmarks.mechbench            Llama and Qwen 2 shapes, 66 pairs at the last of 16 and of 64 tokens
    python -m benchmarks.mechbench --smoke    Llama, 16 tokens, one round

mechbench-compute patches by hooks, one forward a pair. Both sides compute with the same mlx-lm model in one process.
It declares MLX for Macs alone, but its model runs wherever MLX does. Exit status 1 where logits differ.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from benchmarks.lens_peers import installed
from benchmarks.models import benchmark_model, benchmark_tokens
from benchmarks.timing import ratios
from mlx_interp import Model
from mlx_interp.patching.back_patching import back_patching_grid, back_patching_pairs
from mlx_interp.reporting import Table

BOUND = 1e-6
"""Relative difference allowed between the two grids."""
VERSION = "0.209.0"


def bench_grid(model: Model, tokens: list[int]) -> Callable[[], mx.array]:
    """mechbench-compute's grid at the last position: one run for the states, one for each pair."""
    from mechbench_compute.interventions import Patch
    from mechbench_compute.model import Model as Bench

    bench = Bench(model.mlx_model, None)
    ids, last = bench.make_ids(tokens), len(tokens) - 1
    names = [f"blocks.{layer}.resid_post" for layer in range(model.n_layers)]

    def run() -> mx.array:
        states = bench.run(ids, capture=names).cache
        rows = []
        for source, target in back_patching_pairs(model.n_layers, embedding=False):
            patch = Patch.activation(target, last, states[names[source]][:, last : last + 1])
            rows.append(bench.run(ids, interventions=[patch]).logits[0, last])
            mx.eval(rows[-1])
        return mx.stack(rows)

    return run


def own_grid(model: Model, tokens: list[int]) -> Callable[[], mx.array]:
    """The same in one sweep, states included."""

    def run() -> mx.array:
        logits = back_patching_grid(model, tokens, pairs=back_patching_pairs(model.n_layers, embedding=False))
        mx.eval(logits)
        return logits

    return run


def main() -> int:
    """Exit status 1 where the two grids differ."""
    options = parser().parse_args()
    families, lengths, rounds = (
        (["llama"], [16], 1) if options.smoke else (["llama", "qwen2"], [16, 64], options.rounds)
    )
    if not installed("mechbench_compute", "mlx_vlm"):
        print(f"mechbench-compute: not installed: pip install mechbench-compute=={VERSION} mlx-vlm")
        return 0
    rows: list[list[Any]] = []
    worst = 0.0
    for family in families:
        for n in lengths:
            model, tokens = benchmark_model(family), benchmark_tokens(n)
            ours, theirs = own_grid(model, tokens), bench_grid(model, tokens)
            mine, others = ours(), theirs()
            error = float(mx.linalg.norm(mine - others) / mx.linalg.norm(mine))
            seconds, found = ratios(ours, {"": theirs}, rounds, time.process_time)
            rows.append([family, n, f"{seconds:.3f}", str(found[""]), f"{error:.0e}"])
            worst = max(worst, error)
    columns = ["family", "tokens", "one sweep (s)", "mechbench-compute, times a sweep", "difference"]
    print(Table(f"66 pairs at the last position, mechbench-compute {VERSION}", columns, rows).markdown())
    return int(worst > BOUND)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.mechbench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--rounds", type=int, default=5, metavar="N", help="repetitions; the median is printed")
    made.add_argument("--smoke", action="store_true", help="Llama, 16 tokens, one round")
    return made


if __name__ == "__main__":
    sys.exit(main())
