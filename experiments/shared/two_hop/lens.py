"""A lens on two-hop queries: at which layer do bridge and answer become visible, and in which order?

Visible: the best accepted first token is among the top k of the lens. Read at the last position and at the subject's
last token; a query's bridge (or answer) is visible from the first layer at which it is at either of them, as in the
study. Gap: first layer of the answer minus first layer of the bridge; positive is sequential. Control: the bridge and
the answer of another query of the family. Names of several tokens: log-probability of the whole name at each layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict, cast

from experiments.harness.experiment import Metric, Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared.two_hop.queries import Case, Labelled
from experiments.shared.two_hop.summaries import ALL, families, mean_over, n_layers, share_by_layer
from experiments.shared.two_hop.tuned import LensConfig, trained
from mlx_interp.behaviour.answers import question
from mlx_interp.lenses.logit import first_layer, lens_at, lens_name_log_probs, lens_ranks
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import Estimate

STAGE = "lens"
ENTITIES = ("bridge", "answer")
PLACES = ("subject", "last")

OwnRanks = TypedDict(
    "OwnRanks",
    {
        "bridge at subject": list[int],
        "bridge at last": list[int],
        "answer at subject": list[int],
        "answer at last": list[int],
        "bridge log_prob": list[float],
        "answer log_prob": list[float],
    },
)
"""By layer: rank of the best accepted first token, 0 on top, and log-probability of the whole name at the last one."""
OtherRanks = TypedDict(
    "OtherRanks",
    {
        "other bridge at subject": list[int],
        "other bridge at last": list[int],
        "other answer at subject": list[int],
        "other answer at last": list[int],
    },
    total=False,
)
"""The same ranks of another query's bridge and answer; absent where the family has no other."""


class Sighted(Labelled, OwnRanks, OtherRanks):
    """Where a query's bridge and answer are in the lens, by layer: at the subject's last token and at the last one."""


def measure(run: Run[LensConfig], case: Case) -> Iterator[Sighted]:
    """Ranks by layer of each entity at each position, and log-probabilities of the whole names at the last one."""
    model = run.model
    query = case.query
    prompt = model.prompt(query.two_hop)
    positions = {"subject": prompt.find(query.subject, occurrence=-1)[-1], "last": len(prompt) - 1}
    through = trained(run)
    logits = lens_at(model, prompt, list(positions.values()), lens=through)
    record: Record = {**case.labels}
    for prefix, source in (("", query), ("other ", case.donor)):
        if source is None:
            continue
        bridge = question(model, query.two_hop, source.bridges)
        answer = question(model, query.two_hop, source.answers)
        for entity, asked in (("bridge", bridge), ("answer", answer)):
            for place, rows in zip(positions, logits, strict=True):
                record[f"{prefix}{entity} at {place}"] = lens_ranks(rows, asked.first_tokens)
            if not prefix:
                record[f"{entity} log_prob"] = [round(value, 3) for value in lens_name_log_probs(model, asked, through)]
    yield cast(Sighted, record)


def visible(record: Record, entity: str, k: int, *places: str, whose: str = "") -> int | None:
    """The first layer at which an entity is among the top k, at any of the places (both by default)."""
    names = [f"{whose}{entity} at {place}" for place in places or PLACES]
    if any(name not in record for name in names):
        return None
    return first_layer([min(ranks) for ranks in zip(*(record[name] for name in names), strict=True)], k)


def gap(record: Record, k: int) -> int | None:
    """First layer of the answer minus first layer of the bridge; None where one is never visible."""
    bridge, answer = (visible(record, entity, k) for entity in ENTITIES)
    return None if bridge is None or answer is None else answer - bridge


def order_table(records: Records, config: LensConfig) -> Table | None:
    """By family: whether both are visible, in which order, and how far apart."""
    lenses = of(records, STAGE)
    if not lenses:
        return None
    rows: list[list[Cell]] = []
    for family in families(lenses):
        mine = [r for r in lenses if family in (ALL, r["family"])]
        both = [r for r in mine if gap(r, config.lens_k) is not None]
        gaps = [float(gap(r, config.lens_k) or 0) for r in both]
        rows.append(
            [
                family,
                len(mine),
                len(both),
                mean_over([visible(r, "bridge", config.lens_k) is not None for r in mine], mine, config.seed),
                _control(mine, "bridge", config),
                mean_over([visible(r, "answer", config.lens_k) is not None for r in mine], mine, config.seed),
                _control(mine, "answer", config),
                mean_over([value > 0 for value in gaps], both, config.seed),
                mean_over(gaps, both, config.seed),
            ]
        )
    return Table(
        f"Bridge and answer in the top {config.lens_k} of the {config.lens} lens",
        [
            "family",
            "n",
            "both visible",
            Column("bridge visible", "%"),
            Column("another's", "%"),
            Column("answer visible", "%"),
            Column("another's", "%"),
            Column("sequential", "%"),
            Column("gap", "layers", digits=1),
        ],
        rows,
        ["Sequential: the bridge is visible in a lower layer than the answer, of those where both are visible."],
    )


def place_table(records: Records, config: LensConfig) -> Table | None:
    """By position and by whether the model answers: first layers."""
    lenses = of(records, STAGE)
    if not lenses:
        return None
    rows: list[list[Cell]] = []
    for group in dict.fromkeys(r["group"] for r in lenses):
        for entity in ENTITIES:
            for place in PLACES:
                mine = [r for r in lenses if r["group"] == group]
                seen = [(visible(r, entity, config.lens_k, place), r) for r in mine]
                found = [(layer, r) for layer, r in seen if layer is not None]
                controls = [visible(r, entity, config.lens_k, place, whose="other ") is not None for r in mine]
                rows.append(
                    [
                        group,
                        f"{entity}, at the {'subject' if place == 'subject' else 'last position'}",
                        len(mine),
                        mean_over([layer is not None for layer, _ in seen], mine, config.seed),
                        mean_over(controls, mine, config.seed),
                        mean_over([float(layer) for layer, _ in found], [r for _, r in found], config.seed),
                        mean_over([r[f"{entity} log_prob"][-1] for r in mine], mine, config.seed),
                    ]
                )
    return Table(
        "First visible layer by position",
        [
            "group",
            "entity",
            "n",
            Column("visible", "%"),
            Column("another query's", "%"),
            Column("first layer", digits=1),
            Column("whole name at the end", "log-probability, nats", digits=1),
        ],
        rows,
        ["Whole name: at the last layer and position, so that of the answer is what the model would write."],
    )


def curves(records: Records, config: LensConfig) -> Iterator[Plot]:
    """Share of queries with bridge and answer visible, by layer."""
    lenses = of(records, STAGE)
    series = []
    for entity, place in (("bridge", "subject"), ("bridge", "last"), ("answer", "last")):
        hits = {r["item"]: [rank < config.lens_k for rank in r[f"{entity} at {place}"]] for r in lenses}
        series.append(Series(f"{entity}, at the {place}", share_by_layer(hits, lenses, config.seed)))
    others = [r for r in lenses if "other bridge at subject" in r]
    for entity, place in (("bridge", "subject"), ("answer", "last")):
        hits = {r["item"]: [rank < config.lens_k for rank in r[f"other {entity} at {place}"]] for r in others}
        series.append(Series(f"another query's {entity}, at the {place}", share_by_layer(hits, others, config.seed)))
    if lenses:
        yield line_with_band(
            list(range(n_layers(records))),
            [line for line in series if line.estimates],
            name="lens",
            title=f"In the top {config.lens_k} of the {config.lens} lens",
            x_label="layer (resid_post)",
            y_label="share of queries",
            limits=(0, 1.02),
            caption=f"Share of {len(lenses)} queries whose bridge and answer are among the top {config.lens_k} of the "
            f"{config.lens} lens at each layer, and those of another query as control; bands: 95 % intervals over "
            "bridges.",
        )


def gap_summary(records: Records, config: LensConfig) -> tuple[list[Record], list[float]]:
    """The queries where both are visible, and their gaps."""
    both = [r for r in of(records, STAGE) if gap(r, config.lens_k) is not None]
    return both, [float(gap(r, config.lens_k) or 0) for r in both]


def metrics(records: Records, config: LensConfig) -> list[Metric]:
    """What is compared over models: order, and gap in layers and in shares of the depth."""
    both, gaps = gap_summary(records, config)
    depth = n_layers(records)
    return [
        Metric("sequential queries", "%", mean_over([gap > 0 for gap in gaps], both, config.seed)),
        Metric("gap", "layers", mean_over(gaps, both, config.seed)),
        Metric("gap over depth", "", mean_over([gap / depth for gap in gaps], both, config.seed)),
    ]


def _control(mine: list[Record], entity: str, config: LensConfig) -> Estimate | None:
    held = [r for r in mine if f"other {entity} at last" in r]
    return mean_over([visible(r, entity, config.lens_k, whose="other ") is not None for r in held], held, config.seed)
