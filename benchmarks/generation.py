"""Generation: tokens a second against mlx-lm's own, plain and steered, and against other libraries with a hook.

    python -m benchmarks.generation                  three families, one row and batches, other libraries
    python -m benchmarks.generation --smoke          one family, few tokens: do all write the same, does it run? (CI)

    python -m benchmarks.generation --amplified      amplified differences against plain generation of as many rows

Every figure is tokens a second in units of mlx-lm's on the same prompts: `generate_step` for one prompt, its batch
generator for several; measured before and after each contestant, median and range over the rounds. Steered: one vector
added at one layer to every token. Exit status 1 if our greedy tokens are not mlx-lm's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, generate_step
from rich.console import Console

from benchmarks.models import benchmark_model, benchmark_tokens
from benchmarks.others import generators
from benchmarks.timing import Ratio, ratios
from mlx_interp import Add, Intervention, Model
from mlx_interp.behaviour.amplification import amplify
from mlx_interp.reporting import Table

PROMPT_TOKENS = 32
STEERED_LAYER = 6


def prompts_of(n: int) -> list[list[int]]:
    """n different prompts of one length."""
    tokens = benchmark_tokens(PROMPT_TOKENS * n)
    return [tokens[start : start + PROMPT_TOKENS] for start in range(0, len(tokens), PROMPT_TOKENS)]


def steering(model: Model) -> list[Intervention]:
    vector = mx.random.normal((model.d_model,), key=mx.random.key(2))
    mx.eval(vector)
    return [Add(f"resid_post.{STEERED_LAYER}", vector, 0.5)]


def mlx_lms_own(model: Model, prompts: list[list[int]], n_tokens: int) -> Callable[[], list[list[int]]]:
    """mlx-lm generating greedily: one prompt by `generate_step`, several by its batch generator."""

    def alone() -> list[list[int]]:
        steps = generate_step(mx.array(prompts[0]), model.mlx_model, max_tokens=n_tokens)
        return [[int(token) for token, _ in steps]]

    def batch() -> list[list[int]]:
        generator = BatchGenerator(model.mlx_model, completion_batch_size=len(prompts), prefill_batch_size=len(prompts))
        rows: dict[int, list[int]] = {uid: [] for uid in generator.insert(prompts, [n_tokens] * len(prompts))}
        while responses := generator.next_generated():
            for response in responses:
                rows[response.uid].append(response.token)
        generator.close()
        return list(rows.values())

    return alone if len(prompts) == 1 else batch


def measure(family: str, n_rows: int, n_tokens: int, rounds: int) -> dict[str, Any]:
    """Our speed in units of mlx-lm's, and whether the greedy tokens agree."""
    model, prompts = benchmark_model(family), prompts_of(n_rows)
    steered = steering(model)
    own = mlx_lms_own(model, prompts, n_tokens)

    def ours(interventions: list[Intervention]) -> list[list[int]]:
        return [c.tokens for c in model.generate(prompts, interventions=interventions, max_tokens=n_tokens)]

    agree = sum(a == b for a, b in zip(own(), ours([]), strict=True))
    seconds, found = ratios(own, {"plain": lambda: ours([]), "steered": lambda: ours(steered)}, rounds)
    return {
        "family": family,
        "rows": n_rows,
        "speed": n_rows * n_tokens / seconds,
        "plain": speed(found["plain"]),
        "steered": speed(found["steered"]),
        "agree": agree,
    }


def speed(times: Ratio) -> Ratio:
    """How much faster, from how much longer."""
    return Ratio(1 / times.median, 1 / times.high, 1 / times.low)


def own_table(results: list[dict[str, Any]], n_tokens: int) -> Table:
    rows: list[list[Any]] = [
        [
            r["family"],
            r["rows"],
            f"{r['speed']:.0f}",
            str(r["plain"]),
            str(r["steered"]),
            f"{r['agree']} of {r['rows']}",
        ]
        for r in results
    ]
    return Table(
        f"Tokens a second in units of mlx-lm's ({n_tokens} new tokens, greedy): median (range)",
        ["family", "rows", "mlx-lm (tokens/s)", "ours", "ours, steered", "same texts"],
        rows,
    )


def others_table(model: Model, n_tokens: int, rounds: int) -> Table:
    """Other libraries steering one row, in units of mlx-lm's unsteered speed."""
    prompts, steered = prompts_of(1), steering(model)
    (first, *_) = steered
    assert isinstance(first, Add)
    vector = first.vector
    ours = model.generate(prompts, interventions=steered, max_tokens=n_tokens)[0].tokens
    rows: list[list[Any]] = []
    for other in generators(model, prompts[0], n_tokens, STEERED_LAYER, vector, 0.5):
        if other.missing:
            rows.append([other.name, other.missing, "", ""])
            continue
        _, found = ratios(
            mlx_lms_own(model, prompts, n_tokens),
            {
                "other": other.generate,
                "ours": lambda: model.generate(prompts, interventions=steered, max_tokens=n_tokens),
            },
            rounds,
        )
        same = sum(a == b for a, b in zip(other.generate(), ours, strict=True))
        rows.append([other.name, str(speed(found["other"])), str(speed(found["ours"])), f"{same} of {n_tokens}"])
    return Table(
        f"One row, steered at layer {STEERED_LAYER}, in units of mlx-lm's unsteered tokens a second",
        ["library", "its speed", "ours beside it", "tokens that agree"],
        rows,
    )


def amplified_table(families: list[str], n_tokens: int, rounds: int) -> Table:
    """Amplified decoding, two forward passes a token, in units of our own plain generation of as many rows."""
    rows: list[list[Any]] = []
    for family in families:
        model = benchmark_model(family)
        for n_prompts, n_alphas in ((1, 8), (4, 8)):
            prompts, others = prompts_of(2 * n_prompts)[::2], prompts_of(2 * n_prompts)[1::2]
            alphas = [0.25 * number for number in range(n_alphas)]
            every = [prompt for prompt in prompts for _ in alphas]
            _, found = ratios(
                lambda model=model, every=every: model.generate(every, max_tokens=n_tokens),  # type: ignore[misc]
                {
                    "amplified": lambda model=model, prompts=prompts, others=others, alphas=alphas: amplify(  # type: ignore[misc]
                        model, prompts, others, alphas, max_tokens=n_tokens
                    )
                },
                rounds,
            )
            rows.append([family, n_prompts, n_alphas, str(speed(found["amplified"]))])
    return Table(
        f"Amplified differences: tokens a second in units of plain generation of as many rows ({n_tokens} new tokens)",
        ["family", "prompts", "strengths", "speed"],
        rows,
    )


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.generation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--family", action="append", choices=["llama", "gemma2", "qwen2"], help="default: all three")
    options.add_argument("--rows", action="append", type=int, help="prompts decoded together; default: 1, 8 and 32")
    options.add_argument("--tokens", type=int, default=64, help="new tokens of each row")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--amplified", action="store_true", help="amplified differences only")
    options.add_argument("--smoke", action="store_true", help="llama, 1 and 3 rows, 8 tokens, one round")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    families, rows = options.family or ["llama", "gemma2", "qwen2"], options.rows or [1, 8, 32]
    if options.smoke:
        families, rows, options.tokens, options.rounds = ["llama"], [1, 3], 8, 1
    if options.amplified:
        table = amplified_table(families, options.tokens, options.rounds)
        Console().print(table.markdown(), markup=False, soft_wrap=True)
        return 0
    results = [measure(family, n, options.tokens, options.rounds) for family in families for n in rows]
    console = Console()
    console.print(own_table(results, options.tokens).markdown(), markup=False, soft_wrap=True)
    if not options.smoke:
        table = others_table(benchmark_model("llama"), options.tokens, options.rounds)
        console.print(table.markdown(), markup=False, soft_wrap=True)
    return 0 if all(r["agree"] == r["rows"] for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
