"""The logit lens: what would the model say if it stopped at a layer? (nostalgebraist 2020)

1. Take the residual stream after a layer, at any position.
2. Apply the model's own last norm, unembedding, scale and soft-cap: at the last layer this is the model's prediction.
3. Read the rank of a token, 0 being the top; or the first layer at which it is among the top k. A name of several
   tokens has a log-probability: with prompt and name in one pass, each of its tokens is read where it is predicted.
4. What attention and MLP add can be read in the same way, each alone (after Gemma's post-norms: as it enters the
   stream).
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_interp.behaviour.answers import Question
from mlx_interp.lenses.tuned import TunedLens
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt


def lens_logits(model: Model, prompt: AnyPrompt, position: int = -1) -> mx.array:
    """Logits (n_layers, d_vocab) of every layer's `resid_post` at one position; the last row is the model's own."""
    states = model.run(prompt, capture="resid_post", logits="none").stack("resid_post")
    return model.unembed(states[:, 0, position])


def lens_at(
    model: Model,
    prompt: AnyPrompt,
    positions: Sequence[int],
    site: str = "resid_post",
    lens: TunedLens | None = None,
) -> mx.array:
    """Logits (n_positions, n_layers, d_vocab) of every layer of a site, at several positions, from one pass.

    lens: a tuned lens, for resid_post; the logit lens if left out.
    """
    states = model.run(prompt, capture=site, logits="none").stack(site)[:, 0, mx.array(list(positions))]
    if lens is not None:
        return lens.logits(model, states).swapaxes(0, 1)
    return model.unembed(states.swapaxes(0, 1))


def lens_name_log_probs(model: Model, asked: Question, lens: TunedLens | None = None) -> list[float]:
    """Log-probability, in nats, of the likeliest accepted name at each layer, as the continuation of its prompt."""
    start = len(asked.prompt) - 1
    best: mx.array | None = None
    for name in asked.names:
        logits = lens_at(model, asked.prompt.tokens + list(name[:-1]), range(start, start + len(name)), lens=lens)
        logits = logits.astype(mx.float32)  # (token, layer, d_vocab)
        chosen = mx.take_along_axis(logits, mx.array(name)[:, None, None], axis=-1)[..., 0]
        log_prob = (chosen - mx.logsumexp(logits, axis=-1)).sum(axis=0)
        best = log_prob if best is None else mx.maximum(best, log_prob)
    assert best is not None
    return [float(value) for value in np.asarray(best)]


def lens_ranks(logits: mx.array, tokens: Sequence[int]) -> list[int]:
    """Rank of the best of some tokens in each row of logits (n, d_vocab); 0 is the top."""
    best = mx.max(logits[:, mx.array(list(tokens))], axis=-1, keepdims=True)
    return [int(rank) for rank in np.asarray(mx.sum(logits > best, axis=-1))]


def first_layer(ranks: Sequence[int], k: int) -> int | None:
    """The first layer whose rank is among the top k; None if there is none."""
    return next((layer for layer, rank in enumerate(ranks) if rank < k), None)


def top_among(logits: mx.array, tokens: Sequence[int]) -> list[int]:
    """Of some tokens the likeliest in each row of logits (n, d_vocab): a vocabulary restricted to a prompt's own, say.

    The first of `tokens` wins a tie.
    """
    best = mx.argmax(logits[:, mx.array(list(tokens))], axis=-1)
    return [tokens[int(index)] for index in np.asarray(best)]
