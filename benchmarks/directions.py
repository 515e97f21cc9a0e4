"""What finding and choosing a direction costs, in plain forward passes (mlx-lm's own) over the same prompts.

    python -m benchmarks.directions            128 + 128 prompts for the candidates, 32 + 32 for their selection
    python -m benchmarks.directions --smoke    a few prompts: are the figures right, does the benchmark run?

Candidates: differences of means at all layers and positions of the template, with floor and bootstrap, from one pass.
Selection, as in Arditi et al. (2024): every candidate ablated on every harmful and on every harmless prompt at all
sites, and added to every harmless one. One sweep over all prompts, beside one run per candidate and prompt, and one
batched run per candidate, which is what can be done without sweeps; both timed on a sample of candidates. All three
must give the same log-odds; exit status 1 if not.

Two kinds of prompts: requests of the embedded models' world in their chat template, which begin in common as real ones
do, and random tokens, which share nothing (on the 12-layer model of random weights as well).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from benchmarks.models import benchmark_model
from benchmarks.timing import Ratio, ratios
from mlx_interp import Model, load
from mlx_interp.behaviour.detectors import log_odds
from mlx_interp.directions.contrasts import Contrast, contrast, template_positions
from mlx_interp.embedded.world import load_world
from mlx_interp.interventions import Ablate, Add, Intervention
from mlx_interp.reporting import Table

LENGTH, POSITIONS = 24, (-5, -4, -3, -2, -1)
"""Random prompts: tokens, and those that all of them end with."""
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


def random_prompts(n: int, d_vocab: int) -> tuple[Prompts, Prompts]:
    """Two classes that differ in one token before the template's five, which all prompts share."""
    rng = np.random.default_rng(0)
    rows = rng.integers(100, d_vocab, (2, n, LENGTH))
    rows[0, :, -6], rows[1, :, -6] = 11, 17
    rows[:, :, -5:] = (21, 22, 23, 24, 25)
    positive, negative = rows.tolist()
    return positive, negative


def requests(model: Model, n: int) -> tuple[Prompts, Prompts]:
    """Harmful and harmless English requests in the model's chat template, in an order drawn once."""
    rng = np.random.default_rng(0)
    found = []
    for harmful in (True, False):
        chats = load_world().chat_prompts("refusal", language="en", harmful=harmful)
        chosen = rng.permutation(len(chats))[:n]
        found.append([list(model.prompt(chats[i].text, chat=True).tokens) for i in chosen])
    return found[0], found[1]


def plain_pass(model: Model, prompts: Prompts) -> None:
    """mlx-lm's own forward over prompts padded to batches, which is how it is done at its fastest."""
    ordered = sorted(prompts, key=len)
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        mx.eval(model.mlx_model(mx.array([tokens + [0] * (len(batch[-1]) - len(tokens)) for tokens in batch])))


def edits_of(found: Contrast) -> tuple[Edits, Edits]:
    """Every candidate ablated everywhere, and added at its layer to every position of the prompt.

    Random weights carry no contrast, so noise counts as a candidate here: it costs the same. The template's own
    embeddings have no difference at all, and are none.
    """
    removed: Edits = []
    added: Edits = []
    for layer, at in np.argwhere(found.norms > 0):
        vector = mx.array(found.vectors[layer, at])
        removed.append([Ablate(site, vector) for site in ("resid_pre.0", "attn_out", "mlp_out")])
        added.append([Add(f"{found.site}.{layer}", vector, 1.0, slice(None))])
    return removed, added


def swept(model: Model, prompts: Prompts, edits: Edits) -> mx.array:
    """(n_prompts, n_candidates): log-odds."""
    return model.sweep_prompts(prompts, edits, metric=METRIC)


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


@dataclass(frozen=True)
class Case:
    """A model with two classes of prompts."""

    model: Model
    name: str
    positive: Prompts
    negative: Prompts
    positions: tuple[int, ...]

    def contrast(self) -> Contrast:
        return contrast(self.model, self.positive, self.negative, positions=self.positions)


def cases(name: str, n: int) -> Iterator[Case]:
    if name.startswith("tiny-"):
        model = load(name)
        yield Case(model, f"{name}, requests", *requests(model, n), template_positions(model))
    else:
        model = benchmark_model(name)
    yield Case(model, f"{name}, random tokens", *random_prompts(n, model.d_vocab), POSITIONS)


def candidates_row(case: Case, rounds: int) -> list[str]:
    prompts = [*case.positive, *case.negative]
    _, found = ratios(lambda: plain_pass(case.model, prompts), {"candidates": case.contrast}, rounds)
    sizes = f"{len(case.positive)} + {len(case.negative)}"
    return [case.name, sizes, str(case.model.n_layers * len(case.positions)), str(found["candidates"])]


def selection_rows(case: Case, n: int, rounds: int) -> tuple[list[list[str]], float]:
    """Rows of figures, ablated, added and both, and the largest difference between sweep and runs in nats."""
    model = case.model
    removed, added = edits_of(case.contrast())
    negative = case.negative[:n]
    jobs = {"ablated": (removed, case.positive[:n]), "ablated ": (removed, negative), "added": (added, negative)}
    totals = np.zeros(3)
    rows, error = [], 0.0
    for what, (edits, prompts) in jobs.items():
        sample = edits[::SAMPLE]
        ways: dict[str, Callable[[], mx.array]] = {
            "sweep": partial(swept, model, prompts, edits),
            "one by one": partial(one_by_one, model, prompts, sample),
            "batched": partial(batched, model, prompts, sample),
        }
        values = {way: function() for way, function in ways.items()}
        error = max(
            error,
            *(float(mx.abs(values["sweep"][:, ::SAMPLE] - values[way]).max()) for way in ("one by one", "batched")),
        )
        _, found = ratios(partial(plain_pass, model, prompts), ways, rounds)
        scale = len(edits) / len(sample)
        own = found["sweep"]
        alone, together = (Ratio(*(scale * x for x in _parts(found[way]))) for way in ("one by one", "batched"))
        totals += (own.median, alone.median, together.median)
        gains = [f"{other.median / own.median:.1f}" for other in (alone, together)]
        kind = "harmful" if prompts is not negative else "harmless"
        rows.append(
            [
                case.name,
                f"{what.strip()}, {kind}",
                f"{len(prompts)} x {len(edits)}",
                str(own),
                str(alone),
                str(together),
                *gains,
            ]
        )
    gains = [f"{total / totals[0]:.1f}" for total in totals[1:]]
    rows.append([case.name, "all three", "", *(f"{total:.1f}" for total in totals), *gains])
    return rows, error


def _parts(ratio: Ratio) -> tuple[float, float, float]:
    return ratio.median, ratio.low, ratio.high


def main() -> int:
    options = parser().parse_args()
    n, chosen, rounds = (16, 4, 1) if options.smoke else (128, 32, options.rounds)
    found_rows, rows, worst = [], [], 0.0
    for name in ["tiny-llama"] if options.smoke else options.model:
        for case in cases(name, n):
            found_rows.append(candidates_row(case, rounds))
            made, error = selection_rows(case, chosen, rounds)
            rows += made
            worst = max(worst, error)
    title = "in plain forward passes over the prompts: median (range)"
    print(Table(f"Candidates, {title}", ["model", "prompts", "candidates", "one pass"], found_rows).markdown())
    heads = ["model", "candidates are", "prompts x candidates", "sweep", "run per candidate and prompt"]
    heads += ["batched run per candidate", "run / sweep", "batched / sweep"]
    print(Table(f"Selection, {title}", heads, rows).markdown())
    print(f"largest difference between sweep and runs: {worst:.0e} nats")
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
