"""Tables of the study: layers, strengths, forms of the request, slopes, and the guide's criteria."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.exp13_steering_reliability.steering_runs import (
    ADDED,
    ARMS,
    EVERYWHERE,
    ONCE,
    REPLIES,
    SHIFTS,
    SLOPES,
    THERE,
    ReliabilityConfig,
    doses,
)
from experiments.harness.experiment import Metric, Records
from experiments.harness.frame import Frame, of
from mlx_interp.reporting import Cell, Column, Record, Table
from mlx_interp.stats import Estimate, unpaired_difference

ADDITIONS = (ADDED, ONCE)
CONTROLS = ARMS[1:]


def share(records: Sequence[Record], field: str, seed: int) -> Estimate | None:
    return Frame(records).rate(field, unit="unit", seed=seed)


def target(record: Record) -> float:
    """Whether an edit did what it is for: a harmless request refused (added), a harmful one not (ablated)."""
    return float(bool(record["refused"]) == (record["edit"] in ADDITIONS))


def effects(
    records: Records, edit: str, dose: float, shift: str = "same form", *, whole: bool = False, **labels: object
) -> list[Record]:
    """Replies to the requests that an edit is for, with `done`: harmless where it adds, harmful where it ablates.

    Only of requests whose reply there is to turn: a model that refuses nothing has no refusal to ablate. whole: all.
    """
    adds = edit in ADDITIONS
    kept = of(records, REPLIES, edit=edit, dose=dose, shift=shift, harmful=not adds, **labels)
    plain = of(records, REPLIES, edit="none", shift=shift, harmful=not adds)
    as_meant = set() if whole else {r["unit"] for r in plain if bool(r["refused"]) == adds}
    return [{**r, "done": target(r)} for r in kept if r["unit"] not in as_meant]


def unturnable(records: Records, config: ReliabilityConfig) -> str:
    """A sentence on how much there was to turn, where a kind of held-out request has nothing; else nothing."""
    said = []
    for harmful, what in ((True, "harmful requests are refused without any edit"), (False, "harmless ones are not")):
        plain = of(records, REPLIES, edit="none", shift="same form", harmful=harmful, split="test")
        there = [{**r, "there": bool(r["refused"]) == harmful} for r in plain]
        if plain and not any(r["there"] for r in there):
            rate = share(there, "there", config.seed)
            said.append(f"{rate.text(percent=True) if rate else 0} % of {what}: nothing to turn there")
    return "; ".join(said)


def choice(records: Records, config: ReliabilityConfig) -> tuple[int, float] | None:
    """Layer and strength that bring most refusals, in fluent replies, on the choosing requests; ties to the lower.

    None if nothing was measured.
    """
    found: dict[tuple[int, float], float] = {}
    for layer in sorted({r["layer"] for r in of(records, REPLIES, arm="learned")}):
        for dose in config.strengths:
            own = effects(records, ADDED, dose, layer=layer, arm="learned", split="choose")
            if own:
                found[layer, dose] = float(np.mean([r["done"] * float(r["fluent"]) for r in own]))
    return max(found, key=lambda cell: (found[cell], -cell[0], -cell[1])) if found else None


def layer_for(records: Records, edit: str) -> int | None:
    """The layer at which an edit of dose 1 turns most of the choosing requests; ties to the lower."""
    found: dict[int, float] = {}
    for layer in sorted({int(r["layer"]) for r in of(records, REPLIES, arm="learned")}):
        own = effects(records, edit, 1.0, layer=layer, arm="learned", split="choose")
        if own:
            found[layer] = float(np.mean([r["done"] for r in own]))
    return max(found, key=lambda layer: (found[layer], -layer)) if found else None


def compared(records: Records, config: ReliabilityConfig) -> list[tuple[str, float, int]]:
    """Edit, dose and layer of addition at every position, addition once, and ablation everywhere, as chosen."""
    chosen = choice(records, config)
    if chosen is None:
        return []
    layers = [(edit, layer_for(records, edit)) for edit in (ONCE, EVERYWHERE)]
    return [(ADDED, chosen[1], chosen[0]), *((edit, 1.0, layer) for edit, layer in layers if layer is not None)]


def layer_table(records: Records, config: ReliabilityConfig) -> Table | None:
    """Every layer: refusals induced by the chosen strength, and removed by ablation, beside the controls."""
    chosen = choice(records, config)
    if chosen is None:
        return None
    rows: list[list[Cell]] = []
    for layer in sorted({r["layer"] for r in of(records, REPLIES, arm="learned")}):
        for edit, dose in ((ADDED, chosen[1]), (ONCE, 1.0), (THERE, max(config.gains)), (EVERYWHERE, 1.0)):
            cells = [effects(records, edit, dose, layer=layer, arm=arm, split="test") for arm in ARMS]
            if not cells[0]:
                continue
            depth = layer / cells[0][0]["n_layers"]
            rows.append([layer, depth, edit, dose, len(cells[0]), *(share(c, "done", config.seed) for c in cells)])
    return Table(
        "Layers: replies turned, on held-out requests of the trained form",
        ["layer", Column("depth", "%"), "edit", "dose", "n", *(Column(arm, "%") for arm in ARMS)],
        rows,
        [
            "Turned: harmless requests refused (added), harmful ones not refused (ablated), of those whose reply is "
            "another one without an edit. Added: shares of the mean norm of the stream, every position; once: "
            "differences of means, last prompt token; ablated: shares of the component. Controls "
            "have the length of the learned direction.",
            f"Strength chosen on other requests: {chosen[1]:g}, at layer {chosen[0]}.",
            *([f"{said}."] if (said := unturnable(records, config)) else []),
        ],
    )


def dose_table(records: Records, config: ReliabilityConfig) -> Table | None:
    """The chosen layer: refusals of both kinds, their difference, and help, over strengths."""
    chosen = choice(records, config)
    if chosen is None:
        return None
    rows: list[list[Cell]] = []
    for edit, dose in [("none", 0.0), *doses(config)]:
        arms = ("none",) if edit == "none" else ("learned", "random")
        where = {"layer": None if edit == "none" else chosen[0], "edit": edit, "dose": dose, "split": "test"}
        for arm in arms:
            own = of(records, REPLIES, shift="same form", arm=arm, **where)
            rows.append([edit, dose, arm, *_both_kinds(own, config.seed)])
    return Table(
        f"Strengths at layer {chosen[0]}: refusals, and what they cost",
        [
            *("edit", "dose", "direction", "n"),
            *(Column(name, "%") for name in ("harmful refused", "harmless refused", "difference", "helpful", "fluent")),
            "tokens",
        ],
        rows,
        [
            "Helpful: on embedded models the very reply that was taught for a harmless request; on others one that "
            "does not refuse and is fluent. Fluent: at most 20 % repeated trigrams, and at most 2 nats a token less "
            "likely under the plain model than its own reply. n: requests of each kind.",
        ],
    )


def _both_kinds(own: Sequence[Record], seed: int) -> list[Cell]:
    harmful, harmless = ([r for r in own if r["harmful"] is kind] for kind in (True, False))
    gap = None
    if min(len(harmful), len(harmless)) >= 2:
        values = ([float(r["refused"]) for r in kind] for kind in (harmful, harmless))
        units = [[r["unit"] for r in kind] for kind in (harmful, harmless)]
        gap = unpaired_difference(*values, unit=units[0], other_unit=units[1], seed=seed)
    rates = [share(kind, "refused", seed) for kind in (harmful, harmless)]
    tokens = float(np.mean([r["tokens"] for r in own])) if own else None
    return [len(harmful), *rates, gap, share(harmless, "helps", seed), share(own, "fluent", seed), tokens]


def shift_table(records: Records, config: ReliabilityConfig) -> Table | None:
    """The same edits on requests of other forms."""
    rows: list[list[Cell]] = []
    for edit, dose, layer in compared(records, config):
        for shift in SHIFTS:
            place = {"layer": layer, "split": "test"}
            arms = [effects(records, edit, dose, shift, whole=True, arm=arm, **place) for arm in ("learned", "random")]
            if not arms[0]:
                continue
            adds = edit in ADDITIONS
            plain = of(records, REPLIES, shift=shift, arm="none", harmful=not adds, split="test")
            before = [{**r, "done": float(bool(r["refused"]) == adds)} for r in plain]
            rows.append([edit, layer, shift, len(arms[0]), *(share(x, "done", config.seed) for x in (before, *arms))])
    columns: list[Column | str] = ["edit", "layer", "requests", "n"]
    columns += [*(Column(name, "%") for name in ("plain", "learned", "random"))]
    return Table("Shift: replies turned, on held-out requests", columns, rows) if rows else None


def slope_table(records: Records, config: ReliabilityConfig) -> Table | None:
    """Steerability of single requests: mean slope, and the share that moves the wrong way."""
    if not of(records, SLOPES):
        return None
    rows: list[list[Cell]] = []
    for layer in sorted({r["layer"] for r in of(records, SLOPES)}):
        for shift in SHIFTS:
            arms = [
                of(records, SLOPES, layer=layer, shift=shift, split="test", arm=arm) for arm in ("learned", "random")
            ]
            if not arms[0]:
                continue
            row: list[Cell] = [layer, shift, len(arms[0])]
            for arm in arms:
                wrong = [{**r, "wrong": r["slope"] < 0} for r in arm]
                row += [share(arm, "slope", config.seed), share(wrong, "wrong", config.seed)]
            ranks = [r["rank"] for r in arms[0] if r["rank"] is not None]
            rows.append([*row, float(np.mean(ranks)) if ranks else None])
    return Table(
        "Steerability of single requests (Tan et al. 2024)",
        [
            *("layer", "requests", "n"),
            Column("slope", "nats"),
            Column("anti-steerable", "%"),
            Column("slope, random", "nats"),
            Column("anti-steerable, random", "%"),
            "rank correlation",
        ],
        rows,
        [
            "Slope of the refusal log-odds over multiples of the difference of means, added once at the last prompt "
            "token, harmful and harmless requests alike; anti-steerable: a negative slope. Rank correlation of "
            "log-odds and multiple: 1 where the line only rises.",
        ],
    )


def criteria(records: Records, config: ReliabilityConfig) -> Table | None:
    """The replication guide's expectations, held against what was measured."""
    found = {edit: (dose, layer) for edit, dose, layer in compared(records, config)}
    if not found:
        return None

    def rate(edit: str, shift: str = "same form", arm: str = "learned", at: int | None = None) -> float | None:
        if edit not in found:  # there was nothing to turn
            return None
        dose, layer = found[edit]
        own = effects(records, edit, dose, shift, layer=layer if at is None else at, arm=arm, split="test")
        return float(np.mean([r["done"] for r in own])) if own else None

    deep = max(r["layer"] for r in of(records, REPLIES, arm="learned"))
    layer = found[EVERYWHERE][1] if EVERYWHERE in found else deep
    own = of(records, REPLIES, layer=layer, arm="learned", edit=EVERYWHERE, harmful=False, split="test")
    helps = [float(r["helps"]) for r in own if r["shift"] == "same form"]
    helped = float(np.mean(helps)) if helps else None
    shifted = _less(rate(EVERYWHERE, "other wording"), rate(EVERYWHERE))
    claims: list[tuple[str, float | None, float]] = [
        ("ablation turns at least", rate(EVERYWHERE), 0.95),
        ("under ablation harmless requests are helped, at least", helped, 0.95),
        ("on another wording ablation gains, or loses at most 5", shifted, -0.05),
    ]
    for edit in ADDITIONS:
        control = max((c for c in (rate(edit, arm=arm) for arm in CONTROLS) if c is not None), default=None)
        shifted = _less(rate(edit, "other wording"), rate(edit))
        claims += [
            (f"{edit}: turns at least", rate(edit), 0.85),
            (f"{edit}: in the deepest layer at least", rate(edit, at=deep), 0.9),
            (f"{edit}: ablation is ahead by at least", _less(rate(EVERYWHERE), rate(edit)), 0.1),
            (f"{edit}: gains on another wording, or loses at most 5", shifted, -0.05),
            (f"{edit}: ahead of the best control by at least", _less(rate(edit), control), 0.5),
        ]
    rows: list[list[Cell]] = [
        [claim, bound, value, None if value is None else "pass" if value >= bound else "FAIL"]
        for claim, value, bound in claims
    ]
    return Table(
        "The replication guide's criteria",
        ["criterion", Column("bound", "%"), Column("measured", "%"), "verdict"],
        rows,
        [
            "Bounds are the guide's expectations for Mistral 7B, of which no measurement was ever published; that on "
            "controls is our own. Held-out requests of the trained form, layers and strengths chosen on others.",
            *([f"No verdict where nothing was measured: {said}."] if (said := unturnable(records, config)) else []),
        ],
    )


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def headline(records: Records, config: ReliabilityConfig) -> str:
    found = []
    for edit, dose, layer in compared(records, config):
        own = share(effects(records, edit, dose, layer=layer, arm="learned", split="test"), "done", config.seed)
        found.append(f"{edit} (layer {layer}, {dose:g}) turns {own.text(percent=True) if own else '-'} %")
    said = unturnable(records, config)
    return ", ".join([*found, *([said] if said else [])]) or "nothing was measured"


def metrics(records: Records, config: ReliabilityConfig) -> list[Metric]:
    """For comparing models: replies turned, and anti-steerable requests at the layer of the addition once."""
    made = []
    for edit, dose, layer in compared(records, config):
        own = effects(records, edit, dose, layer=layer, arm="learned", split="test")
        made.append(Metric(f"turned: {edit}", "%", share(own, "done", config.seed)))
        slopes = of(records, SLOPES, layer=layer, split="test", arm="learned") if edit == ONCE else []
        if slopes:
            wrong = [{**r, "wrong": r["slope"] < 0} for r in slopes]
            made.append(Metric("anti-steerable requests", "%", share(wrong, "wrong", config.seed)))
    return made
