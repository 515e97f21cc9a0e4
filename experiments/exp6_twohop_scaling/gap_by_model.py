"""Gap between bridge and answer of one model, beside what was reported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared.two_hop import lens
from experiments.shared.two_hop.lens import Sighted
from experiments.shared.two_hop.queries import SCREENED, Case, all_cases
from experiments.shared.two_hop.summaries import mean_over, n_layers
from experiments.shared.two_hop.tuned import LensConfig
from mlx_interp.reporting import Cell, Column, Record, Table

REPORTED = {
    "gemma-2-2b": ("0 of 6", 0.2),
    "llama-3.2-3b": ("2 of 6", 2.2),
    "qwen-2.5-7b": ("2 of 6", 1.5),
    "llama-3.1-8b": ("2 of 6", 1.2),
    "gemma-2-9b": ("2 of 6", 4.5),
}
"""Sequential prompts and mean gap of the earlier study, by the short name of the model that it names."""


@dataclass(frozen=True)
class GapConfig(LensConfig):
    """Fields of the study."""

    queries: Literal["all", "correct"] = "all"
    """Every query without a shortcut, or only those that the model answers right."""


def cases(run: Run[GapConfig], earlier: Records) -> list[Case]:
    chosen = [
        case
        for case in all_cases(run, earlier, run.config.max_queries, run.config.all_queries)
        if case.group != "shortcut"
    ]
    return [case for case in chosen if run.config.queries == "all" or case.group == "correct"]


class SightedIn(Sighted):
    """Where a query's bridge and answer are in one model's lens, by layer."""

    model: str


def measure(run: Run[GapConfig], case: Case) -> Iterator[SightedIn]:
    """The lens on one query, with the model's name."""
    for record in lens.measure(run, case):
        yield {**record, "model": run.model.name}


def counts(records: Records, config: GapConfig) -> Table:
    """How many queries are left at each step."""
    screened = of(records, SCREENED)
    known = [r for r in screened if r["first_hop"] and r["second_hop"]]
    shortcut = [r for r in screened if r["group"] == "shortcut"]
    measured = of(records, lens.STAGE)
    row: list[Cell] = [len(screened), len(known), len(shortcut)]
    row += [sum(r["two_hop"] for r in screened), len(measured), len(lens.gap_summary(records, config)[0])]
    columns = ["queries", "both hops known", "shortcut, left out", "two-hop right", "measured", "both visible"]
    return Table("How many queries are left", columns, [row])


def scaling(records: Records, config: GapConfig) -> Table:
    """One row a model: order and gap, and what was reported."""
    both, gaps = lens.gap_summary(records, config)
    held = [r for r in of(records, lens.STAGE) if _other_gap(r, config.lens_k) is not None]
    others = [float(_other_gap(r, config.lens_k) or 0) for r in held]
    layers = n_layers(records)
    name = next((str(r["model"]) for r in of(records, lens.STAGE)), "")
    reported = REPORTED.get(name.partition(":")[0], (None, None))
    firsts = [[float(lens.visible(r, entity, config.lens_k) or 0) for r in both] for entity in lens.ENTITIES]
    row: list[Cell] = [
        layers,
        len(both),
        *(mean_over(found, both, config.seed) for found in firsts),
        mean_over([value > 0 for value in gaps], both, config.seed),
        mean_over(gaps, both, config.seed),
        mean_over(others, held, config.seed),
        mean_over([value / layers for value in gaps], both, config.seed),
        *reported,
    ]
    return Table(
        "Bridge before answer",
        [
            "layers",
            "n",
            Column("bridge layer", digits=1),
            Column("answer layer", digits=1),
            Column("sequential", "%"),
            Column("gap", "layers", digits=1),
            Column("another query's gap", "layers", digits=1),
            Column("gap", "share of the depth"),
            "sequential, reported",
            Column("gap, reported", "layers", digits=1),
        ],
        [row],
        ["Reported: by the earlier study, on six prompts of its own; not measured here."],
    )


def _other_gap(record: Record, k: int) -> int | None:
    bridge, answer = (lens.visible(record, entity, k, whose="other ") for entity in lens.ENTITIES)
    return None if bridge is None or answer is None else answer - bridge


def headline(records: Records, config: GapConfig) -> str:
    """Sequential share and mean gap."""
    both, gaps = lens.gap_summary(records, config)
    share, mean = mean_over([gap > 0 for gap in gaps], both, config.seed), mean_over(gaps, both, config.seed)
    if share is None or mean is None:
        return f"bridge and answer are both visible in {len(both)} queries: too few for an interval"
    return f"{share.text(percent=True)} % of {len(both)} queries sequential, mean gap {mean.text(digits=1)} layers"
