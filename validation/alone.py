"""Reference passes: what prompts and variants give by themselves, each row of a plain pass with nothing shared.

1. Prompts of equal length are rows of one forward pass: no padding, no positions but their own.
2. Variants are rows of plain forward passes too, from the embedding up, each under its own edits: nothing of a clean
   run, of a sweep's groups or of a prefix tree is in them. The model's weights, which a pass of ten tokens spends its
   time on reading, are then read once and not once a variant.
3. Every seventh variant has a run of its own besides, a batch of one under one list of edits: what rows of a pass do
   to each other, in sweep and reference alike, shows there. With up to seven variants each has one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_interp import Intervention, Model, Prompt
from mlx_interp.deferred import mx
from mlx_interp.engine.forward import Pass, forward
from mlx_interp.engine.memory import default_budget, rows_that_fit
from mlx_interp.engine.plan import plan_edits
from validation.check import relative, worst

EVERY = 7
"""Of so many variants one is run by itself: prime to the kinds of variants, so that each kind has its turn."""

Case = tuple[list[int], Sequence[Intervention]]
"""A prompt's tokens, and what is done to them."""


@dataclass(frozen=True)
class Alone:
    """What one prompt gives by itself."""

    logits: mx.array
    """(d_vocab,), at the last position."""
    state: mx.array
    """(pos, ...), of the site asked for."""


def prompts_alone(
    model: Model, prompts: Sequence[Prompt], capture: str, interventions: Sequence[Intervention] = ()
) -> list[Alone]:
    """Logits and one site of each prompt, from passes over prompts of one length, all under the same edits."""
    found: dict[int, Alone] = {}
    for numbers in of_equal_length([prompt.tokens for prompt in prompts]):
        out = model.run([prompts[number] for number in numbers], capture=capture, interventions=interventions)
        assert out.logits is not None
        found |= {number: Alone(out.logits[row], out[capture][row]) for row, number in enumerate(numbers)}
    return [found[number] for number in range(len(prompts))]


def from_each_alone(model: Model, swept: mx.array, cases: Sequence[Case]) -> float:
    """Worst relative error of swept logits (case, d_vocab) against each case by itself."""
    errors = []
    for number in range(0, len(cases), 1 if len(cases) <= EVERY else EVERY):
        tokens, edits = cases[number]
        alone = model.run(tokens, interventions=edits).logits
        assert alone is not None
        errors.append(relative(swept[number], alone[0]))
    if len(cases) > EVERY:
        for number, row in _in_plain_passes(model, cases).items():
            errors.append(relative(swept[number], row))
    return worst(errors)


def _in_plain_passes(model: Model, cases: Sequence[Case]) -> dict[int, mx.array]:
    """Logits (d_vocab,) of each case, from plain passes over cases of one length."""
    net, found = model.network, dict[int, mx.array]()
    for numbers in of_equal_length([tokens for tokens, _ in cases]):
        length = len(cases[numbers[0]][0])
        for fitting in rows_that_fit(net, [length] * len(numbers), (), "last", default_budget()):
            part = [numbers[index] for index in fitting]
            lengths = [length] * len(part)
            plan = plan_edits(net, [cases[number][1] for number in part], lengths)
            logits = forward(Pass(net, plan, lengths), mx.array([cases[number][0] for number in part]), "last")
            assert logits is not None
            mx.eval(logits)
            plan.check_fired()
            found |= {number: logits[row] for row, number in enumerate(part)}
    return found


def of_equal_length(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Numbers of texts, those of one length together."""
    groups = defaultdict(list)
    for number, tokens in enumerate(texts):
        groups[len(tokens)].append(number)
    return list(groups.values())
