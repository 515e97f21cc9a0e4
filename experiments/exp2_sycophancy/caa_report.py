"""Tables and figures of contrastive activation addition: contexts, tokens, cosines, transfer between layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.exp2_sycophancy.caa import CONTEXTS, GEOMETRY, PLACES, TOKENS, TRANSFER
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame, of
from experiments.shared.traits.choices import (
    ChoiceConfig,
    best_layer,
)
from mlx_interp.reporting import Cell, Column, Panel, Plot, Record, Series, Table, heat_map, line_with_band
from mlx_interp.stats import Estimate, mean_or_none


def context_table(records: Records, config: ChoiceConfig) -> Table | None:
    """The vector in every context, a random one beside it."""
    rows: list[list[Cell]] = []
    for behaviour, context in dict.fromkeys((r["behaviour"], r["context"]) for r in of(records, CONTEXTS)):
        own = of(records, CONTEXTS, behaviour=behaviour, context=context)
        arms = (("direction", -1.0), ("plain", 0.0), ("direction", 1.0), ("random", -1.0), ("random", 1.0))
        cells = [_mean([r for r in own if (r["arm"], r["multiplier"]) == arm], "p", config.seed) for arm in arms]
        rows.append([behaviour, context, own[0]["layer"], len({r["unit"] for r in own}), *cells])
    if not rows:
        return None
    return Table(
        "Questions of two options after other turns",
        ["vector of", "context", "layer", "n", "p, -1", "p, plain", "p, +1", "p, -1, random", "p, +1, random"],
        rows,
        [
            "Turns: other questions, each answered in the way that shows the behaviour (matching) or not (other). "
            "System prompts: where the chat template has them.",
        ],
    )


def token_table(records: Records, config: ChoiceConfig) -> Table | None:
    """Projections by place."""
    rows: list[list[Cell]] = []
    for behaviour in dict.fromkeys(r["behaviour"] for r in of(records, TOKENS)):
        for arm in ("direction", "random"):
            own = of(records, TOKENS, behaviour=behaviour, arm=arm)
            cells = [_mean([r for r in own if r["place"] == place], "projection", config.seed) for place in PLACES]
            rows.append([behaviour, arm, own[0]["layer"], len({r["unit"] for r in own}), *cells])
    if not rows:
        return None
    return Table(
        "Projections by token",
        ["vector of", "on", "layer", "n", *(Column(place, "absolute", digits=1) for place in PLACES)],
        rows,
        ["Held-out questions. Question: mean over the tokens before the prompt's last one. Answers: where they part."],
    )


def cosine_table(records: Records, config: ChoiceConfig) -> Table | None:
    """Cosines of behaviours at the layer chosen for the first, and how far its answers are apart there."""
    rows: list[list[Cell]] = []
    measured = of(records, GEOMETRY)
    names = list(dict.fromkeys(r["behaviour"] for r in measured))
    for behaviour in names:
        layer = best_layer(records, behaviour)
        if layer is None:
            continue
        (own,) = (r for r in measured if r["behaviour"] == behaviour and r["layer"] == layer)
        near = [_spread(own, field, config.seed) for field in ("silhouettes", "shuffled")]
        rows.append([behaviour, layer, own["n"], *near, *(own["to"][name] for name in names), own["random"]])
    if not rows:
        return None
    return Table(
        "Vectors at the answers: separation and cosines",
        [
            *("vector of", "layer", "n", "silhouette in two components", "silhouette, shuffled labels"),
            *(f"cosine to {name}" for name in names),
            "cosine to a random vector",
        ],
        rows,
        ["At the layer chosen for the behaviour of the row. Components: of both answers of held-out questions."],
    )


def _spread(record: Record, field: str, seed: int) -> Estimate | None:
    values = record[field]
    n = len(values) // 2  # both answers of a question are one unit
    return mean_or_none(values, unit=[i % n for i in range(len(values))], seed=seed)


def _mean(records: Sequence[Record], field: str, seed: int) -> Cell:
    return Frame(records).rate(field, unit="unit", seed=seed)


def figures(records: Records, config: ChoiceConfig) -> Iterator[Plot]:
    """Transfer between layers; separation in two principal components by layer."""
    names = list(dict.fromkeys(r["behaviour"] for r in of(records, TRANSFER)))
    if names:
        yield transfer_figure(records, names)
    measured = of(records, GEOMETRY)
    names = list(dict.fromkeys(r["behaviour"] for r in measured))
    if not names:
        return
    layers = sorted({r["layer"] for r in measured})
    at = {(r["behaviour"], r["layer"]): r for r in measured}
    curves = [
        Series(name, [_spread(at[name, layer], "silhouettes", config.seed) for layer in layers]) for name in names[:5]
    ]
    null = [_spread(at[names[0], layer], "shuffled", config.seed) for layer in layers]
    yield line_with_band(
        layers,
        [*curves, Series("shuffled labels", null)],
        name="choices_separation",
        title="Both answers in two principal components",
        x_label="layer (output of the block)",
        y_label="silhouette",
        caption="How far the answer that shows a behaviour lies from the other one, in the first two principal "
        f"components of both answers of {measured[0]['n']} held-out questions, by layer; shuffled labels of "
        f"{names[0]}. Bands: 95 % intervals over questions.",
    )


def transfer_figure(records: Records, names: Sequence[str]) -> Plot:
    """Mean effect of every layer's vector after every layer."""
    n = 1 + max(r["layer"] for r in of(records, TRANSFER))
    panels = []
    for name in names:
        total, own = np.zeros((n, n)), of(records, TRANSFER, behaviour=name)
        for r in own:
            total[r["layer"], r["target"]] += r["gap"]
        panels.append(Panel(name, total / len({r["unit"] for r in own})))
    return heat_map(
        panels,
        name="choices_transfer",
        title="Vector of one layer added after another",
        x_label="layer after which it is added",
        y_label="layer of the vector",
        value_label="p(match), +1 less -1",
        caption="What the vector of one layer (rows) does after another one (columns), at the length of the "
        "other one's: probability of the answer that shows the behaviour at +1 less that at -1, mean over held-out "
        "questions.",
        columns=2,
    )
