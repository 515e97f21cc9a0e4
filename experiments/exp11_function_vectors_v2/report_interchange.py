"""Tables and figures of interchange ablation: are the chosen heads needed?"""

from __future__ import annotations

from collections.abc import Iterator

from experiments.exp11_function_vectors_v2.interchange import (
    ANY,
    ARMS,
    CHOSEN,
    DESTROYED,
    DONORS,
    EFFECT,
    FIRST,
    FIRST_HALF,
    LAST,
    NEED,
    OTHERS,
    PLACES,
    SECOND,
    SMALLEST,
    SPARED,
    Arm,
    enough,
    removed,
)
from experiments.exp11_function_vectors_v2.vector_report import names
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.shared.in_context.mediation import MediationConfig
from experiments.shared.in_context.screening import rate
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import Estimate

LABELS: dict[Arm, str] = {
    (EFFECT, CHOSEN): "largest effect",
    (NEED, CHOSEN): "most needed",
    (EFFECT, OTHERS): "random, of the others",
    (EFFECT, ANY): "random, of all",
    (EFFECT, SMALLEST): "smallest effect",
}


def arm_of(records: Records, donor: str, place: str, arm: Arm, task: str | None = None) -> list[Record]:
    found = of(records, SECOND, donor=donor, place=place, ranking=arm[0], heads=arm[1])
    return [r for r in found if task in (None, r["task"])]


def _right(found: Records, k: int, seed: int) -> Estimate | None:
    return rate([{"item": r["item"], "right": r["right"][r["counts"].index(k)]} for r in found], seed)


def _base(found: Records, seed: int) -> Estimate | None:
    return rate([{"item": r["item"], "right": r["base"]} for r in found], seed)


def needed(chosen: Estimate | None, others: Estimate | None) -> str:
    """The criterion that was fixed beforehand, in words."""
    if chosen is None or others is None:
        return "no gap"
    if chosen.value >= DESTROYED:
        return "yes" if others.value <= SPARED else "destroyed, by others as well"
    return "not destroyed"


def interchange_table(records: Records, config: MediationConfig) -> Table | None:
    """Donors, places and rankings, each at the number of heads that the first half chose."""
    if not of(records, SECOND):
        return None
    rows: list[list[Cell]] = []
    for donor in DONORS:
        for place in PLACES:
            for ranking in dict.fromkeys(arm[0] for arm in ARMS[place]):
                k, first = enough(records, donor, place, ranking, config.seed)
                arms = [arm_of(records, donor, place, (ranking, which)) for which in (CHOSEN, OTHERS, ANY, SMALLEST)]
                shares = [removed(arm, k, config.seed) if arm else None for arm in arms]
                rights = [_right(arm, k, config.seed) for arm in arms[:2]]
                found = [len(arms[0]), _base(arms[0], config.seed), *rights, *shares, needed(shares[0], shares[1])]
                rows.append([donor, place, ranking, k, first, *found])
    n = len({r["item"] for r in of(records, FIRST)})
    return Table(
        "Necessity: what heads say about the task exchanged, on prompts with examples",
        [
            *("examples of the other prompt", "exchanged at", "heads ranked", "heads"),
            Column("gap removed, first half", "%"),
            "n",
            Column("right, all heads exchanged", "%"),
            *(Column(f"right, {name}", "%") for name in ("chosen heads", "random others")),
            *(Column(f"gap removed, {name}", "%") for name in ("chosen heads", "random others")),
            *(Column(f"gap removed, {name}", "%") for name in ("random of all", "smallest effect")),
            "needed",
        ],
        rows,
        [
            "z of the heads comes from a prompt with the same query behind examples of another task, or behind "
            "corrupted labels, so that what heads say about the query stays (interchange or resampling ablation). Gap: "
            "from 100 % (the test set is right with examples) down to the other prompt itself, which is what "
            "exchanging all heads gives. Random others: as many of the heads not chosen, drawn anew for each query.",
            "Fixed beforehand: rankings from the first half of the pairs (by indirect effect, or by the drop of the "
            f"answer's probability when one head alone is exchanged); number of heads: the smallest that removes "
            f"{FIRST_HALF:.0%} of the gap on {n} queries of the first half, at most half of all heads; needed: "
            f"{DESTROYED:.0%} or more removed on the second half, and at most {SPARED:.0%} by random others.",
        ],
    )


def interchange_tasks_table(records: Records, config: MediationConfig) -> Table | None:
    """The same by task, heads by effect, at the last token."""
    if not of(records, SECOND):
        return None
    rows: list[list[Cell]] = []
    met = []
    for donor in DONORS:
        k = enough(records, donor, LAST, EFFECT, config.seed)[0]
        verdicts = []
        for name in names(records):
            arms = [arm_of(records, donor, LAST, (EFFECT, which), name) for which in (CHOSEN, OTHERS)]
            shares = [removed(arm, k, config.seed) for arm in arms]
            rights = [_right(arm, k, config.seed) for arm in arms]
            verdicts.append(needed(*shares))
            rows.append([donor, name, k, len(arms[0]), _base(arms[0], config.seed), *rights, *shares, verdicts[-1]])
        there = [verdict for verdict in verdicts if verdict != "no gap"]
        met.append(f"{there.count('yes')} of {len(there)} tasks ({donor})")
    return Table(
        "Necessity by task",
        [
            *("examples of the other prompt", "task", "heads", "n", Column("right, all heads exchanged", "%")),
            *(Column(f"right, {name}", "%") for name in ("chosen heads", "random others")),
            *(Column(f"gap removed, {name}", "%") for name in ("chosen heads", "random others")),
            "needed",
        ],
        rows,
        [f"Last token, heads by effect, as above; one list and one number for all tasks. Needed on {', '.join(met)}."],
    )


def interchange_figure(records: Records, config: MediationConfig) -> Iterator[Plot]:
    """Share of the gap removed, by the number of heads."""
    for donor in DONORS:
        own = of(records, SECOND, donor=donor)
        if not own:
            continue
        ks = own[0]["counts"]
        k = enough(records, donor, LAST, EFFECT, config.seed)[0]
        series = [
            Series(label, [removed(arm_of(records, donor, LAST, arm), n, config.seed) for n in ks])
            for arm, label in LABELS.items()
        ]
        n_queries = len({r["item"] for r in own})
        yield line_with_band(
            ks,
            series,
            name=f"necessity_{donor.replace(' ', '_')}",
            title=f"Heads exchanged with a prompt of {donor}",
            x_label="heads exchanged at the last token",
            y_label="gap removed (share)",
            caption=f"Share of the gap, from accuracy with examples down to that behind examples of {donor}, which is "
            f"removed when heads say what they said there; {n_queries} held-out queries. By the rule of the table {k} "
            "heads of the largest effect are the chosen ones. Bands: 95 % intervals over queries.",
        )
