"""The logit lens: what would the model say if it stopped at a layer? (nostalgebraist 2020)

1. Take the residual stream after a layer, at any position.
2. Apply the model's own last norm, unembedding, scale and soft-cap: at the last layer this is the model's prediction.
3. Read the rank of a token, 0 being the top; or the first layer at which it is among the top k. A name of several
   tokens has a log-probability: with prompt and name in one pass, each of its tokens is read where it is predicted.
4. What attention and MLP add can be read in the same way, each alone (after Gemma's post-norms: as it enters the
   stream).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mlx_interp import sites
from mlx_interp.behaviour.answers import Question
from mlx_interp.deferred import mx
from mlx_interp.engine.positions import resolve_positions
from mlx_interp.errors import SiteError
from mlx_interp.lenses.tuned import TunedLens
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt

ROWS = 256
"""States that are unembedded together: more are no faster, and each takes the memory of a vocabulary."""


def logit_lens(model: Model, prompt: AnyPrompt, position: int = -1, *, site: str = "resid_post") -> mx.array:
    """Logit lens: logits (n_layers, d_vocab) of every layer at one position; at the last layer they are the model's.

    site: "resid_post", or "attn_out" and "mlp_out" for what a layer adds, by itself; "resid_post.8-20" for some layers.
    Raises PositionError for a position that the prompt does not have, SiteError for a site that is no stream.
    """
    return lens_at(model, prompt, _at(model, prompt, position), stream_selector(model, site))[0]


def logit_lenses(
    model: Model, prompts: Sequence[AnyPrompt], position: int = -1, *, site: str = "resid_post"
) -> Iterator[mx.array]:
    """Logit lens of many prompts: what `logit_lens` gives of each, in their order, for less.

    What prompts begin with in common is computed once (`model.states`), and several go through the unembedding
    together. Raises what `logit_lens` raises.
    """
    selector = stream_selector(model, site)
    states = model.states(prompts, selector, (position,))[:, :, 0]
    at_once = max(1, ROWS // states.shape[1])
    for start in range(0, len(states), at_once):
        yield from model.unembed(mx.array(states[start : start + at_once]))


def tuned_lens(model: Model, prompt: AnyPrompt, lens: TunedLens, position: int = -1) -> mx.array:
    """Tuned lens: logits (n_layers, d_vocab) of every layer at one position, each through its own translator.

    lens: from `train_tuned_lens` or `load_lens`. Raises DataError for a lens of another model, PositionError as above.
    """
    return lens_at(model, prompt, _at(model, prompt, position), lens=lens)[0]


def top_tokens(model: Model, logits: mx.array, k: int = 5) -> list[list[tuple[str, float]]]:
    """Top tokens of each row of logits (n, d_vocab): `model.top_tokens`."""
    return model.top_tokens(logits, k)


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


def _at(model: Model, prompt: AnyPrompt, position: int) -> list[int]:
    return resolve_positions(position, len(model.prompts(prompt)[0]), "logit lens") or []


def stream_selector(model: Model, site: str) -> str:
    """The selector, if it names what a lens reads. Raises SiteError."""
    kind = sites.parse(site, model.n_layers)[0].kind
    if kind.axes != ("d_model",) or not kind.layered:
        raise SiteError(f"a lens reads the stream, or what is added to it: resid_post, attn_out, mlp_out; not {site!r}")
    return site


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
