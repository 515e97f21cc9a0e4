"""What the indirect effect of all heads costs: one sweep a prompt, against one torch forward a head with a hook.

    python -m benchmarks.function_vectors            25 prompts of 64 tokens, 96 heads, the 12-layer Llama
    python -m benchmarks.function_vectors --smoke    two prompts

Same weights on both sides, in one process; the hooks are timed on a sample of heads, and their probabilities must be
those of the sweep. Without torch and transformers, our own runs one at a time are the other side.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from benchmarks.models import benchmark_model
from benchmarks.others import transformers_llama
from mlx_interp import Model, Patch
from mlx_interp.behaviour.answers import Question
from mlx_interp.in_context.function_vectors import HeadMeans, head_means, indirect_effects
from mlx_interp.reporting import Table

BOUND = 1e-4
SAMPLE = 8
OneHead = Callable[[list[int], int, int], float]
"""(tokens, layer, head) -> probability of token 0 with that head's z replaced."""


def torch_hook(model: Model, means: HeadMeans) -> OneHead:
    """One forward of transformers with a hook on the input of the layer's output projection."""
    import torch

    network = transformers_llama(model)
    width = model.d_head
    values = torch.from_numpy(np.array(means.z))

    def run(tokens: list[int], layer: int, head: int) -> float:
        def replace(_: object, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            z = inputs[0].clone()
            z[:, -1, head * width : (head + 1) * width] = values[layer, head]
            return (z, *inputs[1:])

        handle = network.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(replace)
        try:
            with torch.no_grad():
                logits = network(torch.tensor([tokens]), use_cache=False, logits_to_keep=1).logits[0, -1]
        finally:
            handle.remove()
        return float(torch.softmax(logits, dim=-1)[0])

    return run


def own_run(model: Model, means: HeadMeans) -> OneHead:
    """One of our runs."""

    def run(tokens: list[int], layer: int, head: int) -> float:
        edit = Patch(f"z.{layer}", means.z[layer, head], positions=-1, heads=head)
        logits = model.run(tokens, interventions=[edit]).logits
        assert logits is not None
        return float(mx.softmax(logits[0])[0])

    return run


def main() -> int:
    """Exit status 1 if an effect differs from its own run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.function_vectors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prompts", type=int, default=25, metavar="N")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="length of a prompt")
    parser.add_argument("--smoke", action="store_true", help="two prompts")
    options = parser.parse_args()
    model = benchmark_model("llama")
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 8192, (2 if options.smoke else options.prompts, options.tokens)).tolist()
    means = head_means(model, rows[:2])
    torch_there = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    sides = {"our own runs, one a head": own_run(model, means)}
    if torch_there:
        sides["torch hooks, one forward a head"] = torch_hook(model, means)
    heads = [(int(i) // model.n_heads, int(i) % model.n_heads) for i in np.linspace(0, 95, SAMPLE)]
    indirect_effects(model, _asked(model, rows[0]), means)  # warm-up
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    sweeps: list[float] = []
    others: dict[str, list[float]] = {name: [] for name in sides}
    worst = 0.0
    for tokens in rows:
        start = time.perf_counter()
        effects = indirect_effects(model, _asked(model, tokens), means)
        sweeps.append(time.perf_counter() - start)
        clean = model.run(tokens).logits
        assert clean is not None
        plain = float(mx.softmax(clean[0])[0])
        for name, one in sides.items():
            start = time.perf_counter()
            found = [one(tokens, *head) for head in heads]
            others[name].append((time.perf_counter() - start) / len(heads) * effects.size)
            worst = max(worst, *(abs(p - plain - effects[h]) / p for p, h in zip(found, heads, strict=True)))
    peak = (mx.get_peak_memory() - before) / 1e6
    table = Table(
        f"Indirect effect of {model.n_layers * model.n_heads} heads on {len(rows)} prompts of {options.tokens} tokens",
        ["side", "seconds", "times a sweep"],
        [
            ["sweep, one a prompt", sum(sweeps), 1.0],
            *(
                [name, sum(s), statistics.median(a / b for a, b in zip(s, sweeps, strict=True))]
                for name, s in others.items()
            ),
        ],
        [f"Largest relative difference of a sampled head: {worst:.0e}. Peak memory of the sweeps: {peak:.0f} MB."],
    )
    print(table.markdown())
    return 1 if worst > BOUND else 0


def _asked(model: Model, tokens: list[int]) -> Question:
    return Question(model.prompts(tokens)[0], ((0,),))


if __name__ == "__main__":
    sys.exit(main())
