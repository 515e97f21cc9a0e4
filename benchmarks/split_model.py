"""A model split over processes: what each keeps, what they exchange, and time, measured; larger ones computed.

    python -m benchmarks.split_model            two processes in both layouts beside one, five rounds; then the computed
                                                table, of matrices split by rows
    python -m benchmarks.split_model --smoke    one round
    python -m benchmarks.split_model --computed the table alone

Measured: random weights of the benchmark's Llama (12 layers, width 512) in as many processes on this machine, one
thread each, over the ring backend on the loopback, against one process with one thread; 64 tokens, logits of the
last; four prompts behind each other whose results are read at the end, where stages can work at the same time; and one
text of 768 tokens, which passes stages in pieces (`mlx_interp/engine/pieces.py`), and as a whole for comparison.
Computed, not measured: from published configs and link speeds. A Mac keeps its share of the weights in 4 bits (groups
of 64, 4.5 bits a weight); a token's numbers travel in 16 bits, of which each Mac receives (n - 1) / n. No latency is
counted, though there is one exchange a matrix, nor any computation: a lower bound for one token at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

import mlx_interp  # noqa: F401  isort: split
from benchmarks.models import benchmark_model, benchmark_tokens
from mlx_interp.engine import pieces
from mlx_interp.engine.split import exchanged_per_token, gathered_per_token, split
from mlx_interp.engine.stages import pipeline, stages_by_memory
from mlx_interp.loading.weights import unloaded
from mlx_interp.ranks import launched
from mlx_interp.reporting import Table

TOKENS, LONG = 64, 768
RUNS = 4
"""Passes that a round times."""
BITS = 4.5
LINKS = {"Thunderbolt 5, 80 Gb/s": 80e9 / 8, "Ethernet, 10 Gb/s": 10e9 / 8}
MEMORY = 546e9
"""Bytes a second that an M4 Max reads (Apple's specification); bounds a token's pass over the weights."""

LLAMA: dict[str, Any] = {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 5e5, "tie_word_embeddings": False}
SHAPES: dict[str, dict[str, Any]] = {
    "Gemma 2 27B": {
        "model_type": "gemma2",
        "num_hidden_layers": 46,
        "hidden_size": 4608,
        "intermediate_size": 36864,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "vocab_size": 256000,
        "rms_norm_eps": 1e-6,
    },
    "Llama 3.1 70B": LLAMA
    | {
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "Llama 3.1 405B": LLAMA
    | {
        "num_hidden_layers": 126,
        "hidden_size": 16384,
        "intermediate_size": 53248,
        "num_attention_heads": 128,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
"""Shapes as the models' config.json files and reports state them (Gemma Team 2024; Llama Team 2024, table 3)."""


def computed() -> Table:
    """What larger models would take."""
    rows: list[list[Any]] = []
    for name, config in SHAPES.items():
        network = unloaded(config)
        weights = sum(array.size for _, array in tree_flatten(network.parameters())) * BITS / 8
        numbers, exchanges = gathered_per_token(network), len(exchanged_per_token(network))
        for n in (1, 2, 4):
            received = 2 * numbers * (n - 1) / n
            links = [f"{1e3 * received / speed:.2f}" if n > 1 else "-" for speed in LINKS.values()]
            rows.append(
                [
                    name,
                    n,
                    f"{weights / n / 1e9:.1f}",
                    exchanges if n > 1 else 0,
                    f"{received / 1e6:.1f}",
                    *links,
                    f"{1e3 * weights / n / MEMORY:.1f}",
                ]
            )
    return Table(
        "Computed, not measured: one token",
        [
            *("model", "Macs", "weights of each (GB)", "exchanges", "received by each (MB)"),
            *(f"on the link (ms): {name}" for name in LINKS),
            "reading the weights (ms)",
        ],
        rows,
        ["Lower bounds: no latency of an exchange, no computation."],
    )


def worker(rounds: int, layout: str) -> None:
    """One process: median seconds of a pass, and its share of the weights; rank 0 prints."""
    ranks = launched()
    model = benchmark_model("llama")
    whole = sum(array.nbytes for _, array in tree_flatten(model.mlx_model.parameters()))
    if layout == "rows":
        split(model.mlx_model, ranks.group)
    elif layout == "pipeline":
        pipeline(model.network, ranks, stages_by_memory(model.network, [1] * ranks.size))
    kept = sum(array.nbytes for _, array in tree_flatten(model.mlx_model.parameters()))
    tokens = benchmark_tokens(TOKENS)
    long: dict[bool, list[float]] = {True: [], False: []}
    fewest = pieces.FEWEST
    seconds, together = [], []
    for turn in range(rounds + 1):
        start = time.perf_counter()
        for _ in range(RUNS):
            mx.eval(model.run(tokens).logits)
        middle = time.perf_counter()
        mx.eval([model.run(tokens).logits for _ in range(RUNS)])
        if turn:
            seconds.append((middle - start) / RUNS)
            together.append((time.perf_counter() - middle) / RUNS)
        for cut, passes in long.items():
            pieces.FEWEST = fewest if cut else LONG
            start = time.perf_counter()
            mx.eval(model.run(benchmark_tokens(LONG)).logits)
            if turn:
                passes.append(time.perf_counter() - start)
    relay = model.network.relay
    before = relay.received if relay else 0
    mx.eval(model.run(tokens).logits)
    received = relay.received - before if relay else 4 * TOKENS * gathered_per_token(model.mlx_model) // 2
    found = {
        "seconds": statistics.median(seconds),
        "range": [min(seconds), max(seconds)],
        "together": statistics.median(together),
        "long": statistics.median(long[True]),
        "long range": [min(long[True]), max(long[True])],
        "long whole": statistics.median(long[False]),
        "kept": kept / whole,
        "bytes": received / TOKENS if ranks.size > 1 else 0,
    }
    every = ranks.gather(found)
    if ranks.first:
        most = {name: max(one[name] for one in every) for name in ("kept", "bytes")}
        print("found", json.dumps(found | most), flush=True)


def started(n: int, rounds: int, layout: str) -> dict[str, Any]:
    """The same pass on n processes."""
    here = [sys.executable, "-m", "benchmarks.split_model", "--worker", "--rounds", str(rounds)]
    launcher = [str(Path(sys.executable).parent / "mlx.launch"), "-n", str(n), "--backend", "ring"]
    done = subprocess.run(
        [*launcher, *here, "--layout", layout] if n > 1 else here,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("found ")), None)
    if line is None:
        raise SystemExit(done.stdout + done.stderr)
    found: dict[str, Any] = json.loads(line.removeprefix("found "))
    return found


def measured(rounds: int) -> Table:
    """One process and two on this machine."""
    layouts = (("one process", 1, ""), ("rows", 2, "rows"), ("pipeline", 2, "pipeline"))
    one, *others = ({"name": name, **started(n, rounds, layout)} for name, n, layout in layouts)
    rows = [
        [
            found["name"],
            f"{100 * found['kept']:.0f}",
            f"{found['bytes'] / 1e3:.1f}",
            f"{1e3 * found['seconds']:.0f} ({1e3 * found['range'][0]:.0f}-{1e3 * found['range'][1]:.0f})",
            f"{one['seconds'] / found['seconds']:.2f}",
            f"{1e3 * found['together']:.0f}",
            f"{one['together'] / found['together']:.2f}",
            f"{found['long']:.2f} ({found['long range'][0]:.2f}-{found['long range'][1]:.2f})",
            f"{one['long'] / found['long']:.2f}",
            f"{one['long'] / found['long whole']:.2f}",
        ]
        for found in (one, *others)
    ]
    return Table(
        f"Measured: a pass of {TOKENS} tokens of the 12-layer Llama, float32",
        [
            *("two processes, by", "weights of the fuller (%)", "received at most, a token (kB)"),
            *("a pass (ms): median (range)", "times as fast as one"),
            *(f"one of {RUNS} read at the end (ms)", "times as fast as one "),
            *(f"{LONG} tokens (s): median (range)", "times as fast as one  ", "not in pieces"),
        ],
        rows,
        [f"{rounds} rounds of {RUNS} passes; one thread a process, all on this machine."],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.split_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--smoke", action="store_true", help="one round")
    parser.add_argument("--computed", action="store_true", help="the computed table alone")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--layout", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.rounds, options.layout)
        return
    if not options.computed:
        print(measured(1 if options.smoke else options.rounds).markdown(), end="\n\n")
    print(computed().markdown())


if __name__ == "__main__":
    main()
