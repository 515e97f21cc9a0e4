"""Decoding from amplified logit differences: l = l_a + alpha (l_a - l_b), with full-vocabulary logits.

1. a and b are two prompts of one model, a model with and without interventions, or two models with the same tokenizer
   (with and without an adapter, say); both keep a key-value cache of their own and read the same tokens.
2. All prompts and all strengths decode as one batch, one forward pass of a and one of b for every token.
3. What an API would allow, the top k logits of each alone, is a setting: beyond a's top k nothing can be drawn, and
   beyond b's top k its lowest known logit stands in. So is the plausibility mask of contrastive decoding (Li et al.
   2022): tokens that a finds less than `beta` times as likely as its best are never drawn.
4. `forced` reads given texts instead of writing some: no sampling, and exact probabilities of rare replies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.generate import Stream
from mlx_interp.engine.sampling import check_sampling, sampler
from mlx_interp.errors import DataError
from mlx_interp.interventions import Interventions
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt
from mlx_interp.shapes import ShapesShown

Control = Literal["none", "shuffled", "sharpened"]
API_LOGITS = 20
"""How many logits of a step an API shows, for what it would have hidden."""
STEP_FIGURES = ("kl", "entropy", "log_prob", "outside", "agrees", "spread", "largest", "steadiness")


@dataclass
class Amplified:
    """Amplified text of one prompt at one strength, and, step by step, how far it was from a."""

    alpha: float
    tokens: list[int] = field(default_factory=list)
    """Without the end-of-turn token."""
    text: str = ""
    finish: Literal["stop", "length", "not finite"] = "length"
    """"not finite": the amplified logits overflowed at that step, and the text ends there."""
    kl: list[float] = field(default_factory=list)
    """KL(a || amplified), in nats."""
    entropy: list[float] = field(default_factory=list)
    """Of the amplified distribution, in nats."""
    log_prob: list[float] = field(default_factory=list)
    """Of the token written, under a, in nats."""
    outside: list[float] = field(default_factory=list)
    """Amplified probability of what is not among a's 20 likeliest tokens: what an API would have hidden."""
    agrees: list[float] = field(default_factory=list)
    """1 where the likeliest token is a's."""
    spread: list[float] = field(default_factory=list)
    """Standard deviation of l_a - l_b over the vocabulary."""
    largest: list[float] = field(default_factory=list)
    """The greatest l_a - l_b, of log-probabilities."""
    steadiness: list[float] = field(default_factory=list)
    """Cosine of l_a - l_b with that of the step before, about their means; 0 at the first step."""


@dataclass(frozen=True, repr=False)
class Forced(ShapesShown):
    """A given text after one prompt, read by a and b."""

    log_a: np.ndarray
    log_b: np.ndarray
    """(n_tokens,): log-probability of each token, in nats."""
    kl: np.ndarray
    """(n_tokens,): KL(a || b) where each token is predicted, in nats."""
    amplified: np.ndarray
    """(n_alphas, n_tokens): log-probability of each token under the amplified distribution, in nats."""


def amplify(
    model: Model,
    prompts: Sequence[AnyPrompt],
    others: Sequence[AnyPrompt],
    alphas: Sequence[float],
    *,
    other: Model | None = None,
    interventions: Interventions = (),
    max_tokens: int = 32,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    top_k: int | None = None,
    beta: float = 0.0,
    control: Control = "none",
) -> list[list[Amplified]]:
    """Amplified decoding: texts of every prompt at every strength, by prompt and then by strength.

    prompts: what a reads; others: what b reads, one for each. other: the model b, by default the same as a; its
    tokenizer must be a's. interventions: of a alone. top_k: only so many logits of each are known. beta: the
    plausibility mask, 0 for none. control "shuffled" permutes the difference over the vocabulary, the same way at every
    step: as large, and about nothing; "sharpened" leaves b out, (1 + alpha) l_a, a lower temperature.
    A text whose logits overflow ends there and says so.
    Raises DataError for prompts without partners, vocabularies that differ, or strengths that are no numbers, and what
    `Model.generate` raises.
    """
    a, b = _streams(model, other or model, prompts, others, alphas, interventions, max_tokens)
    check_sampling(temperature, top_p, max_tokens, seed)
    found = [Amplified(float(alpha)) for _ in prompts for alpha in alphas]
    strengths = mx.array([one.alpha for one in found], dtype=mx.float32)[:, None]
    order = mx.array(np.random.default_rng(seed).permutation(model.d_vocab)) if control == "shuffled" else None
    sample = sampler(temperature, top_p, seed, range(len(found)))
    going, before = set(range(len(found))), None
    for step in range(max_tokens):
        log_a = _log_softmax(a.logits)
        log_b = mx.zeros_like(log_a) if control == "sharpened" else _log_softmax(b.logits)
        mixed = _log_softmax(_mixed(log_a, log_b, strengths, top_k, beta, order))
        token = sample(mixed, step)
        if going_on := step + 1 < max_tokens:
            a.advance(token)
            b.advance(token)
            mx.async_eval(token, a.logits, b.logits)  # type: ignore[no-untyped-call]
        figures, before = _figures(log_a, log_b, mixed, token, before)
        _note(found, going, np.asarray(token), np.asarray(figures), model.stop_tokens)
        if not going or not going_on:
            break
    a.check_fired()
    for one in found:
        one.text = model.tokenizer.decode(one.tokens)
    return [found[start : start + len(alphas)] for start in range(0, len(found), len(alphas))]


def forced(
    model: Model,
    prompts: Sequence[AnyPrompt],
    others: Sequence[AnyPrompt],
    texts: Sequence[Sequence[int]],
    alphas: Sequence[float] = (),
    *,
    other: Model | None = None,
    rows: int = 32,
) -> list[Forced]:
    """Log-probabilities of given texts (token ids) under a and b, each after its own prompt; `rows` at a time.

    Raises DataError for lists of unequal length, empty texts, and vocabularies that differ.
    """
    second = other or model
    _refuse_other_tokens(model, second)
    if not len(prompts) == len(others) == len(texts) or not all(texts):
        counts = f"{len(prompts)}, {len(others)} and {len(texts)}"
        raise DataError(f"every prompt of a needs one of b and a text that is not empty: {counts} were given")
    found = []
    for start in range(0, len(texts), rows):
        part = slice(start, start + rows)
        sides = zip(_read(model, prompts[part], texts[part]), _read(second, others[part], texts[part]), strict=True)
        found += [_forced(side, text, alphas) for side, text in zip(sides, texts[part], strict=True)]
    return found


def _streams(
    model: Model,
    second: Model,
    prompts: Sequence[AnyPrompt],
    others: Sequence[AnyPrompt],
    alphas: Sequence[float],
    interventions: Interventions,
    max_tokens: int,
) -> tuple[Stream, Stream]:
    if len(prompts) != len(others) or not prompts:
        raise DataError(f"each prompt of a needs one of b: {len(prompts)} and {len(others)} were given")
    if not alphas or not all(math.isfinite(alpha) for alpha in alphas):
        raise DataError(f"alphas {list(alphas)}: give one strength or more, each a finite number")
    _refuse_other_tokens(model, second)
    sides = (
        Stream(
            one.network,
            [prompt.tokens for prompt in one.prompts(list(texts))],
            each=len(alphas),
            room=max_tokens,
            interventions=edits,
        )
        for one, texts, edits in ((model, prompts, interventions), (second, others, ()))
    )
    a, b = sides
    return a, b


def _note(
    found: Sequence[Amplified], going: set[int], tokens: np.ndarray, figures: np.ndarray, stop: frozenset[int]
) -> None:
    """Adds one step, figures (n_figures, n_rows), to the texts that are still going on."""
    for row in sorted(going):
        one = found[row]
        if not np.isfinite(figures[:, row]).all():
            one.finish = "not finite"
        elif int(tokens[row]) in stop:
            one.finish = "stop"
        else:
            one.tokens.append(int(tokens[row]))
            for name, value in zip(STEP_FIGURES, figures[:, row], strict=True):
                getattr(one, name).append(float(value))
            continue
        going.discard(row)


def _mixed(
    log_a: mx.array, log_b: mx.array, strengths: mx.array, top_k: int | None, beta: float, order: mx.array | None
) -> mx.array:
    """Amplified log-probabilities, not normalised; -inf where nothing is known of a, or where it is implausible."""
    known = None
    if top_k is not None:
        lowest_a, lowest_b = (_kth_largest(x, top_k) for x in (log_a, log_b))
        known, log_b = log_a >= lowest_a, mx.maximum(log_b, lowest_b)
    difference = log_a - log_b
    if order is not None:
        difference = difference[:, order]
    mixed = log_a + strengths * difference
    if beta:
        plausible = log_a >= mx.max(log_a, axis=-1, keepdims=True) + math.log(beta)
        known = plausible if known is None else known & plausible
    return mixed if known is None else mx.where(known, mixed, -mx.inf)


def _figures(
    log_a: mx.array, log_b: mx.array, mixed: mx.array, token: mx.array, before: mx.array | None
) -> tuple[mx.array, mx.array]:
    """(n_figures, n_rows) of a step, in the order of STEP_FIGURES; and the difference about its mean, for the next."""
    held = mx.exp(mixed)
    finite = _finite(mixed)
    difference = log_a - log_b
    centred = difference - mx.mean(difference, axis=-1, keepdims=True)
    length = mx.sqrt(mx.sum(centred * centred, axis=-1))
    unit = centred / mx.maximum(length, 1e-12)[:, None]
    shown = log_a >= _kth_largest(log_a, API_LOGITS)
    figures = [
        _kl(log_a, mixed),
        -mx.sum(held * finite, axis=-1),
        mx.take_along_axis(log_a, token[:, None], axis=-1)[:, 0],
        mx.sum(mx.where(shown, 0.0, held), axis=-1),
        (mx.argmax(mixed, axis=-1) == mx.argmax(log_a, axis=-1)).astype(mx.float32),
        length / math.sqrt(log_a.shape[-1]),
        mx.max(difference, axis=-1),
        mx.zeros(log_a.shape[0]) if before is None else mx.sum(unit * before, axis=-1),
    ]
    return mx.stack(figures), unit


def _read(model: Model, prompts: Sequence[AnyPrompt], texts: Sequence[Sequence[int]]) -> list[mx.array]:
    """Log-probabilities (n_tokens, d_vocab) where the tokens of each text are predicted."""
    chosen = [prompt.tokens for prompt in model.prompts(list(prompts))]
    rows = [[*prompt, *text[:-1]] for prompt, text in zip(chosen, texts, strict=True)]
    logits = model.run(rows, logits="all").logits
    assert logits is not None
    return [
        _log_softmax(logits[row, len(prompt) - 1 : len(prompt) - 1 + len(text)])
        for row, (prompt, text) in enumerate(zip(chosen, texts, strict=True))
    ]


def _forced(logs: tuple[mx.array, mx.array], text: Sequence[int], alphas: Sequence[float]) -> Forced:
    log_a, log_b = logs
    at = mx.array(list(text))[:, None]
    picked = [np.asarray(mx.take_along_axis(x, at, axis=-1)[:, 0], np.float64) for x in (log_a, log_b)]
    mixed = [_log_softmax(log_a + alpha * (log_a - log_b)) for alpha in alphas]
    amplified = [np.asarray(mx.take_along_axis(x, at, axis=-1)[:, 0], np.float64) for x in mixed]
    kl = np.asarray(mx.maximum(mx.sum(mx.exp(log_a) * (log_a - log_b), axis=-1), 0.0), np.float64)
    return Forced(picked[0], picked[1], kl, np.array(amplified).reshape(len(alphas), len(text)))


def _kth_largest(x: mx.array, k: int) -> mx.array:
    """(batch, n) -> (batch, 1)."""
    k = min(k, x.shape[-1])
    return mx.min(mx.topk(x, k, axis=-1), axis=-1, keepdims=True)


def _log_softmax(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _kl(p: mx.array, q: mx.array) -> mx.array:
    """KL(p || q) of rows of log-probabilities, over what q can draw."""
    inside = mx.exp(p) * (p - _finite(q))
    return mx.maximum(mx.sum(mx.where(q == -mx.inf, 0.0, inside), axis=-1), 0.0)


def _finite(x: mx.array) -> mx.array:
    return mx.where(x == -mx.inf, 0.0, x)


def _refuse_other_tokens(a: Model, b: Model) -> None:
    if a is b:
        return
    differing: list[str] = []
    if a.d_vocab == b.d_vocab:
        mine, others = (model.tokenizer.get_vocab() for model in (a, b))
        differing = sorted(token for token in mine.keys() | others.keys() if others.get(token) != mine.get(token))[:3]
    if a.d_vocab != b.d_vocab or differing:
        shown = f", e.g. {', '.join(map(repr, differing))}" if differing else ""
        raise DataError(
            f"{a.name} and {b.name} do not share a tokenizer ({a.d_vocab} and {b.d_vocab} tokens{shown}): their logits "
            "are about different words"
        )
