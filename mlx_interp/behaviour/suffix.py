"""Adversarial suffixes: tokens behind an instruction that change what a model does, found by greedy coordinate gradient
(GCG; Zou et al. 2023).

1. The suffix stands between what comes before it (template and instruction) and what comes after it (the template's
   tail); the loss is a metric of the last position's logits, mean over several prompts: one suffix for all of them.
2. The gradient of the loss by the suffix's embeddings, times every token's embedding, ranks exchanges of one token.
3. Of the best exchanges a number are drawn and computed exactly; the one with the lowest loss is kept if it is lower.
   Steps 2 and 3 are repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import DataError
from mlx_interp.model import Model


@dataclass(frozen=True)
class Framed:
    """A prompt with room for a suffix."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def tokens(self, suffix: Sequence[int] = ()) -> list[int]:
        return [*self.before, *suffix, *self.after]


@dataclass(frozen=True)
class Suffix:
    """A suffix that a search found, and the metric under it."""

    tokens: tuple[int, ...]
    losses: tuple[float, ...]
    """Mean loss at the start and after every step; never rises."""


def framed(model: Model, text: str, tail: int) -> Framed:
    """An instruction through the chat template, whose last `tail` tokens come after the suffix."""
    tokens = model.prompt(text, chat=True).tokens
    return Framed(tuple(tokens[: len(tokens) - tail]), tuple(tokens[len(tokens) - tail :]))


def random_suffix(model: Model, length: int, *, banned: Collection[int] = (), seed: int) -> tuple[int, ...]:
    """Tokens drawn evenly from the vocabulary, but for the banned ones."""
    allowed = np.setdiff1d(np.arange(model.d_vocab), list(banned))
    return tuple(np.random.default_rng(seed).choice(allowed, size=length).tolist())


def adversarial_suffix(
    model: Model,
    prompts: Sequence[Framed],
    metric: Callable[[mx.array], mx.array],
    *,
    length: int = 6,
    steps: int = 40,
    candidates: int = 64,
    top: int = 32,
    banned: Collection[int] = (),
    seed: int = 0,
) -> Suffix:
    """Adversarial suffix: one that lowers a metric on all prompts; metric: logits (n, d_vocab) -> (n,).

    top: exchanges ranked first at each place, of which `candidates` are tried. banned: tokens that it must not have.
    Raises DataError for no prompts, no length, or fewer tokens than are to be ranked.
    """
    if not prompts or length < 1:
        raise DataError(f"a suffix needs prompts and a length, found {len(prompts)} prompts and length {length}")
    allowed = np.setdiff1d(np.arange(model.d_vocab), list(banned))
    if len(allowed) < top:
        raise DataError(f"{top} tokens are to be ranked, and {len(allowed)} are allowed")
    rng = np.random.default_rng(seed)
    table = embeddings(model)
    best = list(random_suffix(model, length, banned=banned, seed=seed))
    losses = [float(_losses(model, prompts, [best], metric)[0])]
    for _ in range(steps):
        slopes = _slopes(model, prompts, best, metric)  # (length, d_model)
        ranked = allowed[np.argsort((slopes @ table.T)[:, allowed], axis=1)[:, :top]]
        tried = []
        for place in rng.integers(length, size=candidates):
            tried.append([*best[:place], int(rng.choice(ranked[place])), *best[place + 1 :]])
        found = _losses(model, prompts, tried, metric)
        if found.min() < losses[-1]:
            best = tried[int(found.argmin())]
        losses.append(min(float(found.min()), losses[-1]))
    return Suffix(tuple(best), tuple(losses))


def embeddings(model: Model) -> np.ndarray:
    """(d_vocab, d_model): what each token brings into the first layer's input, as the model scales it."""
    rows = []
    for out in model.batches([[token] for token in range(model.d_vocab)], capture="resid_pre.0"):
        rows.append(np.asarray(out["resid_pre.0"][:, 0].astype(mx.float32)))
    return np.concatenate(rows)


def _slopes(
    model: Model, prompts: Sequence[Framed], suffix: Sequence[int], metric: Callable[[mx.array], mx.array]
) -> np.ndarray:
    """(length, d_model): gradient of the mean loss by the suffix's embeddings, all prompts alike."""
    found = model.gradients([prompt.tokens(suffix) for prompt in prompts], metric, "resid_pre.0")["resid_pre.0"]
    held = np.asarray(found)
    places = [slice(len(prompt.before), len(prompt.before) + len(suffix)) for prompt in prompts]
    rows = np.stack([row[place] for row, place in zip(held, places, strict=True)])
    # Prompts that are far from turning have long gradients: each counts by its direction.
    return np.asarray((rows / np.maximum(np.linalg.norm(rows, axis=(1, 2), keepdims=True), 1e-12)).mean(axis=0))


def _losses(
    model: Model,
    prompts: Sequence[Framed],
    suffixes: Sequence[Sequence[int]],
    metric: Callable[[mx.array], mx.array],
) -> np.ndarray:
    """(n_suffixes,): mean loss over prompts."""
    rows = [prompt.tokens(suffix) for suffix in suffixes for prompt in prompts]
    values: list[float] = []
    for out in model.batches(rows, logits="last"):
        assert out.logits is not None
        values += np.asarray(metric(out.logits).astype(mx.float32)).tolist()
    return np.asarray(np.array(values).reshape(len(suffixes), len(prompts)).mean(axis=1))
