"""What the two-hop study's main job costs: every pair of layers patched, ten tokens written after each, many prompts.

    python -m benchmarks.two_hop            20 prompts of 16 tokens, 66 pairs, on the 12-layer model
    python -m benchmarks.two_hop --smoke    two prompts: are the texts right, does the benchmark run?

Both sides run in this process: `sweep_generate` (all cells of a prompt as one batched decode) and the loop that other
libraries ask for (one generation per cell), the latter timed on a sample of cells. Their texts must be the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import mlx.core as mx
import numpy as np

from benchmarks.models import benchmark_model
from mlx_interp import Model
from mlx_interp.interventions import Intervention
from mlx_interp.patching.back_patching import back_patching_pairs, patches, states_at
from mlx_interp.reporting import Table

NEW_TOKENS, LENGTH, SAMPLE = 10, 16, 6


def cells(model: Model, tokens: list[int]) -> list[list[Intervention]]:
    """Every pair of layers at the last position, source above target."""
    states = states_at(model, tokens, LENGTH - 1)
    return patches(states, states, back_patching_pairs(model.n_layers, embedding=False), LENGTH - 1, "raw")


def whole_grid(model: Model, tokens: list[int]) -> tuple[list[list[int]], float, int]:
    """Texts of all cells, seconds, and peak bytes beside what was held before."""
    mx.clear_cache()
    mx.reset_peak_memory()
    before, start = mx.get_active_memory(), time.perf_counter()
    written = model.sweep_generate(tokens, cells(model, tokens), max_tokens=NEW_TOKENS)
    return [one.tokens for one in written], time.perf_counter() - start, mx.get_peak_memory() - before


def one_cell(model: Model, tokens: list[int], variant: list[Intervention]) -> tuple[list[int], float]:
    start = time.perf_counter()
    (written,) = model.generate(tokens, interventions=variant, max_tokens=NEW_TOKENS)
    return written.tokens, time.perf_counter() - start


def main() -> int:
    """Exit status 1 if a text differs from that of its own run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.two_hop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=20, metavar="N")
    parser.add_argument("--family", default="llama", choices=["llama", "gemma2", "qwen2"])
    parser.add_argument("--smoke", action="store_true", help="two prompts")
    options = parser.parse_args()
    model = benchmark_model(options.family)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 8192, LENGTH).tolist() for _ in range(2 if options.smoke else options.prompts)]
    whole_grid(model, prompts[0])  # warm-up
    seconds, naive, peaks, wrong = [], [], [], 0
    for tokens in prompts:
        texts, took, peak = whole_grid(model, tokens)
        variants = cells(model, tokens)
        sample = [int(i) for i in np.linspace(0, len(variants) - 1, SAMPLE)]
        alone = [one_cell(model, tokens, variants[i]) for i in sample]
        wrong += sum(texts[i] != text for i, (text, _) in zip(sample, alone, strict=True))
        seconds.append(took)
        peaks.append(peak)
        naive.append(statistics.mean(time for _, time in alone) * len(variants))
    half = len(prompts) // 2
    table = Table(
        f"{len(variants)} cells x {NEW_TOKENS} tokens for each of {len(prompts)} prompts of {LENGTH} tokens",
        ["family", "prompts", "one batched decode a prompt (s)", "one generation a cell (s)", "ratio", "peak (MB)"],
        [
            [
                f"{options.family}, {name}",
                len(part),
                sum(seconds[part.start : part.stop]),
                sum(naive[part.start : part.stop]),
                statistics.median(n / s for n, s in list(zip(naive, seconds, strict=True))[part.start : part.stop]),
                max(peaks[part.start : part.stop]) / 1e6,
            ]
            for name, part in (("first half", range(half)), ("all", range(len(prompts))))
        ],
        notes=[
            f"{wrong} of {SAMPLE * len(prompts)} sampled texts differ from their own runs. Times are sums; the "
            "ratio is the median over prompts; the peak is beside the weights, the same however many prompts."
        ],
    )
    print(table.markdown())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
