"""What collecting all residuals to disk costs, in plain batched prefills over the same prompts.

    python -m benchmarks.collect            48 prompts of 16 to 96 tokens, the 12-layer Llama
    python -m benchmarks.collect --smoke    a few prompts: are the rows right, does the benchmark run?

Prefill: mlx-lm's own decoder, without the unembedding, over prompts sorted by length in the same batches. Ours:
`collect` into a new folder, shards on disk and synced. Other libraries, on the same weights: each caches the residual
stream of the same batches, drops the padding and writes one safetensors file a batch, in units of its own plain
forwards. With --processor-time, seconds of processor time: of little use for other libraries' waiting, but not
lengthened by what else a busy machine does.
Exit status 1 if a row differs from ours by more than 1e-4.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from benchmarks.models import benchmark_model
from benchmarks.others import Collector, collectors
from benchmarks.timing import Ratio, ratios
from mlx_interp import ActivationStore, Model, collect
from mlx_interp.reporting import Table

SHORTEST, LONGEST, BATCH = 16, 96, 8
BOUND = 1e-4
TARGET = 0.9
"""Of plain prefill's tokens a second."""

Prompts = list[list[int]]
Clock = Callable[[], float]


def prompt_set(n: int, d_vocab: int) -> Prompts:
    """Random prompts of random lengths, sorted by length, so that every side makes the same batches."""
    rng = np.random.default_rng(0)
    lengths = sorted(rng.integers(SHORTEST, LONGEST + 1, n).tolist())
    return [rng.integers(1, d_vocab, length).tolist() for length in lengths]


def padded(prompts: Prompts) -> Iterator[np.ndarray]:
    """(batch, longest) token ids, padded on the right."""
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        longest = max(map(len, part))
        yield np.array([tokens + [0] * (longest - len(tokens)) for tokens in part])


def prefill(model: Model, batches: list[np.ndarray]) -> None:
    for batch in batches:
        mx.eval(model.mlx_model.model(mx.array(batch)))


def into_new_folder(function: Callable[[Path], object], root: Path) -> Callable[[], None]:
    """The function, given a new folder each time, which is removed afterwards."""
    numbers = itertools.count()

    def run() -> None:
        folder = root / str(next(numbers))
        function(folder)
        shutil.rmtree(folder)

    return run


def our_rows(
    model: Model, prompts: Prompts, root: Path, rounds: int, clock: Clock
) -> tuple[list[list[str]], ActivationStore]:
    """A row of figures for everything of ours that is timed, and a store to compare others with."""

    def collected(dtype: str, positions: str = "all") -> Callable[[Path], ActivationStore]:
        return lambda folder: collect(
            model, prompts, "residuals_all", folder, dtype=dtype, positions=positions, batch_size=BATCH
        )

    ways = {
        "float32": collected("float32"),
        "bfloat16": collected("bfloat16"),
        "float16": collected("float16"),
        "float32, last positions": collected("float32", "last"),
    }
    batches = list(padded(prompts))
    seconds, found = ratios(
        lambda: prefill(model, batches), {name: into_new_folder(way, root) for name, way in ways.items()}, rounds, clock
    )
    n_tokens = sum(map(len, prompts))
    rows = []
    for name, way in ways.items():
        store = way(root / name)
        rows.append(["ours", name, f"{store.n_bytes / 1e6:.0f}", *speed(n_tokens, seconds, found[name]), "-"])
    return rows, ActivationStore(root / "float32")


def other_row(
    other: Collector, prompts: Prompts, expected: ActivationStore, root: Path, rounds: int, clock: Clock
) -> tuple[list[str], float]:
    """A row of figures, and the largest relative difference from ours."""
    other.collect(root / other.name)
    files = sorted((root / other.name).iterdir())
    error = max(
        worst(other.read(files, layer), np.asarray(expected.array(f"resid_pre.{layer}")))
        for layer in range(len(expected.sites))
    )
    n_bytes = sum(file.stat().st_size for file in files)
    seconds, found = ratios(other.forward, {"collect": into_new_folder(other.collect, root)}, rounds, clock)
    n_tokens = sum(map(len, prompts))
    cells = [other.name, "float32", f"{n_bytes / 1e6:.0f}", *speed(n_tokens, seconds, found["collect"])]
    return [*cells, f"{error:.0e}"], error


def speed(n_tokens: int, seconds: float, ratio: Ratio) -> list[str]:
    """Tokens a second of the plain forward and of collecting, and the share of the first that the second is."""
    shares = Ratio(1 / ratio.median, 1 / ratio.high, 1 / ratio.low)
    return [f"{n_tokens / seconds:.0f}", f"{n_tokens / seconds / ratio.median:.0f}", str(shares)]


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def main() -> int:
    """Exit status 1 if another library's rows are not ours."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.collect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=48, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="repetitions; the median is printed")
    parser.add_argument("--processor-time", action="store_true", help="count processor seconds, not those of the clock")
    parser.add_argument("--smoke", action="store_true", help="eight prompts, one round")
    options = parser.parse_args()
    n, rounds = (8, 1) if options.smoke else (options.prompts, options.rounds)
    clock = time.process_time if options.processor_time else time.perf_counter
    model = benchmark_model("llama")
    model.weights_hash = "0" * 64  # a loaded model has one; without, every store would hash all weights
    prompts = prompt_set(n, model.d_vocab)
    errors = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        rows, store = our_rows(model, prompts, root, rounds, clock)
        for other in collectors(model, list(padded(prompts)), [len(tokens) for tokens in prompts]):
            if other.missing:
                rows.append([other.name, other.missing, "-", "-", "-", "-", "-"])
                continue
            row, error = other_row(other, prompts, store, root, rounds, clock)
            rows.append(row)
            errors.append(error)
    heads = ["library", "stored", "MB", "plain forward (tokens/s)", "collecting (tokens/s)", "share", "difference"]
    title = f"Collecting {model.n_layers} residual sites of {n} prompts to disk, in each library's own plain forwards"
    print(Table(title, heads, rows).markdown())
    lengths = statistics.mean(map(len, prompts))
    print(f"{lengths:.0f} tokens a prompt on average, batches of {BATCH}; target: {TARGET} of plain prefill; ", end="")
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")
    return 1 if any(not error <= BOUND for error in errors) else 0


if __name__ == "__main__":
    sys.exit(main())
