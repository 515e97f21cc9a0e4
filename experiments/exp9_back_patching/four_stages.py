"""The four stages of a two-hop answer (Biran et al. 2024, section 3d), read from the records of the other parts.

1 first hop resolved: first source layer from which the bridge's position describes the bridge.
2 information moved: mean of three first layers, as far as they exist: the knockout of attention from the last position
  to the bridge's is effective; the bridge is on top of what attention adds; the last position describes the bridge.
3 second hop resolved: first source layer from which the last position describes the answer.
4 prediction extracted: first layer whose MLP has the prediction on top of what it adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

from experiments.exp9_back_patching import describe, knock_out, project
from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.shared.two_hop.summaries import GROUPS, first, mean_over
from mlx_interp.reporting import Cell, Column, Plot, Record, Table, box_plot
from mlx_interp.stats import Estimate, unpaired_difference

STAGES = ("first hop resolved", "information moved", "second hop resolved", "prediction extracted")


def layers(records: Records, group: str) -> dict[str, list[float | None]]:
    """For each query of a group the layer of each stage; None where it is never seen."""
    found: dict[str, list[float | None]] = {}
    described = of(records, describe.STAGE, group=group)
    at = {(r["item"], r["position"]): r for r in described}
    knocked = {r["item"]: r for r in of(records, knock_out.STAGE, group=group, edge=knock_out.MAIN)}
    projected = {(r["item"], r["sublayer"]): r for r in of(records, project.STAGE, group=group)}
    for item in dict.fromkeys(r["item"] for r in described):
        if item not in knocked or (item, "MLP") not in projected:
            continue
        moved = [
            knock_out.effective(knocked[item]),
            first(project.top(projected[item, "attention"], "bridge")),
            first(describe.by_source(at[item, "last"], "bridge")),
        ]
        seen = [layer for layer in moved if layer is not None]
        found[item] = [
            first(describe.by_source(at[item, "bridge"], "bridge")),
            mean(seen) if seen else None,
            first(describe.by_source(at[item, "last"], "answer")),
            first(project.top(projected[item, "MLP"], "prediction")),
        ]
    return found


def table(records: Records, config: PatchingConfig) -> Table | None:
    """Mean layer of each stage, failures beside correct queries, and the difference."""
    if not any(layers(records, group) for group in GROUPS):
        return None
    units = {r["item"]: r for r in records if "bridge" in r}
    by_group = {group: layers(records, group) for group in GROUPS}
    rows: list[list[Cell]] = []
    for number, stage in enumerate(STAGES):
        seen = {group: _seen(found, number) for group, found in by_group.items()}
        means = [mean_over(list(s.values()), [units[i] for i in s], config.seed) for s in seen.values()]
        counts = [f"{len(s)} of {len(by_group[group])}" for group, s in seen.items()]
        rows.append([f"{number + 1} {stage}", counts[0], means[0], counts[1], means[1], _later(seen, units, config)])
    return Table(
        "Stages: first layer of each",
        [
            "stage",
            "failures seen",
            Column("layer, failures", digits=1),
            "correct seen",
            Column("layer, correct", digits=1),
            Column("later in failures by", "layers", digits=1),
        ],
        rows,
        ["Means over the queries where a stage is seen; 95 % intervals over bridges."],
    )


def _seen(found: dict[str, list[float | None]], number: int) -> dict[str, float]:
    return {item: float(layer) for item, row in found.items() if (layer := row[number]) is not None}


def _later(seen: dict[str, dict[str, float]], units: dict[str, Record], config: PatchingConfig) -> Estimate | None:
    failures, correct = seen["failure"], seen["correct"]
    return unpaired_difference(
        list(failures.values()),
        list(correct.values()),
        unit=[units[item]["bridge"] for item in failures],
        other_unit=[units[item]["bridge"] for item in correct],
        seed=config.seed,
    )


def boxes(records: Records, config: PatchingConfig) -> Iterator[Plot]:
    """Layers of the four stages, failures beside correct queries."""
    values = {
        label: [list(_seen(layers(records, group), number).values()) for number in range(len(STAGES))]
        for group, label in GROUPS.items()
    }
    if any(any(columns) for columns in values.values()):
        yield box_plot(
            [f"{number + 1} {stage}" for number, stage in enumerate(STAGES)],
            values,
            name="stages",
            title="Stages of a two-hop answer",
            y_label="layer",
            caption="First layer of each stage over the queries where it is seen: median, quartiles, whiskers to 1.5 "
            "times their distance, and what lies beyond.",
        )
