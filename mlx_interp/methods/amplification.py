"""Decoding from amplified logit differences: l = l_a + alpha (l_a - l_b), with full-vocabulary logits.

1. a and b are two prompts of one model, or two models with the same tokenizer; both keep a key-value cache of their own
   and read the same tokens.
2. All prompts and all strengths decode as one batch, one forward pass of a and one of b for every token.
3. What an API would allow, the top k logits of each alone, is a setting: beyond a's top k nothing can be drawn, and
   beyond b's top k its lowest known logit stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import mlx.core as mx
import numpy as np

from mlx_interp.engine.decode import Stream
from mlx_interp.engine.sampling import check_sampling, sampler
from mlx_interp.errors import DataError
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt

Control = Literal["none", "shuffled"]


@dataclass
class Amplified:
    """What was written from one prompt at one strength, and how far it was from a at every step."""

    alpha: float
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    kl: list[float] = field(default_factory=list)
    """KL(a || amplified) of each step, in nats."""
    entropy: list[float] = field(default_factory=list)
    """Of the amplified distribution, in nats."""
    log_prob: list[float] = field(default_factory=list)
    """Of the token written, under a, in nats."""


def amplify(
    model: Model,
    prompts: Sequence[AnyPrompt],
    others: Sequence[AnyPrompt],
    alphas: Sequence[float],
    *,
    other: Model | None = None,
    max_tokens: int = 32,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    top_k: int | None = None,
    control: Control = "none",
) -> list[list[Amplified]]:
    """Texts of every prompt at every strength, by prompt and then by strength.

    prompts: what a reads; others: what b reads, one for each. other: the model b, by default the same as a; its
    tokenizer must be a's. top_k: only so many logits of each are known. control "shuffled" permutes the difference over
    the vocabulary, the same way at every step: as large, and about nothing.
    Raises DataError for prompts without partners, vocabularies that differ, or logits that are no longer finite.
    """
    second = other or model
    if len(prompts) != len(others) or not prompts:
        raise DataError(f"each prompt of a needs one of b: {len(prompts)} and {len(others)} were given")
    _refuse_other_tokens(model, second)
    check_sampling(temperature, top_p, max_tokens)
    pairs = [(one, two, alpha) for one, two in zip(prompts, others, strict=True) for alpha in alphas]
    found = [Amplified(alpha) for _, _, alpha in pairs]
    a = Stream(model.network, [p.tokens for p in model.prompts([one for one, _, _ in pairs])], room=max_tokens)
    b = Stream(second.network, [p.tokens for p in second.prompts([two for _, two, _ in pairs])], room=max_tokens)
    strengths = mx.array([alpha for _, _, alpha in pairs], dtype=mx.float32)[:, None]
    order = mx.array(np.random.default_rng(seed).permutation(model.d_vocab)) if control == "shuffled" else None
    sample = sampler(temperature, top_p, seed, range(len(pairs)))
    going = set(range(len(pairs)))
    for step in range(max_tokens):
        log_a, log_b = (_log_softmax(stream.logits) for stream in (a, b))
        mixed = _log_softmax(_mixed(log_a, log_b, strengths, top_k, order))
        token = sample(mixed, step)
        picked = mx.take_along_axis(log_a, token[:, None], axis=-1)[:, 0]
        figures = mx.stack([_kl(log_a, mixed), -mx.sum(mx.exp(mixed) * _finite(mixed), axis=-1), picked])
        drawn, steps = np.asarray(token), np.asarray(figures)
        if not np.isfinite(steps).all():
            row = int(np.argwhere(~np.isfinite(steps))[0][1])
            raise DataError(f"alpha {found[row].alpha:g}: the amplified logits are not finite at step {step}; lower it")
        for row in sorted(going):
            if int(drawn[row]) in model.stop_tokens:
                going.discard(row)
                continue
            found[row].tokens.append(int(drawn[row]))
            for name, value in zip(("kl", "entropy", "log_prob"), steps[:, row], strict=True):
                getattr(found[row], name).append(float(value))
        if not going or step + 1 == max_tokens:
            break
        a.advance(token)
        b.advance(token)
    for one in found:
        one.text = model.tokenizer.decode(one.tokens)
    return [found[start : start + len(alphas)] for start in range(0, len(found), len(alphas))]


def _mixed(
    log_a: mx.array, log_b: mx.array, strengths: mx.array, top_k: int | None, order: mx.array | None
) -> mx.array:
    """Amplified log-probabilities, not normalised; -inf where nothing is known of a."""
    if top_k is not None:
        lowest_a, lowest_b = (mx.sort(x, axis=-1)[:, -top_k][:, None] for x in (log_a, log_b))
        known = log_a >= lowest_a
        difference = log_a - mx.maximum(log_b, lowest_b)
        return mx.where(known, log_a + strengths * difference, -mx.inf)
    difference = log_a - log_b
    if order is not None:
        difference = difference[:, order]
    return log_a + strengths * difference


def _log_softmax(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _kl(p: mx.array, q: mx.array) -> mx.array:
    """KL(p || q) of rows of log-probabilities, over what q can draw."""
    inside = mx.exp(p) * (p - _finite(q))
    return mx.maximum(mx.sum(mx.where(mx.isinf(q), 0.0, inside), axis=-1), 0.0)


def _finite(x: mx.array) -> mx.array:
    return mx.where(mx.isinf(x), 0.0, x)


def _refuse_other_tokens(a: Model, b: Model) -> None:
    if a is b:
        return
    differing: list[str] = []
    if a.d_vocab == b.d_vocab:
        mine, others = (model.tokenizer.get_vocab() for model in (a, b))
        differing = sorted(token for token in mine if others.get(token) != mine[token])[:3]
    if a.d_vocab != b.d_vocab or differing:
        shown = f", e.g. {', '.join(map(repr, differing))}" if differing else ""
        raise DataError(
            f"{a.name} and {b.name} do not share a tokenizer ({a.d_vocab} and {b.d_vocab} tokens{shown}): their logits "
            "are about different words"
        )
