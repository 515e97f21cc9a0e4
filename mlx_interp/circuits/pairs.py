"""Pairs of prompts that differ in one thing, and the metric by which a model tells them apart.

The metric m of one prompt is the log-odds of answers: how much likelier the pair's answers are than its wrong answers,
in nats. Single tokens on both sides make it a difference of logits. Where logits are soft-capped, m is taken before the
cap, which flattens gradients; `capped=True` takes what the model says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.prefix_tree import n_shared
from mlx_interp.errors import CircuitError
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt

Metric: TypeAlias = "Callable[[Sequence[Pair]], Callable[[mx.array], mx.array]]"
"""Pairs -> a function of their rows' logits: (row, d_vocab) -> (row,), row i by the i-th pair."""


@dataclass(frozen=True)
class Pair:
    """A clean and a counterfactual prompt of equal length; tokens that are right and wrong after the clean one."""

    key: str
    clean: Prompt
    counterfactual: Prompt
    answers: tuple[int, ...]
    wrong: tuple[int, ...] = ()
    """Empty: every token that is no answer."""
    group: str = ""
    """Pairs of one group share their template, so that positions mean the same in all of them."""

    def __post_init__(self) -> None:
        if len(self.clean) != len(self.counterfactual):
            raise CircuitError(
                f"pair {self.key!r}: {len(self.clean)} tokens in {self.clean.text!r}, {len(self.counterfactual)} in "
                f"{self.counterfactual.text!r}; activations are exchanged position by position: choose a "
                "counterfactual of equal length, by its content and not by padding"
            )
        if not self.answers or set(self.answers) & set(self.wrong):
            raise CircuitError(f"pair {self.key!r}: answers {self.answers} and wrong answers {self.wrong} must differ")

    @property
    def length(self) -> int:
        return len(self.clean)

    @property
    def differs_from(self) -> int:
        """The first position at which the prompts differ, before which nothing changes; the last one if none does."""
        return min(n_shared(self.clean.tokens, self.counterfactual.tokens), self.length - 1)


def screened(model: Model, pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs whose clean prompt has a right answer on top, and whose counterfactual has not."""
    if not pairs:
        return []
    tops = []
    for prompts in ([pair.clean for pair in pairs], [pair.counterfactual for pair in pairs]):
        logits = model.run(prompts).logits
        assert logits is not None
        tops.append(np.array(mx.argmax(logits, axis=-1)).tolist())
    asked = zip(pairs, *tops, strict=True)
    return [pair for pair, here, there in asked if here in pair.answers and there not in pair.answers]


def log_odds(model: Model, *, capped: bool = False) -> Metric:
    """The metric of this module's docstring, in nats, for a model."""
    cap = None
    if model.network.family.softcap_logits and not capped:
        cap = float(getattr(model.network.args, model.network.family.softcap_logits))

    def of(pairs: Sequence[Pair]) -> Callable[[mx.array], mx.array]:
        right, wrong = _masks(pairs, model.d_vocab)

        def measure(logits: mx.array) -> mx.array:
            logits = logits.astype(mx.float32)
            if cap is not None:
                logits = cap * mx.arctanh(mx.clip(logits / cap, -1 + 1e-6, 1 - 1e-6))
            return mx.logsumexp(logits + right, axis=-1) - mx.logsumexp(logits + wrong, axis=-1)

        return measure

    return of


def _masks(pairs: Sequence[Pair], d_vocab: int) -> tuple[mx.array, mx.array]:
    """What is added to logits (row, d_vocab) so that right answers alone count, and wrong ones alone."""
    right = np.full((len(pairs), d_vocab), -np.inf, np.float32)
    wrong = np.full((len(pairs), d_vocab), -np.inf, np.float32)
    for row, pair in enumerate(pairs):
        right[row, list(pair.answers)] = 0
        if pair.wrong:
            wrong[row, list(pair.wrong)] = 0
        else:
            wrong[row] = 0
            wrong[row, list(pair.answers)] = -np.inf
    return mx.array(right), mx.array(wrong)


def by_length(pairs: Sequence[Pair], rows: int) -> list[list[int]]:
    """Indices of pairs of equal length, at most `rows` together. Raises CircuitError without pairs."""
    if not pairs:
        raise CircuitError("no pairs of prompts: nothing to attribute")
    lengths: dict[int, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        lengths[pair.length].append(index)
    return [same[start : start + rows] for same in lengths.values() for start in range(0, len(same), rows)]


def tokens_of(prompts: Sequence[Prompt]) -> mx.array:
    return mx.array([prompt.tokens for prompt in prompts])
