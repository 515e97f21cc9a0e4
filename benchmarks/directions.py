"""What finding and choosing a direction costs, in plain forward passes (mlx-lm's own) over the same prompts.

    python -m benchmarks.directions            128 + 128 prompts for the candidates, 32 + 32 for their selection
    python -m benchmarks.directions --smoke    a few prompts: are the figures right, does the benchmark run?

On the 12-layer model of random weights (llama) and an embedded one (tiny-llama), random tokens.

Candidates: differences of means at all layers and positions of the template, with floor and bootstrap, from one pass.
Selection: every candidate taken out of every harmful prompt at all sites, and added to every harmless one; a sweep a
prompt. Beside it one run per candidate and prompt, and one batched run per candidate, which is what can be done
without sweeps; both timed on a sample of candidates. All three must give the same log-odds; exit status 1 if not.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from benchmarks.models import benchmark_model
from benchmarks.timing import Ratio, ratios
from mlx_interp import Model, load
from mlx_interp.interventions import Ablate, Add, Intervention
from mlx_interp.methods.contrast import Contrast, contrast
from mlx_interp.methods.detectors import log_odds
from mlx_interp.reporting import Table

LENGTH, POSITIONS = 24, (-5, -4, -3, -2, -1)
BATCH = 64
"""Prompts of a plain pass's batch."""
SAMPLE = 7
"""Every so-manieth candidate is run alone."""
BOUND = 1e-3
"""Nats between log-odds of a sweep and of runs."""
METRIC = log_odds([3, 5])

CHOICES = ("llama", "gemma2", "qwen2", "tiny-llama", "tiny-gemma2", "tiny-qwen2")

Prompts = list[list[int]]
Edits = list[list[Intervention]]


def prompt_sets(n: int, d_vocab: int) -> tuple[Prompts, Prompts]:
    """Two classes that differ in one token before the template's five, which all prompts share."""
    rng = np.random.default_rng(0)
    rows = rng.integers(100, d_vocab, (2, n, LENGTH))
    rows[0, :, -6], rows[1, :, -6] = 11, 17
    rows[:, :, -5:] = (21, 22, 23, 24, 25)
    positive, negative = rows.tolist()
    return positive, negative


def plain_pass(model: Model, prompts: Prompts) -> None:
    for start in range(0, len(prompts), BATCH):
        mx.eval(model.mlx_model(mx.array(prompts[start : start + BATCH])))


def edits_of(found: Contrast) -> tuple[Edits, Edits]:
    """Every candidate taken out everywhere, and added at its layer to every position of the prompt.

    Random weights carry no contrast, so noise counts as a candidate here: it costs the same. The template's own
    embeddings have no difference at all, and are none.
    """
    removed: Edits = []
    added: Edits = []
    for layer, at in np.argwhere(found.norms > 0):
        vector = mx.array(found.vectors[layer, at])
        removed.append([Ablate(site, vector) for site in ("resid_pre.0", "attn_out", "mlp_out")])
        added.append([Add(f"{found.site}.{layer}", vector, 1.0, slice(0, LENGTH))])
    return removed, added


def swept(model: Model, prompts: Prompts, edits: Edits) -> mx.array:
    """(n_prompts, n_candidates): log-odds."""
    return mx.stack([model.sweep(prompt, edits, metric=METRIC) for prompt in prompts])


def one_by_one(model: Model, prompts: Prompts, edits: Edits) -> mx.array:
    return mx.stack([mx.concatenate([_odds(model, [prompt], edit) for edit in edits]) for prompt in prompts])


def batched(model: Model, prompts: Prompts, edits: Edits) -> mx.array:
    return mx.stack([_odds(model, prompts, edit) for edit in edits], axis=1)


def _odds(model: Model, prompts: Prompts, edit: Sequence[Intervention]) -> mx.array:
    logits = model.run(prompts, interventions=edit).logits
    assert logits is not None
    odds = METRIC(logits)
    mx.eval(odds)
    return odds


def candidates_row(model: Model, name: str, n: int, rounds: int) -> list[str]:
    positive, negative = prompt_sets(n, model.d_vocab)
    _, found = ratios(
        lambda: plain_pass(model, [*positive, *negative]),
        {"candidates": lambda: contrast(model, positive, negative, positions=POSITIONS)},
        rounds,
    )
    return [name, f"{n} + {n}", str(model.n_layers * len(POSITIONS)), str(found["candidates"])]


def selection_row(
    model: Model, name: str, what: str, edits: Edits, prompts: Prompts, rounds: int
) -> tuple[list[str], float]:
    """A row of figures, and the largest difference between sweep and runs in nats."""
    sample = edits[::SAMPLE]
    ways: dict[str, Callable[[], mx.array]] = {
        "sweep": lambda: swept(model, prompts, edits),
        "one by one": lambda: one_by_one(model, prompts, sample),
        "batched": lambda: batched(model, prompts, sample),
    }
    values = {way: function() for way, function in ways.items()}
    error = max(float(mx.abs(values["sweep"][:, ::SAMPLE] - values[way]).max()) for way in ("one by one", "batched"))
    _, found = ratios(lambda: plain_pass(model, prompts), ways, rounds)
    scale = len(edits) / len(sample)
    alone, together = (Ratio(*(scale * x for x in _parts(found[way]))) for way in ("one by one", "batched"))
    own = found["sweep"]
    gains = [f"{other.median / own.median:.1f}" for other in (alone, together)]
    head = [name, what, f"{len(prompts)} x {len(edits)}"]
    return [*head, str(own), str(alone), str(together), *gains, f"{error:.0e}"], error


def _parts(ratio: Ratio) -> tuple[float, float, float]:
    return ratio.median, ratio.low, ratio.high


def main() -> int:
    options = parser().parse_args()
    n, chosen, rounds = (16, 4, 1) if options.smoke else (128, 32, options.rounds)
    found_rows, rows, worst = [], [], 0.0
    for name in ["tiny-llama"] if options.smoke else options.model:
        model = load(name) if name.startswith("tiny-") else benchmark_model(name)
        found_rows.append(candidates_row(model, name, n, rounds))
        positive, negative = prompt_sets(n, model.d_vocab)
        removed, added = edits_of(contrast(model, positive, negative, positions=POSITIONS))
        for what, edits, prompts in (("taken out", removed, positive), ("added", added, negative)):
            row, error = selection_row(model, name, what, edits, prompts[:chosen], rounds)
            rows.append(row)
            worst = max(worst, error)
    title = "in plain forward passes over the prompts: median (range)"
    print(Table(f"Candidates, {title}", ["model", "prompts", "candidates", "one pass"], found_rows).markdown())
    heads = ["model", "candidates are", "prompts x candidates", "sweep", "run per candidate and prompt"]
    heads += ["batched run per candidate", "run / sweep", "batched / sweep", "error (nats)"]
    print(Table(f"Selection, {title}", heads, rows).markdown())
    print(f"load average before the end: {os.getloadavg()[0]:.1f}")
    return 0 if worst <= BOUND else 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.directions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--model", nargs="+", default=["llama", "tiny-llama"], choices=CHOICES)
    made.add_argument("--rounds", type=int, default=3, metavar="N", help="repetitions; the median is printed")
    made.add_argument("--smoke", action="store_true", help="few prompts, one round")
    return made


if __name__ == "__main__":
    sys.exit(main())
