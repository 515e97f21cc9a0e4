"""How a sweep's time and memory grow: with layers, width, tokens, variants and prompts, beside what they are at least.

    python -m benchmarks.growth                   all five, figures and table into benchmarks/growth
    python -m benchmarks.growth --only tokens      one of them
    python -m benchmarks.growth --smoke            the two smallest points of each, once: is the sweep right?

One thing grows, all else stays: Llama with random weights, 12 layers, d_model 256 in heads of 64, d_mlp four times as
wide, 2048 tokens in the vocabulary; a prompt of 16 tokens; 64 patches of the residual stream at the last position, one
after the other at each layer; of each variant one number is kept. Seconds are those of processors on a CPU.

The bound of time are the matrix products that variants cannot share, clean pass included (`Model.cost`), at the rate
(operations a second) of this model's own plain forward pass over 8 prompts of 64 tokens. The bound of memory are the
clean run's keys and values and the numbers that are returned; a sweep may take a budget of 64 MB beside them. Every
seventh of the first variants is compared with its own run: exit status 1 if one differs. Points are kept as they are
measured, in points.json beside the table: the next run measures what is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import llama

from benchmarks.models import TokenIds
from mlx_interp import Intervention, Model, Patch
from mlx_interp.reporting import Cell, Table
from mlx_interp.reporting.curves import Curve, curves
from mlx_interp.reporting.files import make_folder, write_atomically
from mlx_interp.reporting.plots import Plot, save_plot
from mlx_interp.stats import Estimate

LAYERS, WIDTH, TOKENS, VARIANTS, PROMPTS, VOCABULARY = 12, 256, 16, 64, 1, 2048
GROWS: dict[str, tuple[int, ...]] = {
    "layers": (12, 24, 36, 48),
    "width": (128, 256, 512, 768),
    "tokens": (16, 64, 256, 1024, 2048),
    "variants": (10, 100, 1000, 10_000),
    "prompts": (1, 4, 16, 64),
}
BUDGET = 64 * 2**20
"""Bytes that a sweep's batch may take."""
BOUND = 1e-4
EVERY, SAMPLED = 7, 64
"""Of the first so many variants every seventh is run by itself."""
HERE = Path(__file__).resolve().parent / "growth"


@dataclass(frozen=True)
class Point:
    """A sweep of one size."""

    grows: str
    x: int
    seconds: tuple[float, ...]
    """One a round."""
    bound: float
    """Seconds."""
    forward: float
    """Seconds of a plain forward pass over one of its prompts."""
    memory: float
    """MB beside the weights, at the highest."""
    least: float
    """MB."""
    error: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@cache
def model_of(layers: int, width: int) -> Model:
    """A random model of a size."""
    config = {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    mx.random.seed(0)
    network = llama.Model(llama.ModelArgs.from_dict(config))
    mx.eval(network.parameters())
    return Model(network, TokenIds(), config=config, path=Path("random-llama"))


@cache
def rate(layers: int, width: int) -> float:
    """Operations a second of the model's plain forward pass over 8 prompts of 64 tokens."""
    model, tokens = model_of(layers, width), _prompts(8, 64)
    cost = model.cost(tokens[0], [[]])
    batch = mx.array(tokens)
    return 8 * cost.flops / cost.forward_passes / _median(lambda: mx.eval(model.mlx_model(batch)), 5)


def _prompts(n: int, length: int) -> list[list[int]]:
    return np.random.default_rng(0).integers(1, VOCABULARY, (n, length)).tolist()  # type: ignore[no-any-return]


def _variants(model: Model, n: int) -> list[list[Intervention]]:
    """A vector of its own in place of the stream after each layer in turn, at the last position."""
    values = mx.random.normal((n, model.d_model), key=mx.random.key(1))
    mx.eval(values)
    return [[Patch(f"resid_post.{number % model.n_layers}", values[number], -1)] for number in range(n)]


def _highest(logits: mx.array) -> mx.array:
    return mx.max(logits, axis=-1)


def measure(grows: str, x: int, rounds: int) -> Point:
    """One point; what does not grow has the size that the module's docstring names."""
    size = {"layers": LAYERS, "width": WIDTH, "tokens": TOKENS, "variants": VARIANTS, "prompts": PROMPTS, grows: x}
    model = model_of(size["layers"], size["width"])
    prompts, variants = _prompts(size["prompts"], size["tokens"]), _variants(model, size["variants"])

    def sweep() -> mx.array:
        return model.sweep_prompts(prompts, variants, metric=_highest, memory=BUDGET)

    first = sweep()
    errors = []
    for number in range(0, min(SAMPLED, len(variants)), EVERY):
        alone = model.run(prompts[-1], interventions=variants[number]).logits
        assert alone is not None
        errors.append(abs(float(first[-1, number]) / float(_highest(alone)[0]) - 1))
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    mx.eval(sweep())
    memory = mx.get_peak_memory() - held
    batch = mx.array(prompts[:1])
    keys = 2 * model.n_layers * size["tokens"] * model.n_kv_heads * model.d_head
    return Point(
        grows,
        x,
        tuple(_seconds(sweep) for _ in range(rounds)),
        size["prompts"] * model.cost(prompts[0], variants).flops / rate(size["layers"], size["width"]),
        _median(lambda: mx.eval(model.mlx_model(batch)), rounds),
        memory / 2**20,
        4 * (keys + len(prompts) * len(variants)) / 2**20,
        max(errors),
    )


def _seconds(compute: Callable[[], object]) -> float:
    # On a CPU what processors spent on it, which others on a busy machine lengthen little.
    clock = time.process_time if mx.default_device() == mx.Device(mx.cpu) else time.perf_counter
    start = clock()
    mx.eval(compute())
    return clock() - start


def _median(compute: Callable[[], object], rounds: int) -> float:
    return statistics.median(_seconds(compute) for _ in range(rounds))


def table(points: list[Point]) -> Table:
    rows: list[list[Cell]] = [
        [
            point.grows,
            point.x,
            f"{point.median:.3f} ({min(point.seconds):.3f}-{max(point.seconds):.3f})",
            f"{point.bound:.3f}",
            f"{point.median / point.bound:.2f}",
            f"{point.median / point.forward:.2f}",
            f"{point.bound / point.forward:.2f}",
            f"{point.memory:.1f}",
            f"{point.least:.1f}",
            f"{point.error:.0e}",
        ]
        for point in points
    ]
    return Table(
        "Growth of a sweep: median (range)",
        [
            *("grows", "to", "sweep (s)", "bound (s)", "sweep / bound", "sweep (forward passes)"),
            *("bound (forward passes)", "peak (MB)", "least (MB)", "error"),
        ],
        rows,
    )


def plots(points: list[Point]) -> list[Plot]:
    """Time and memory against what grows, both axes logarithmic."""
    made = []
    for grows in dict.fromkeys(point.grows for point in points):
        own = [point for point in points if point.grows == grows]
        x = [float(point.x) for point in own]
        time_lines = [
            Curve("sweep", x, [_estimate(p.median, min(p.seconds), max(p.seconds), len(p.seconds)) for p in own]),
            Curve("bound", x, [_estimate(p.bound) for p in own]),
        ]
        memory_lines = [
            Curve("sweep", x, [_estimate(p.memory) for p in own]),
            Curve("least", x, [_estimate(p.least) for p in own]),
            Curve("least and budget", x, [_estimate(p.least + BUDGET / 2**20) for p in own]),
        ]
        for what, unit, lines in (("time", "seconds", time_lines), ("memory", "MB", memory_lines)):
            plot = curves(
                lines,
                [],
                name=f"{grows}_{what}",
                title=f"A sweep's {what} against {grows}",
                x_label=grows,
                y_label=unit,
                caption=f"A sweep's {what}, and the least that it can be, against {grows}.",
                log_x=True,
            )
            axis = plot.figure.axes[0]
            axis.set_yscale("log")
            axis.set_xticks(x, [f"{value:,g}" for value in x])
            axis.set_xticks([], minor=True)
            made.append(plot)
    return made


def _estimate(value: float, low: float | None = None, high: float | None = None, n: int = 1) -> Estimate:
    return Estimate(value, value if low is None else low, value if high is None else high, n)


def _read(one: dict[str, Any]) -> Point:
    return Point(**{**one, "seconds": tuple(one["seconds"])})


def _size(one: tuple[str, int]) -> float:
    """By how much more there is than in the smallest sweep: the longest are measured last."""
    return one[1] / GROWS[one[0]][0]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(GROWS), metavar="WHAT", help="of layers, width, tokens, ...")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="repetitions; the median is shown")
    parser.add_argument("--fresh", action="store_true", help="measure points again that are there")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="for figures and table")
    parser.add_argument("--smoke", action="store_true", help="two points of each, once; nothing is written")
    options = parser.parse_args()
    kept = options.out / "points.json"
    points = [] if options.smoke or not kept.exists() else [_read(one) for one in json.loads(kept.read_text("utf-8"))]
    asked = [(grows, x) for grows in options.only or GROWS for x in GROWS[grows][: 2 if options.smoke else None]]
    if options.fresh:
        points = [point for point in points if (point.grows, point.x) not in asked]
    there = {(point.grows, point.x) for point in points}
    for grows, x in sorted((one for one in asked if one not in there), key=_size):
        print(f"{grows}: {x}", file=sys.stderr, flush=True)
        points.append(measure(grows, x, 1 if options.smoke else options.rounds))
        if not options.smoke:
            make_folder(options.out)
            write_atomically(kept, json.dumps([asdict(point) for point in points], indent=1) + "\n")
    points.sort(key=lambda point: (list(GROWS).index(point.grows), point.x))
    found = table(points)
    print(found.markdown())
    if not options.smoke:
        for plot in plots(points):
            save_plot(plot, options.out, picture_only=True)
        write_atomically(options.out / "table.md", found.markdown() + "\n")
    return 1 if any(not point.error <= BOUND for point in points) else 0


if __name__ == "__main__":
    sys.exit(main())
