"""Attention knockout: in which layers does the last position need to see the bridge's? (Biran et al. 2024, section 3c)

Attention from one group of positions to another is forbidden in a window of layers around each layer, while the prompt
is read; ten tokens are then generated. A window is effective if the text changes, unless it was right and stays so.
Control: the same from the last position to one that was drawn at random among those outside the first hop's phrase.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared.two_hop.queries import Case, Labelled
from experiments.shared.two_hop.summaries import GROUPS, first, mean_over, n_layers, share_by_layer
from mlx_interp.behaviour.answers import mentions
from mlx_interp.behaviour.two_hop import bridge_position
from mlx_interp.interventions import Intervention, Knockout
from mlx_interp.model import Model
from mlx_interp.patching.knockout import reach_of, windows
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import stable_draw

STAGE = "knocked_out"
MAIN, CONTROL = "last to bridge position", "last to a random position"
FIGURE = (MAIN, "last to subject", "last to second relation", CONTROL)
Edge = tuple[str, str, list[int], list[int]]
"""Name, prompt, query positions, key positions."""


class KnockedOut(Labelled):
    """What forbidding attention between two groups of positions does, by the middle layer of the window."""

    edge: str
    reach: int
    """Layers to either side that the knockout covers."""
    changed: list[bool]
    """Whether the text is another one."""
    right: list[bool]
    """Whether it contains the answer."""


def measure(run: Run[PatchingConfig], case: Case) -> Iterator[KnockedOut]:
    """For each pair of position groups, what every window of layers does to the text."""
    model, config = run.model, run.config
    reach = config.knockout_reach if config.knockout_reach >= 0 else reach_of(model.n_layers)
    by_prompt: dict[str, list[Edge]] = {}
    for edge in edges(model, case, config.seed):
        by_prompt.setdefault(edge[1], []).append(edge)
    for prompt, pairs in by_prompt.items():
        grid: list[list[Intervention]] = [[]]
        for _, _, query, keys in pairs:
            grid += [[Knockout(window, query=query, keys=keys)] for window in windows(model.n_layers, reach)]
        texts = [c.text for c in model.sweep_generate(prompt, grid, max_tokens=config.new_tokens)]
        names = case.query.bridges if prompt == case.query.first_hop else case.query.answers
        right = [mentions(text, names) for text in texts]
        for number, (name, _, _, _) in enumerate(pairs):
            mine = slice(1 + number * model.n_layers, 1 + (number + 1) * model.n_layers)
            changed = [t != texts[0] and not (r and right[0]) for t, r in zip(texts[mine], right[mine], strict=True)]
            yield {**case.labels, "edge": name, "reach": reach, "changed": changed, "right": right[mine]}


def edges(model: Model, case: Case, seed: int) -> Iterator[Edge]:
    """Pairs of position groups, in the two-hop prompt and in both single hops; none that only looks ahead."""
    query = case.query
    prompt = model.prompt(query.two_hop)
    last, bridge = [len(prompt) - 1], [bridge_position(model, query)]
    mention = prompt.find(query.mention, occurrence=-1)
    subject = [p for p in prompt.find(query.subject, occurrence=-1) if p in mention]
    relation = [p for p in mention if p not in subject]
    words = [p for p, (low, high) in enumerate(prompt.spans) if high > low >= len(query.context)]
    outside = [p for p in words if p not in mention and p != last[0]]
    second = [p for p in outside if p < mention[0]] or [p for p in outside if p > mention[-1]]
    drawn = [outside[stable_draw(seed, query.key, len(outside))]] if outside else []
    later = list(range(subject[-1] + 1, last[0] + 1))
    candidates: Sequence[tuple[str, list[int], list[int]]] = (
        (MAIN, last, bridge),
        ("last to subject", last, subject),
        ("last to first relation", last, relation),
        ("last to second relation", last, second),
        ("first relation to subject", relation, subject),
        ("subject to first relation", subject, relation),
        ("everything to subject", later, subject),
        (CONTROL, last, drawn),
    )
    for name, queries, keys in candidates:
        if queries and keys and min(keys) < max(queries):
            yield name, query.two_hop, queries, keys
    for name, text, key in (
        ("first hop: last to subject", query.first_hop, query.subject),
        ("second hop: last to bridge", query.second_hop, next((b for b in query.bridges if b in query.second_hop), "")),
    ):
        single = model.prompt(text)
        keys = [p for p in single.find(key, occurrence=-1) if p < len(single) - 1] if key else []
        if keys:
            yield name, text, [len(single) - 1], keys


def effective(record: Record) -> int | None:
    """The first layer around which forbidding attention changes the text."""
    return first(record["changed"])


def table(records: Records, config: PatchingConfig) -> Table | None:
    """How often a window anywhere is effective, where first, and what share of the windows is."""
    if not of(records, STAGE):
        return None
    rows: list[list[Cell]] = []
    for group in GROUPS:
        everything = of(records, STAGE, group=group)
        control = [r for r in everything if r["edge"] == CONTROL]
        reference = mean_over([float(np.mean(r["changed"])) for r in control], control, config.seed)
        for edge in dict.fromkeys(r["edge"] for r in everything):
            mine = [r for r in everything if r["edge"] == edge]
            hit = [r for r in mine if effective(r) is not None]
            rows.append(
                [
                    group,
                    edge,
                    len(mine),
                    mean_over([effective(r) is not None for r in mine], mine, config.seed),
                    mean_over([float(np.mean(r["changed"])) for r in mine], mine, config.seed),
                    reference,
                    mean_over([float(effective(r) or 0) for r in hit], hit, config.seed),
                ]
            )
    reach = next((r["reach"] for r in of(records, STAGE)), 0)
    return Table(
        "Attention knockout",
        [
            "group",
            "from and to",
            "n",
            Column("effective somewhere", "%"),
            Column("of the layers", "%"),
            Column("random position", "%"),
            Column("first layer", digits=1),
        ],
        rows,
        [
            f"Windows of {2 * reach + 1} layers, cut at the ends. Effective: the text changes, and it is not right "
            "before and after. Of the layers: mean share of windows that are effective; beside it that of the last "
            "position and a random one.",
        ],
    )


def curves(records: Records, config: PatchingConfig) -> Iterator[Plot]:
    """Share of queries whose text changes, by the layer around which attention is forbidden."""
    for group, label in GROUPS.items():
        series = []
        for edge in FIGURE:
            mine = of(records, STAGE, group=group, edge=edge)
            if mine:
                hits = {r["item"]: r["changed"] for r in mine}
                series.append(Series(edge, share_by_layer(hits, mine, config.seed)))
        if series:
            yield line_with_band(
                list(range(n_layers(records))),
                series,
                name=f"knockout_{group}",
                title=f"Attention knockout, {label}",
                x_label="layer around which attention is forbidden",
                y_label="share of texts that change",
                limits=(0, 1.02),
                caption=f"Share of {label} whose text changes when attention between two groups of positions is "
                "forbidden in a window of layers; bands: 95 % intervals over bridges.",
            )
