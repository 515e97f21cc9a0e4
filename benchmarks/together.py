"""Prompts of equal plan swept together, in units of one sweep a prompt: the effects of all heads on several prompts.

    python -m benchmarks.together                               the embedded models, 16 prompts of 30 tokens
    python -m benchmarks.together --model FILE --prompts 4 --heads 48 --rounds 1
    python -m benchmarks.together --smoke                       one model, one round

Random tokens, so that prompts share nothing: what is saved is what each sweep does besides its products. Both sides in
turn in one process, processor time on a CPU; exit status 1 if an effect differs by more than 1e-4.
"""

from __future__ import annotations

import argparse
import sys
import time

import mlx.core as mx
import numpy as np

from benchmarks.timing import ratios
from mlx_interp import Intervention, Model, Patch, load
from mlx_interp.loading.names import DEFAULT_MODELS
from mlx_interp.reporting import Table

BOUND = 1e-4
COMMON = 400
"""Token ids are drawn below this: every model has them."""


def head_patches(model: Model, n: int | None) -> list[list[Intervention]]:
    """A random vector in place of what a head mixes at the last position, for the first n heads, and nothing."""
    values = mx.random.normal((model.n_layers, model.n_heads, model.d_head), key=mx.random.key(1))
    mx.eval(values)
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    step = 1 if n is None else max(1, len(heads) // n)
    variants: list[list[Intervention]] = [[]]
    variants += [[Patch(f"z.{layer}", values[layer, head], -1, heads=head)] for layer, head in heads[::step]]
    return variants


def measure(name: str, n_prompts: int, n_tokens: int, n_heads: int | None, rounds: int) -> tuple[list[str], float]:
    """A row of the table, and the largest difference of a log-probability."""
    model = load(name)
    prompts = np.random.default_rng(0).integers(10, COMMON, (n_prompts, n_tokens)).tolist()
    variants = head_patches(model, n_heads)

    def metric(logits: mx.array) -> mx.array:
        return logits[:, 7].astype(mx.float32) - mx.logsumexp(logits.astype(mx.float32), axis=-1)

    def one_by_one() -> mx.array:
        return mx.stack([model.sweep(prompt, variants, metric=metric) for prompt in prompts])

    def together() -> mx.array:
        return model.sweep_prompts(prompts, variants, metric=metric)

    difference = float(mx.max(mx.abs(one_by_one() - together())))
    clock = time.process_time if mx.default_device() == mx.Device(mx.cpu) else time.perf_counter
    seconds, found = ratios(lambda: mx.eval(one_by_one()), {"": lambda: mx.eval(together())}, rounds, clock)
    row = [model.name, f"{n_prompts} x {n_tokens}", str(len(variants)), f"{seconds:.2f}", str(found[""])]
    return [*row, f"{difference:.0e}"], difference


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.together", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", metavar="NAME", help="repeatable; default: the embedded models")
    parser.add_argument("--prompts", type=int, default=16, metavar="N")
    parser.add_argument("--tokens", type=int, default=30, metavar="N", help="length of a prompt")
    parser.add_argument("--heads", type=int, metavar="N", help="about so many heads, in all layers; default: all")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--smoke", action="store_true", help="one model, one round")
    options = parser.parse_args()
    names = list(DEFAULT_MODELS)[:1] if options.smoke else options.model or DEFAULT_MODELS
    rounds = 1 if options.smoke else options.rounds
    found = [measure(name, options.prompts, options.tokens, options.heads, rounds) for name in names]
    columns = ["model", "prompts x tokens", "variants", "one by one (s)", "together, times that", "difference (nats)"]
    print(Table("Heads of many prompts: median (range)", columns, [row for row, _ in found]).markdown())
    return 1 if any(not difference <= BOUND for _, difference in found) else 0


if __name__ == "__main__":
    sys.exit(main())
