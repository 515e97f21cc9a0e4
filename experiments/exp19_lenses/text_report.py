"""Tables and figures of lenses on held-out text: bits per byte, bias, transfer of translators, tokens that are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.exp19_lenses.held_out_text import BIAS, GROUPS, INPUT, LENSES, TEXTS
from experiments.exp19_lenses.lens_texts import TextConfig, place
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame, of
from experiments.shared.two_hop.tuned import LOGIT, TUNED
from mlx_interp.lenses.lens_measures import (
    NATS_PER_BIT,
)
from mlx_interp.reporting import Cell, Column, Panel, Plot, Record, Series, Table, heat_map, line_with_band
from mlx_interp.stats import Estimate, function_interval


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
    mine = [r for r in of(records, TEXTS, lens=TUNED) if "transfer" in r]
    found = np.array([r["transfer"] for r in mine])
    own = found[:, np.arange(found.shape[1]), np.arange(found.shape[1])] if len(mine) else found
    return mine, (found - own[:, None, :]) / NATS_PER_BIT if len(mine) else found


def transfer_table(records: Records, config: TextConfig) -> Table | None:
    """Penalty by how far, and in which direction, a translator is moved."""
    mine, found = penalties(records)
    if not mine:
        return None
    n = found.shape[1]
    texts = {r["item"] for r in mine}
    kept = np.array([r["kl"][:n] for r in of(records, TEXTS, lens=LOGIT) if r["item"] in texts]) / NATS_PER_BIT
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
