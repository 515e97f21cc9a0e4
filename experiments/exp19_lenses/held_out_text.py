"""A lens on held-out text: bits per byte, bias, transfer between layers, and what is left of the input's tokens.

Bits per byte of what follows, at each layer, beside the model's own and those of a guess by the frequency of tokens in
the training texts ("unigram"). Bias: over groups of texts, beside that of the same guess. Input: how often a position's
own token is the likeliest of the tokens that the text holds, in the logit lens; chance is one of them, the control is
the token in front of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np

from experiments.exp19_lenses.lens_texts import Text, TextConfig, held_out, lenses_of, read_states, split_texts
from experiments.harness.state import Run
from experiments.shared.two_hop.tuned import EXCHANGED, LOGIT, TUNED
from mlx_interp.deferred import mx
from mlx_interp.lenses.lens_measures import (
    bias_bits,
    mean_distributions,
    next_token_nats,
    transfer,
)
from mlx_interp.lenses.logit import lens_ranks, top_among
from mlx_interp.lenses.tuned import kl_to_last, positions_of
from mlx_interp.stats import Estimate

TEXTS, BIAS, INPUT = "lenses on text", "bias of lenses", "input tokens"
LENSES = (LOGIT, TUNED, EXCHANGED)
GROUPS = 20
"""Groups of texts over which the bias is resampled."""
UNIGRAM_FLOOR = 0.5
"""Added to each token's count."""


@dataclass(frozen=True)
class Whole:
    """All held-out texts, as one item."""

    key: str
    texts: tuple[Text, ...]


def everything(run: Run[TextConfig]) -> list[Whole]:
    return [Whole(name, tuple(held_out(run))) for name in LENSES]


def unigram(run: Run[TextConfig]) -> np.ndarray:
    """(d_vocab,) log-probability of each token by how often it follows in the training texts, in nats."""
    counts = Counter(token for text in split_texts(run)[0] for token in text.follows)
    shares = np.array([counts[token] + UNIGRAM_FLOOR for token in range(run.model.d_vocab)])
    return np.asarray(np.log(shares / shares.sum()))


class OnText(TypedDict):
    """One text through one lens, by layer."""

    lens: str
    kind: str
    n_bytes: int
    nats: list[float]
    """Of what follows, all positions together."""
    kl: list[float]
    """From the model's prediction, nats, mean over positions."""
    unigram: float
    """Nats of what follows by how often tokens occur in the training texts."""
    transfer: NotRequired[list[list[float]]]
    """Of the tuned lens: KL of every translator (row) at every layer (column), nats."""


def measure(run: Run[TextConfig], text: Text) -> Iterator[OnText]:
    """Nats of what follows and KL from the model by layer and lens; KL of every translator at every layer."""
    states = read_states(run.model, [text])
    follows = mx.array(text.follows)
    guess = -float(unigram(run)[list(text.follows)].sum())
    for name, lens in lenses_of(run).items():
        logits = lens.logits(run.model, states)
        record: OnText = {
            "lens": name,
            "kind": text.kind,
            "n_bytes": text.n_bytes,
            "nats": np.asarray(next_token_nats(logits, follows).sum(axis=-1)).round(4).tolist(),
            "kl": np.asarray(kl_to_last(logits).mean(axis=-1)).round(5).tolist(),
            "unigram": round(guess, 4),
        }
        if name == TUNED and text in held_out(run)[: run.config.n_transfer]:
            record["transfer"] = np.asarray(transfer(run.model, lens, states).mean(axis=-1)).round(4).tolist()
        yield record


class Biased(TypedDict):
    """How far a lens's mean distribution at one layer is from the model's."""

    layer: int
    """-1: the embedding."""
    bias: list[float] | None
    """Bits: value, low and high of the interval, and texts."""
    unigram: list[float] | None
    """The same of how often tokens occur in the training texts."""
    n_texts: int


def measure_bias(run: Run[TextConfig], whole: Whole) -> Iterator[Biased]:
    """The bias of one lens at each layer, with its interval, and that between two halves of the model's own."""
    lens = lenses_of(run)[whole.key]
    groups = [whole.texts[number::GROUPS] for number in range(min(GROUPS, len(whole.texts)))]
    means = np.stack([mean_distributions(lens.logits(run.model, read_states(run.model, group))) for group in groups])
    final = means[:, -1]
    guess = bias_bits(final, np.broadcast_to(np.exp(unigram(run)), final.shape))
    for layer in range(means.shape[1] - 1):
        found = bias_bits(final, means[:, layer])
        yield {"layer": layer - 1, "bias": _plain(found), "unigram": _plain(guess), "n_texts": len(whole.texts)}


def _plain(found: Estimate | None) -> list[float] | None:
    return None if found is None else [found.value, found.low, found.high]


ByToken = TypedDict(
    "ByToken",
    {
        "own likeliest": list[float],
        "own in top 10": list[float],
        "before likeliest": list[float],
        "before in top 10": list[float],
    },
)
"""By layer: share of positions whose own token, or the one before, is the likeliest of the text's; in the top ten."""


class Read(ByToken):
    """What the unembedding reads in the stream of one text, the embedding first."""

    chance: float
    """Of the likeliest of the text's tokens."""
    n_positions: int


def measure_input(run: Run[TextConfig], text: Text) -> Iterator[Read]:
    """By layer, the embedding first: over positions from the third, how often the own token is the likeliest of the
    text's, and among the top ten of the vocabulary; the same of the token before."""
    held = list(dict.fromkeys(text.tokens))
    places = [i for i in range(2, len(text.tokens)) if text.tokens[i] != text.tokens[i - 1]]
    if not places:
        return
    logits = run.model.unembed(positions_of(run.model, [list(text.tokens)], embedding=True))
    likeliest = np.array([top_among(layer, held) for layer in logits])
    own, before = ([text.tokens[i - back] for i in places] for back in (0, 1))
    yield {
        "chance": 1 / len(held),
        "n_positions": len(places),
        "own likeliest": (likeliest[:, places] == own).mean(axis=1).tolist(),
        "own in top 10": (_ranks(logits, places, own) < 10).mean(axis=1).tolist(),
        "before likeliest": (likeliest[:, places] == before).mean(axis=1).tolist(),
        "before in top 10": (_ranks(logits, places, before) < 10).mean(axis=1).tolist(),
    }


def _ranks(logits: mx.array, places: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
    """(n_layers + 1, n_places): rank of a token at each place, at every layer."""
    return np.array([lens_ranks(logits[:, i], [token]) for i, token in zip(places, tokens, strict=True)]).T
