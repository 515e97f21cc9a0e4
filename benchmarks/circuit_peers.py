"""Circuits of a real model beside TransformerLens and circuitkit: every head and MLP estimated, every head ablated.

    python -m benchmarks.circuit_peers            SmolLM2 135M, 20 pairs of 14 tokens
    python -m benchmarks.circuit_peers --smoke    the 12-layer Llama, two pairs, whatever is installed

Pairs are those of TransformerLens' demo of attribution patching ("When John and Mary went to the shops, John gave the
bag to", the second John or Mary). All sides are in one process, on the same weights, in processor time. Exit status 1
where scores or logits differ.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import mlx_interp as mi  # isort: skip
import numpy as np

if importlib.util.find_spec("circuitkit"):
    import circuitkit  # noqa: F401  it must come before transformer_lens

from benchmarks.circuits import one_by_one
from benchmarks.lens_peers import Attribution, ablated, attributions, hooked, installed
from benchmarks.models import benchmark_model
from benchmarks.timing import ratios
from mlx_interp import Ablate, Model
from mlx_interp.circuits import Pair, node_effects, node_scores, wiring
from mlx_interp.errors import MlxInterpError
from mlx_interp.reporting import Table

NAMES = "John Mary Tom James Dan Sarah Anna Mark Paul Kate Jack Lucy Peter Susan David Laura Alice Simon Emma Martin"
PARTS = ("attribution", "ablation")
BOUND = 1e-4
"""Largest difference, over the largest number compared."""
TIMED = 90
"""Of the heads, one in so many is run by TransformerLens, and its time scaled to all."""


def demo_pairs(model: Model, *, late: bool = True) -> list[Pair]:
    """Twenty pairs of 14 tokens. late: the prompts differ in the tenth token alone; else in every name."""
    names, found = NAMES.split(), []
    for i, one in enumerate(names):
        other = names[(i + 7) % len(names)]
        clean = _demo(one, other, one)
        counterfactual = _demo(one, other, other) if late else _demo(other, one, other)
        right, wrong = (model.prompt(f" {name}").tokens[-1] for name in (other, one))
        found.append(Pair(one, model.prompt(clean), model.prompt(counterfactual), (right,), (wrong,)))
    return found


def _demo(first: str, second: str, third: str) -> str:
    return f"When {first} and {second} went to the shops, {third} gave the bag to"


def random_pairs(model: Model, *, late: bool = True) -> list[Pair]:
    """Two pairs of 8 random tokens, of which four are alike."""
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 8192, (2, 2, 8))
    rows[:, 1, : 4 if late else 0] = rows[:, 0, : 4 if late else 0]
    sides = [[model.prompts(side.tolist())[0] for side in row] for row in rows]
    return [Pair("", clean, other, (7,), (23,)) for clean, other in sides]


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.nanmax(np.abs(one - other)) / np.nanmax(np.abs(one)))


def attribution_table(model: Model, lens: Any, kinds: dict[str, list[Pair]], rounds: int) -> tuple[Table, float]:
    """Every library's attribution in units of ours, and the largest difference of scores."""
    rows: list[list[Any]] = []
    worst = 0.0
    given: dict[str, np.ndarray] = {}
    for kind, pairs in kinds.items():
        ours = partial(node_scores, model, pairs, method="attribution")
        scores = ours()
        for other in attributions(model, lens, pairs):
            if other.missing:
                rows.append([other.name, kind, "-", other.missing, "-"])
                continue

            def timed(other: Attribution = other) -> None:
                given[other.name] = other.scores()

            seconds, found = ratios(ours, {"": timed}, rounds, time.process_time)
            theirs = given[other.name]
            error = difference(scores if len(theirs) == len(pairs) else scores.mean(0, keepdims=True), theirs)
            rows.append([other.name, kind, f"{seconds:.2f}", str(found[""]), f"{error:.0e}"])
            worst = max(worst, error)
    columns = ["library", "prompts of a pair differ", "ours (s)", "times ours", "difference"]
    n = len(next(iter(kinds.values())))
    return Table(f"Attribution of all heads and MLPs, {n} pairs", columns, rows), worst


def ablation_table(model: Model, lens: Any, pairs: Sequence[Pair], rounds: int) -> tuple[Table, float]:
    """All heads of all prompts at zero, one at a time: TransformerLens' loops over hooks in units of our sweeps."""
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    prompts = [pair.clean for pair in pairs]
    tokens = [prompt.tokens for prompt in prompts]
    some = heads[::TIMED]
    rows: list[list[Any]] = []
    worst = 0.0
    for where, position in (("last", -1), ("all", None)):
        variants = [[Ablate(f"z.{layer}", positions=position, heads=head)] for layer, head in heads]

        def swept(variants: list[list[Ablate]] = variants) -> np.ndarray:
            return np.array(model.sweep(prompts[0], variants))

        def batched(where: str = where) -> np.ndarray:
            return ablated(lens, tokens, some, where)

        def alone(where: str = where) -> np.ndarray:
            return ablated(lens, tokens[:1], some, where)

        error = difference(swept()[::TIMED], batched()[:, 0])
        loops = {"all prompts in a batch": batched, "one prompt at a time": alone}
        seconds, found = ratios(swept, loops, rounds, time.process_time)
        bound = len(heads) / model.cost(prompts[0], variants).forward_passes
        for name, ratio in found.items():
            scale = len(heads) / len(some) * (1 if name.startswith("one") else 1 / len(tokens))
            shown = f"{ratio.median * scale:.1f} ({ratio.low * scale:.1f}-{ratio.high * scale:.1f})"
            rows.append([name, where, f"{seconds * len(prompts):.1f}", shown, f"{bound:.1f}", f"{error:.0e}"])
        worst = max(worst, error)
    title = f"Each of {len(heads)} heads ablated alone, {len(prompts)} prompts: TransformerLens' loop over hooks"
    notes = [
        f"One head in {TIMED} is timed by hooks, one prompt of {len(prompts)} by us and one prompt at a time: scaled "
        "to all. Matrix products: what leaving out shared ones saves."
    ]
    return Table(
        title, ["loop", "positions", "ours (s)", "times ours", "matrix products", "difference"], rows, notes
    ), worst


def own_error(model: Model, pairs: Sequence[Pair]) -> float:
    """Exact effects of some nodes by our sweep, against single runs."""
    chosen = list(range(0, wiring(model.network).n_nodes, 7))
    swept = node_effects(model, pairs[:1], [(number, None) for number in chosen])[0]
    return difference(swept, one_by_one(model, pairs[0], chosen))


def main() -> int:
    """Exit status 1 where sides that must agree do not."""
    options = parser().parse_args()
    try:
        model = benchmark_model("llama") if options.smoke else mi.load(options.model)
    except MlxInterpError as missing:
        print(f"skipped: {missing}")
        return 0
    make, rounds = (random_pairs, 1) if options.smoke else (demo_pairs, options.rounds)
    kinds = {kind: make(model, late=kind == "late") for kind in options.pairs}
    late = make(model)
    worst = own_error(model, late)
    print(f"exact effects by sweep and by single runs differ by {worst:.0e}")
    if not installed("torch", "transformers", "transformer_lens"):
        print("TransformerLens: not installed: pip install torch transformer_lens circuitkit==0.2.0")
        return int(worst > BOUND)
    lens = hooked(model)
    parts = {
        "attribution": lambda: attribution_table(model, lens, kinds, rounds),
        "ablation": lambda: ablation_table(model, lens, late, rounds),
    }
    for part in options.part:
        made, error = parts[part]()
        print(made.markdown(), flush=True)
        worst = max(worst, error)
    return int(worst > BOUND)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.circuit_peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--model", default="smollm2-135m", help="a Llama by name or path")
    made.add_argument("--part", nargs="+", default=list(PARTS), choices=PARTS)
    made.add_argument(
        "--pairs", nargs="+", default=["late", "early"], choices=["late", "early"], help="where their prompts differ"
    )
    made.add_argument("--rounds", type=int, default=3, metavar="N", help="repetitions; the median is printed")
    made.add_argument("--smoke", action="store_true", help="the random Llama, two pairs, one round")
    return made


if __name__ == "__main__":
    sys.exit(main())
