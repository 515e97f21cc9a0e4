"""Figures of exp15."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.exp15_contrastive_steering.means_apart import PAIRS, SIZES
from experiments.exp15_contrastive_steering.settings import ContrastiveConfig
from experiments.exp15_contrastive_steering.steered_texts import (
    CONTRAST,
    NULL_LONG,
    OTHER,
    PLAIN,
    RANDOM,
    SWEEP,
    TARGETS,
    TEXTS,
)
from experiments.exp15_contrastive_steering.steering_report import flagged, names, pair_of, share, told_as
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from mlx_interp.reporting import Panel, Plot, Series, heat_map, line_with_band
from mlx_interp.stats import Estimate


def curves(records: Records, config: ContrastiveConfig) -> Iterator[Plot]:
    """Reading as the target, and degenerate texts, over the scale: controls at one layer, then layers."""
    target, _ = pair_of(records)
    plain = of(records, TEXTS, arm=PLAIN)
    at = next((r["layer"] for r in of(records, TEXTS, part=SWEEP, arm=RANDOM)), None)
    scales = sorted({r["scale"] for r in of(records, TEXTS, part=SWEEP)})
    if at is None or len(scales) < 3:
        return

    def line(arm: str, layer: int, *, broken: bool = False) -> list[Estimate | None]:
        found = []
        for scale in scales:
            own = of(records, TEXTS, part=SWEEP, arm=arm, layer=layer, scale=scale) if scale else plain
            found.append(flagged(own, config.seed) if broken else told_as(own, target, config.seed))
        return found

    arms = [a for a in (CONTRAST, NULL_LONG, RANDOM, OTHER) if of(records, TEXTS, part=SWEEP, arm=a)]
    yield line_with_band(
        scales,
        [
            *(Series(arm, line(arm, at)) for arm in arms),
            Series("difference: degenerate", line(CONTRAST, at, broken=True)),
        ],
        name="scales",
        title=f"Texts that read as the target, layer {at}",
        x_label="scale (multiples of the difference)",
        y_label="share of texts",
        caption="Share of texts that read most like the target over the scale, with controls of the same length, and "
        "the share of degenerate texts. 95 % intervals over prompts.",
        limits=(0, 1),
    )
    layers = sorted({r["layer"] for r in of(records, TEXTS, part=SWEEP, arm=CONTRAST)})
    if len(layers) > 1:
        yield line_with_band(
            scales,
            [Series(f"layer {layer}", line(CONTRAST, layer)) for layer in layers[:6]],
            name="layers",
            title="Texts that read as the target, by layer",
            x_label="scale (multiples of the difference)",
            y_label="share of texts",
            caption="Share of texts that read most like the target, steered at several layers, each with its own "
            "difference of means.",
            limits=(0, 1),
        )


def grid(records: Records, config: ContrastiveConfig) -> Iterator[Plot]:
    """All pairs of subsets, and what the texts of each target read like."""
    known = names(records)
    keys = list(known)
    if not of(records, TEXTS, part=TARGETS):
        return
    at = of(records, TEXTS, part=TARGETS)[0]["layer"]
    cells = {frozenset((r["target"], r["baseline"])): r for r in of(records, PAIRS, layer=at)}

    def panel(title: str, field: str) -> Panel:
        values = [[cells.get(frozenset((a, b)), {}).get(field) if a != b else None for b in keys] for a in keys]
        return Panel(title, values)

    for field, title in (("relative_norm", "difference, of the stream's norm"), ("cosine_of_means", "cosine of means")):
        yield heat_map(
            [panel(title, field)],
            name=f"pairs_{field}",
            title=f"All pairs of subsets, layer {at}",
            x_label="subset",
            y_label="subset",
            value_label=title,
            caption=f"{title.capitalize()} for every two subsets at layer {at}: "
            + ", ".join(f"{key} {name}" for key, name in known.items()),
            x_ticks=keys,
            y_ticks=keys,
        )
    _, baseline = pair_of(records)
    targets = [key for key in keys if key != baseline]
    values = []
    for key in targets:
        own = of(records, TEXTS, part=TARGETS, target=key, baseline=baseline)
        values.append([sum(r["told"] == other for r in own) / len(own) for other in keys])
    plain = of(records, TEXTS, arm=PLAIN)
    values.append([sum(r["told"] == other for r in plain) / len(plain) for other in keys])
    yield heat_map(
        [Panel("steered towards (rows), texts read as (columns)", values)],
        name="targets",
        title=f"Every target against {known[baseline]}, layer {at}",
        x_label="reads as",
        y_label="steered towards",
        value_label="share of texts",
        caption="Share of texts that read most like each subset, steered towards each target; the uppermost row is "
        "unsteered. Texts that have broken are read as something too: see the table.",
        x_ticks=keys,
        y_ticks=[*targets, "none"],
        limits=(0, 1),
    )


def sizes(records: Records, config: ContrastiveConfig) -> Iterator[Plot]:
    """Cosine over the number of rows."""
    found = [{**r, "unit": f"{r['target']}, {r['draw']}"} for r in of(records, SIZES)]
    counts = sorted({r["n"] for r in found})
    fields = {"to the whole difference": "cosine", "to one from other rows": "cosine_other_rows"}
    if len(counts) > 1:
        yield line_with_band(
            counts,
            [
                Series(label, [share([r for r in found if r["n"] == n], field, config.seed) for n in counts])
                for label, field in fields.items()
            ],
            name="sizes",
            title="Differences from fewer rows",
            x_label="rows of each set",
            y_label="cosine",
            caption="Cosine of the difference of means from fewer rows, over random draws and all targets.",
            limits=(0, 1),
        )
