"""What a sweep costs, in plain forward passes (mlx-lm's own) of the same process.

    python -m benchmarks.sweep                       all families, 16 and 64 tokens, other libraries where installed
    python -m benchmarks.sweep --model smollm2-135m --tokens 8    a real model: all 435 pairs, all 270 heads
    python -m benchmarks.sweep --smoke               one family, quickly: is the sweep right, does the benchmark run?

The grid is back-patching over all pairs of layers (66), the heads are every head's z replaced alone (96). "bound" is
the cost of the matrix products that variants cannot share, clean pass included; "naive" is one of our own runs per
variant, timed on a sample of them. Every sweep is compared with the naive runs; exit status 1 if one differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
from rich.console import Console

from benchmarks.models import CLASSES, benchmark_model, benchmark_tokens
from benchmarks.others import contestants
from benchmarks.timing import Ratio, ratios
from mlx_interp import Intervention, Model, Patch, load
from mlx_interp.patching.back_patching import back_patching_pairs, patches, states_at
from mlx_interp.reporting import Table

BOUND = 1e-4
"""Relative error allowed between a sweep and the naive runs, float32."""
SAMPLE = 11
"""Every so-manieth variant is run alone, for the comparison and for the time of the naive loop."""

Variants = list[list[Intervention]]
Clock = Callable[[], float]


def grid(model: Model, tokens: list[int], position: int) -> Variants:
    """Every pair of layers, source above target."""
    states = states_at(model, tokens, position)
    return patches(states, states, back_patching_pairs(model.n_layers, embedding=False), position, "raw")


def heads(model: Model, tokens: list[int], position: int) -> Variants:
    """Every head's z replaced by a random vector, in the layers that have attention."""
    values = mx.random.normal((model.n_layers, model.n_heads, model.d_head), key=mx.random.key(1))
    mx.eval(values)
    return [
        [Patch(f"z.{layer}", values[layer, head], position, heads=head)]
        for layer in model.network.layers_with("z")
        for head in range(model.n_heads)
    ]


def worst_error(model: Model, tokens: list[int], variants: Variants) -> float:
    """The largest relative error of a sampled variant of the sweep against its own run."""
    swept = model.sweep(tokens, variants)
    errors = []
    for row in range(0, len(variants), SAMPLE):
        alone = model.run(tokens, interventions=variants[row]).logits
        assert alone is not None
        errors.append(float(mx.linalg.norm(swept[row] - alone[0]) / mx.linalg.norm(alone)))
    return max(errors)


def measure(model: Model, family: str, n_tokens: int, rounds: int, clock: Clock) -> dict[str, Any]:
    """All ratios of one model and length."""
    tokens = benchmark_tokens(n_tokens)
    batch = mx.array([tokens])
    sweeps = {
        (f"{len(variants)} {kind}", where): variants
        for kind, make in (("pairs", grid), ("heads", heads))
        for where, position in (("last", n_tokens - 1), ("middle", n_tokens // 2))
        for variants in [make(model, tokens, position)]
    }
    timed: dict[str, Any] = {
        "run": lambda: model.run(tokens, logits="all"),
        "capture": lambda: model.run(tokens, capture="resid_post", logits="all"),
    }
    for (kind, where), variants in sweeps.items():
        timed[f"{kind}, {where}"] = lambda variants=variants: model.sweep(tokens, variants)
        sample = variants[::SAMPLE]
        timed[f"naive {kind}, {where}"] = lambda sample=sample: [model.run(tokens, interventions=v) for v in sample]
    seconds, found = ratios(lambda: mx.eval(model.mlx_model(batch)), timed, rounds, clock)
    rows = []
    for (kind, where), variants in sweeps.items():
        scale = len(variants) / len(variants[::SAMPLE])
        bound = model.cost(tokens, variants).forward_passes
        mx.reset_peak_memory()
        held = mx.get_active_memory()
        error = worst_error(model, tokens, variants)
        rows.append(
            {
                "sweep": kind,
                "position": where,
                "ratio": found[f"{kind}, {where}"],
                "bound": bound,
                "naive": found[f"naive {kind}, {where}"].median * scale,
                "error": error,
                "peak_mb": (mx.get_peak_memory() - held) / 2**20,
            }
        )
    return {"family": family, "tokens": n_tokens, "seconds": seconds, "found": found, "sweeps": rows}


def sweep_table(results: list[dict[str, Any]]) -> Table:
    rows = [
        [
            result["family"],
            result["tokens"],
            row["sweep"],
            row["position"],
            str(row["ratio"]),
            f"{row['bound']:.2f}",
            f"{row['ratio'].median / row['bound']:.2f}",
            f"{row['naive']:.0f}",
            f"{row['naive'] / row['ratio'].median:.1f}",
            f"{row['peak_mb']:.0f}",
            f"{row['error']:.0e}",
        ]
        for result in results
        for row in result["sweeps"]
    ]
    return Table(
        "Sweeps, in plain forward passes: median (range)",
        [
            *("family", "tokens", "variants", "position", "sweep", "bound"),
            *("sweep / bound", "naive", "naive / sweep", "peak (MB)", "error"),
        ],
        rows,
    )


def run_table(results: list[dict[str, Any]]) -> Table:
    rows = [
        [result["family"], result["tokens"], str(result["found"]["run"]), str(result["found"]["capture"])]
        for result in results
    ]
    return Table(
        "One run, in plain forward passes", ["family", "tokens", "run", "run, every resid_post captured"], rows
    )


def other_table(n_tokens: int, rounds: int) -> Table:
    """Other libraries on the same weights (Llama), each in its own plain forwards."""
    model, tokens = benchmark_model("llama"), benchmark_tokens(n_tokens)
    expected = model.sweep(tokens, grid(model, tokens, n_tokens - 1))
    rows: list[list[Any]] = []
    for other in contestants(model, tokens):
        if other.missing:
            rows.append([other.name, n_tokens, other.missing, "-"])
            continue
        logits = other.grid()
        error = float(mx.linalg.norm(mx.array(logits) - expected) / mx.linalg.norm(expected))
        _, found = ratios(other.forward, {"grid": other.grid}, rounds)
        rows.append([other.name, n_tokens, str(found["grid"]), f"{error:.0e}"])
    return Table(
        "66 pairs at the last position, each library in its own plain forwards",
        ["library", "tokens", "grid", "difference from ours"],
        rows,
    )


def main() -> int:
    options = parser().parse_args()
    rounds = 1 if options.smoke else options.rounds
    families = ["llama"] if options.smoke else [options.model] if options.model else options.family
    clock = time.process_time if options.processor_time else time.perf_counter
    lengths = [16] if options.smoke else options.tokens
    console = Console()
    results = []
    for family in families:
        model = load(family) if options.model and not options.smoke else benchmark_model(family)
        for n_tokens in lengths:
            with console.status(f"{family}, {n_tokens} tokens"):
                results.append(measure(model, family, n_tokens, rounds, clock))
    tables = [sweep_table(results), run_table(results)]
    if not (options.smoke or options.model):
        with console.status("other libraries"):
            tables += [other_table(n_tokens, max(1, rounds // 2)) for n_tokens in lengths]
    for table in tables:
        print(table.markdown())
    print(f"load average before the end: {os.getloadavg()[0]:.1f}; plain forward: ", end="")
    print(", ".join(f"{r['family']} {r['tokens']} tokens {1000 * r['seconds']:.0f} ms" for r in results))
    if options.json:
        options.json.write_text(json.dumps(results, default=_plain, indent=1) + "\n", encoding="utf-8")
    wrong = [row for result in results for row in result["sweeps"] if not row["error"] <= BOUND]
    return 1 if wrong else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--family", nargs="+", default=["llama", "gemma2", "qwen2"], choices=list(CLASSES))
    made.add_argument("--model", metavar="NAME", help="a real model in place of random ones")
    made.add_argument("--processor-time", action="store_true", help="for a machine that others keep busy: one thread")
    made.add_argument("--tokens", nargs="+", type=int, default=[16, 64], metavar="N", help="lengths of the prompt")
    made.add_argument("--rounds", type=int, default=7, metavar="N", help="repetitions; the median is printed")
    made.add_argument("--smoke", action="store_true", help="one family, one length, one round")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write all figures as JSON")
    return made


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Ratio) else str(value)


if __name__ == "__main__":
    sys.exit(main())
