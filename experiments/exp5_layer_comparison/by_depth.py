"""Effect of each layer by phenomenon: table and figure."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.exp5_layer_comparison.bridge_in_lens import TOP
from experiments.exp5_layer_comparison.phenomena import BRIDGE, PHENOMENA, REPORTED, VECTOR, PhenomenaConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.shared.traits import trait_report
from experiments.shared.traits.trait_records import EFFECTS
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import Estimate, difference_interval


def effect(records: Records, trait: str, arm: str, layer: int, seed: int) -> Estimate | None:
    """Share of held-out replies that the direction turns as meant, beyond those that are so anyway: 0 where it does
    nothing. Meant: the trait where it is added, none where it is ablated. For the bridge, the share that shows it.
    """
    if trait == BRIDGE:
        return trait_report.rate(of(records, BRIDGE, arm=arm, layer=layer), seed)
    if trait == VECTOR:
        steered, plain = (of(records, VECTOR, arm=name, layer=at) for name, at in ((arm, layer), ("none", None)))
    else:
        steered, plain = (
            of(records, EFFECTS, trait=trait, split="test", arm=name, layer=at)
            for name, at in ((arm, layer), ("none", None))
        )
    if len({r["unit"] for r in steered}) < 2:
        return None
    return difference_interval(
        [as_meant(r) for r in steered],
        [as_meant(r) for r in plain],
        unit=[r["unit"] for r in steered],
        control_unit=[r["unit"] for r in plain],
        seed=seed,
    )


def as_meant(record: Record) -> float:
    """Where the trait is added, or a task done, a hit is meant; where it is ablated, none."""
    return float(bool(record["hit"]) == (record.get("kind", "negative") == "negative"))


def table(records: Records, config: PhenomenaConfig) -> Table:
    """Where each peaks, and how large it is there."""
    rows: list[list[Cell]] = []
    depth = _n_layers(records)
    for trait in PHENOMENA:
        layers = _layers(records, trait)
        curve = {at: effect(records, trait, "direction", at, config.seed) for at in layers}
        found = {at: one for at, one in curve.items() if one is not None}
        if not found:
            rows.append([trait, None, None, None, None, REPORTED.get(trait)])
            continue
        peak = max(found, key=lambda at: (found[at].value, -at))
        control = effect(records, trait, "shuffled labels", peak, config.seed)
        rows.append([trait, peak, peak / depth, found[peak], control, REPORTED.get(trait)])
    return Table(
        "Where each phenomenon peaks",
        [
            *("phenomenon", "layer", Column("depth", "%"), Column("effect there", "%"), Column("control", "%")),
            Column("depth, reported", "%"),
        ],
        rows,
        [
            "Effect: replies that turn as meant (the trait comes where its direction is added, goes where it is taken "
            "out), as a share of all, less those that are so without it: 0 where it does nothing.",
            f"Bridge: share of queries with it in the lens's top {TOP}. Function vector: bare queries right with the "
            "task's vector added at the layer's input, less those right without; control: heads drawn at random.",
            "Reported: by the first round on Gemma 2 2B, where depth was that of the longest direction.",
        ],
    )


def figure(records: Records, config: PhenomenaConfig) -> Iterator[Plot]:
    """All curves in one figure, each as a share of its own largest effect."""
    depth = _n_layers(records)
    layers = range(1, depth)
    series = []
    for trait in PHENOMENA:
        curve = [effect(records, trait, "direction", at, config.seed) for at in layers]
        largest = max((one.value for one in curve if one is not None), default=0.0)
        if largest > 0:
            series.append(
                Series(f"{trait} ({largest:.0%})", [None if one is None else _over(one, largest) for one in curve])
            )
    if series:
        yield line_with_band(
            [at / depth for at in layers],
            series,
            name="by_depth",
            title="Effects by depth",
            x_label="depth (share of the layers)",
            y_label="effect, share of its largest",
            caption="Effect of each layer's direction on held-out prompts (bridge: visibility in the lens), as a share "
            "of the largest of its curve, which the legend gives; bands are 95 % intervals.",
        )


def headline(records: Records, config: PhenomenaConfig) -> str:
    cells = [(row[0], row[2]) for row in table(records, config).rows]
    return ", ".join(
        f"{name} at {share:.0%}" if isinstance(share, float) else f"{name}: no effect" for name, share in cells
    )


def _over(one: Estimate, largest: float) -> Estimate:
    return Estimate(one.value / largest, one.low / largest, one.high / largest, one.n)


def _n_layers(records: Records) -> int:
    return int(next(r["n_layers"] for r in records if "n_layers" in r))


def _layers(records: Records, trait: str) -> list[int]:
    own = of(records, trait) if trait in (BRIDGE, VECTOR) else of(records, EFFECTS, trait=trait)
    return sorted({r["layer"] for r in own if r["layer"] is not None})
