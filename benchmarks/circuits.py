"""What the effect of every node costs: by gradients, by one sweep, and by one forward pass a node.

    python -m benchmarks.circuits            3 rounds, a pair of 32 tokens, 109 nodes, the 12-layer Llama
    python -m benchmarks.circuits --smoke    one round, 8 tokens

All sides answer for the same pair: the sweep must equal single runs, and the edges of a node must add up to it. Edges:
one backward pass for all of them against one pass along edges each, of which a sample is timed.
"""

from __future__ import annotations

import argparse
import sys

import mlx.core as mx
import numpy as np

from benchmarks.models import benchmark_model
from benchmarks.timing import ratios
from mlx_interp import Model
from mlx_interp.circuits import Pair, edge_effects, edge_scores, log_odds, node_effects, node_scores, nodes, wiring
from mlx_interp.circuits.exact import Floats, patch, replacements
from mlx_interp.reporting import Table

BOUND = 1e-3
SAMPLE = 8
"""Nodes and edges that are timed one by one."""


def one_by_one(model: Model, pair: Pair, chosen: list[int]) -> Floats:
    """The effect of some nodes, one run each."""
    known, values, measure = nodes(wiring(model.network)), replacements(model, [pair])[0], log_odds(model)([pair])
    found = []
    for edits in ([], *([patch(known[number], values)] for number in chosen)):
        logits = model.run(pair.clean, interventions=edits).logits
        assert logits is not None
        found.append(float(measure(logits)[0]))
    return np.array(found[1:]) - found[0]


def main() -> int:
    """Exit status 1 if the sweep differs from single runs, or edges do not add up to their node."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.circuits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="length of the prompts")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--smoke", action="store_true", help="one round, 8 tokens")
    options = parser.parse_args()
    tokens, rounds = (8, 1) if options.smoke else (options.tokens, options.rounds)
    model = benchmark_model("llama")
    wires = wiring(model.network)
    clean, other = (model.prompts(row.tolist())[0] for row in np.random.default_rng(0).integers(1, 8192, (2, tokens)))
    pair = Pair("benchmark", clean, other, (7,), (23,))
    every = [(number, None) for number in range(wires.n_nodes)]
    chosen = [int(n) for n in np.linspace(1, wires.n_nodes - 1, SAMPLE)]
    edges = [(wires.logits_input - 1 - 3 * n, n) for n in range(SAMPLE)]

    def plain() -> None:
        mx.eval(model.run(clean).logits)

    seconds, found = ratios(
        plain,
        {
            "nodes, one gradient": lambda: node_scores(model, [pair], method="attribution"),
            "nodes, integrated (5 steps)": lambda: node_scores(model, [pair], method="ig-inputs"),
            "nodes, exact, one sweep": lambda: node_effects(model, [pair], every),
            "nodes, exact, one run each": lambda: one_by_one(model, pair, chosen),
            "edges, one gradient": lambda: edge_scores(model, [pair], method="attribution"),
            "edges, integrated (5 steps)": lambda: edge_scores(model, [pair], method="ig-inputs"),
            "edges, exact, one pass each": lambda: edge_effects(model, [pair], edges),
        },
        rounds,
    )
    n_edges = int(wires.mask().sum())
    factors = {
        "nodes, exact, one run each": wires.n_nodes / (SAMPLE + 1),
        "edges, exact, one pass each": n_edges / SAMPLE,
    }
    sweep, single = node_effects(model, [pair], every)[0], one_by_one(model, pair, chosen)
    by_node = node_scores(model, [pair], method="attribution")
    worst = max(
        float(np.abs(sweep[chosen] - single).max()),
        float(np.abs(edge_scores(model, [pair], method="attribution").sum(1) - by_node).max()),
    )
    table = Table(
        f"The effect of all {wires.n_nodes} nodes and {n_edges} edges on a pair of {tokens} tokens",
        ["what", "plain forward passes", "range"],
        [
            [name, ratio.median * factor, f"{ratio.low * factor:.2f} to {ratio.high * factor:.2f}"]
            for name, ratio in found.items()
            for factor in [factors.get(name, 1)]
        ],
        [
            f"A plain pass: {seconds * 1e3:.1f} ms. One by one: {SAMPLE} timed scaled to all. "
            f"Largest difference between sides that must agree: {worst:.0e}."
        ],
    )
    print(table.markdown())
    return 1 if worst > BOUND else 0


if __name__ == "__main__":
    sys.exit(main())
