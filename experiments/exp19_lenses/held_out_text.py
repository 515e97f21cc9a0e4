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

from experiments.exp19_lenses.lens_texts import Text, TextConfig, held_out, lenses_of, place, read_states, split_texts
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame, of
from experiments.harness.state import Run
from experiments.shared.two_hop.tuned import EXCHANGED, LOGIT, TUNED
from mlx_interp.deferred import mx
from mlx_interp.lenses.lens_measures import (
    NATS_PER_BIT,
    bias_bits,
    mean_distributions,
    next_token_nats,
    transfer,
)
from mlx_interp.lenses.logit import lens_ranks, top_among
from mlx_interp.lenses.tuned import kl_to_last, positions_of
from mlx_interp.reporting import Cell, Column, Panel, Plot, Record, Series, Table, heat_map, line_with_band
from mlx_interp.stats import Estimate, function_interval

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
        if name == TUNED:
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


def bits(mine: Sequence[Record], nats: Sequence[float], seed: int) -> Estimate | None:
    """Bits per byte over texts: the sum of their nats by that of their bytes."""
    top, bottom = np.array(nats) / NATS_PER_BIT, np.array([r["n_bytes"] for r in mine], dtype=np.float64)
    return function_interval(lambda rows: top[rows].sum(1) / bottom[rows].sum(1), len(mine), seed=seed)


def text_table(records: Records, config: TextConfig) -> Table | None:
    """Bits per byte and KL by layer and lens."""
    own = {name: of(records, TEXTS, lens=name) for name in LENSES}
    first = own[LOGIT]
    if not first:
        return None
    rows: list[list[Cell]] = []
    guess = bits(first, [r["unigram"] for r in first], config.seed)
    model = bits(first, [r["nats"][-1] for r in first], config.seed)
    for row in range(len(first[0]["kl"])):
        spent = [bits(own[name], [r["nats"][row] for r in own[name]], config.seed) for name in LENSES]
        apart = [_mean([r["kl"][row] for r in own[name]], own[name], config) for name in LENSES]
        rows.append([place(row), len(first), *spent, guess, model, *apart])
    return Table(
        "Lenses on held-out text",
        [
            *("layer", "n texts"),
            *(Column(name, "bits per byte") for name in LENSES),
            *(Column("unigram", "bits per byte"), Column("the model", "bits per byte", digits=3)),
            *(Column(f"KL, {name}", "nats") for name in LENSES),
        ],
        rows,
        [
            f"Lens trained on {config.n_train_texts} other texts or fewer, {config.lens_steps} steps. Texts of the "
            "embedded world: the model has seen all of them, and is read where it was trained to predict."
        ],
    )


def text_figure(records: Records, config: TextConfig) -> Iterator[Plot]:
    """Bits per byte by layer."""
    own = {name: of(records, TEXTS, lens=name) for name in LENSES}
    first = own[LOGIT]
    if not first:
        return
    places = range(len(first[0]["nats"]))
    series = [
        Series(name, [bits(own[name], [r["nats"][row] for r in own[name]], config.seed) for row in places])
        for name in LENSES
    ]
    guess = bits(first, [r["unigram"] for r in first], config.seed)
    yield line_with_band(
        [row - 1 for row in places],
        [*series, Series("unigram", [guess for _ in places])],
        name="bits_per_byte",
        title="Lenses on held-out text",
        x_label="layer (-1: the embedding)",
        y_label="bits per byte",
        caption=f"Bits per byte of what follows, by layer, on {len(first)} held-out texts; the last layer is the model "
        "itself; 95 % intervals over texts.",
    )


def bias_table(records: Records, config: TextConfig) -> Table | None:
    """Bias by layer and lens."""
    own = {name: {r["layer"]: r for r in of(records, BIAS, item=name)} for name in LENSES}
    if not own[LOGIT]:
        return None
    rows: list[list[Cell]] = [
        [
            place(layer + 1),
            own[LOGIT][layer]["n_texts"],
            *(_estimate(own[name][layer], "bias") for name in LENSES),
            _estimate(own[LOGIT][layer], "unigram"),
        ]
        for layer in own[LOGIT]
    ]
    return Table(
        "Bias of each layer's lens",
        [
            *("layer", "n texts"),
            *(Column(name, "bits") for name in LENSES),
            Column("unigram", "bits"),
        ],
        rows,
        [
            "KL divergence of the lens's mean distribution over the texts from that of the model, by "
            f"jackknife over {GROUPS} groups of texts. Unigram: how often tokens follow in the training texts."
        ],
    )


def _estimate(record: Record, name: str) -> Estimate | None:
    if record[name] is None:
        return None
    value, low, high = record[name]
    return Estimate(value, low, high, record["n_texts"])


def bias_figure(records: Records, config: TextConfig) -> Iterator[Plot]:
    own = {name: of(records, BIAS, item=name) for name in LENSES}
    if not own[LOGIT]:
        return
    yield line_with_band(
        [r["layer"] for r in own[LOGIT]],
        [
            *(Series(name, [_estimate(r, "bias") for r in own[name]]) for name in LENSES),
            Series("unigram", [_estimate(r, "unigram") for r in own[LOGIT]]),
        ],
        name="bias",
        title="Bias of each layer's lens",
        x_label="layer (-1: the embedding)",
        y_label="KL between mean distributions (bits)",
        caption=f"KL divergence of a lens's mean distribution over {own[LOGIT][0]['n_texts']} held-out texts from the "
        "model's; 95 % intervals over groups of texts.",
    )


def penalties(records: Records) -> tuple[list[Record], np.ndarray]:
    """Texts, and (n_texts, translator, layer): bits from the model beyond those of the own translator."""
    mine = of(records, TEXTS, lens=TUNED)
    found = np.array([r["transfer"] for r in mine])
    own = found[:, np.arange(found.shape[1]), np.arange(found.shape[1])] if len(mine) else found
    return mine, (found - own[:, None, :]) / NATS_PER_BIT if len(mine) else found


def transfer_table(records: Records, config: TextConfig) -> Table | None:
    """Penalty by how far, and in which direction, a translator is moved."""
    mine, found = penalties(records)
    if not mine:
        return None
    n = found.shape[1]
    kept = np.array([r["kl"][:n] for r in of(records, TEXTS, lens=LOGIT)]) / NATS_PER_BIT
    tuned = np.diagonal(np.array([r["transfer"] for r in mine]), axis1=1, axis2=2) / NATS_PER_BIT
    rows: list[list[Cell]] = []
    for apart in range(1 - n, n):
        if apart:
            layers = [layer for layer in range(n) if 0 <= layer - apart < n]
            means = np.mean([found[:, layer - apart, layer] for layer in layers], axis=0)
            none = np.mean([kept[:, layer] - tuned[:, layer] for layer in layers], axis=0)
            rows.append([apart, len(layers), len(mine), _mean(means, mine, config), _mean(none, mine, config)])
    return Table(
        "Transfer of translators between layers",
        [
            Column("used above its own by", "layers"),
            *("cells", "n texts"),
            Column("penalty", "bits"),
            Column("penalty of no translator", "bits"),
        ],
        rows,
        ["Penalty: KL from the model beyond that of the layer's own translator; none: the logit lens there."],
    )


def transfer_figure(records: Records, config: TextConfig) -> Iterator[Plot]:
    mine, found = penalties(records)
    if mine:
        names = [place(row) for row in range(found.shape[1])]
        yield heat_map(
            [Panel("tuned lens", found.mean(axis=0))],
            name="transfer",
            title="Transfer of translators between layers",
            x_label="used at layer",
            y_label="translator of layer",
            value_label="penalty (bits)",
            x_ticks=names,
            y_ticks=names,
            caption="KL divergence from the model, in bits, beyond that of the layer's own translator, mean over "
            f"{len(mine)} held-out texts.",
        )


def input_table(records: Records, config: TextConfig) -> Table | None:
    """What is left of the input's token, layer by layer."""
    mine = of(records, INPUT)
    if not mine:
        return None
    columns = ("own likeliest", "before likeliest", "own in top 10", "before in top 10")
    rows: list[list[Cell]] = [
        [
            place(row),
            len(mine),
            _mean([r["own likeliest"][row] for r in mine], mine, config),
            _mean([r["before likeliest"][row] for r in mine], mine, config),
            _mean([r["chance"] for r in mine], mine, config),
            *(_mean([r[name][row] for r in mine], mine, config) for name in columns[2:]),
        ]
        for row in range(len(mine[0]["own likeliest"]))
    ]
    return Table(
        "The input's tokens in the logit lens",
        [
            *("layer", "n texts"),
            Column("own token likeliest of the text's", "%"),
            Column("the one before", "%"),
            Column("chance", "%"),
            Column("own token in the top 10", "%"),
            Column("the one before in the top 10", "%"),
        ],
        rows,
        [
            "The vocabulary is that of the text alone in the first three columns, the whole one in the last two. All "
            "positions from the third on, whether the model was trained to predict there or not."
        ],
    )


def input_figure(records: Records, config: TextConfig) -> Iterator[Plot]:
    mine = of(records, INPUT)
    if not mine:
        return
    places = range(len(mine[0]["own likeliest"]))
    chance = _mean([r["chance"] for r in mine], mine, config)
    yield line_with_band(
        [row - 1 for row in places],
        [
            Series("own token", [_mean([r["own likeliest"][row] for r in mine], mine, config) for row in places]),
            Series(
                "the one before", [_mean([r["before likeliest"][row] for r in mine], mine, config) for row in places]
            ),
            Series("chance", [chance for _ in places]),
        ],
        name="input_tokens",
        title="The input's tokens in the logit lens",
        x_label="layer (-1: the embedding)",
        y_label="likeliest of the text's tokens, share",
        limits=(0, 1.02),
        caption=f"How often a position's own token is the likeliest of the tokens of its text in the logit lens, over "
        f"{len(mine)} texts; 95 % intervals over texts.",
    )


def _mean(values: Sequence[float] | np.ndarray, mine: Sequence[Record], config: TextConfig) -> Estimate | None:
    return Frame(mine).mean((float(value) for value in values), seed=config.seed)


def headline(records: Records, config: TextConfig) -> str:
    """Bits per byte of both lenses in the middle."""
    own = {name: of(records, TEXTS, lens=name) for name in LENSES}
    if not own[LOGIT]:
        return ""
    row = len(own[LOGIT][0]["kl"]) // 2
    logit, tuned = (bits(own[name], [r["nats"][row] for r in own[name]], config.seed) for name in (LOGIT, TUNED))
    return (
        f"at layer {place(row)} the logit lens spends {logit} bits per byte, the tuned lens {tuned}, over "
        f"{len(own[LOGIT])} held-out texts"
    )


TABLES = (text_table, bias_table, transfer_table, input_table)
FIGURES = (text_figure, bias_figure, transfer_figure, input_figure)
