"""Figures of the study: strengths, slopes of single requests, and what turning replies costs in help."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from experiments.exp13_steering_reliability.option_report import transfer
from experiments.exp13_steering_reliability.reliability_report import choice, effects, share
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
)
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from mlx_interp.reporting import Plot, Series, line_with_band
from mlx_interp.reporting.figures import Point, box_plot, scatter


def dose_curves(records: Records, config: ReliabilityConfig) -> Iterator[Plot]:
    """Refusals of harmless requests over the added strength, every arm, at the chosen layer."""
    chosen = choice(records, config)
    if chosen is None:
        return
    plain = [
        {**r, "done": float(r["refused"])}
        for r in of(records, REPLIES, arm="none", shift="same form", harmful=False, split="test")
    ]
    series = [
        Series(
            arm,
            [
                share(plain, "done", config.seed),
                *(
                    share(effects(records, ADDED, dose, layer=chosen[0], arm=arm, split="test"), "done", config.seed)
                    for dose in config.strengths
                ),
            ],
        )
        for arm in ARMS
    ]
    yield line_with_band(
        [0.0, *config.strengths],
        series,
        name="strengths",
        title=f"Harmless requests refused, layer {chosen[0]}",
        x_label="added length (share of the stream's norm)",
        y_label="share refused",
        caption="Held-out harmless requests that are refused, over the length added at every position; controls have "
        "the same length. 95 % intervals over requests.",
    )


def slope_boxes(records: Records, config: ReliabilityConfig) -> Iterator[Plot]:
    """Slopes of all single requests, by form, at the chosen layer."""
    chosen = choice(records, config)
    own = of(records, SLOPES, split="test", layer=chosen[0]) if chosen else []
    forms = [shift for shift in SHIFTS if any(r["shift"] == shift for r in own)]
    if forms:
        yield box_plot(
            forms,
            {arm: [[r["slope"] for r in own if (r["shift"], r["arm"]) == (f, arm)] for f in forms] for arm in ARMS},
            name="slopes",
            title="Steerability of single requests",
            y_label="slope (nats a multiple)",
            caption="Slope of each held-out request's refusal log-odds over the multiple of the direction that is "
            "added; below 0: moved the wrong way.",
        )


def trade_off(records: Records, config: ReliabilityConfig) -> Iterator[Plot]:
    """What each edit turns against the help that is left on harmless requests, every layer."""
    points = []
    for edit, doses in (
        (ADDED, config.strengths),
        (ONCE, (1.0,)),
        (THERE, config.gains),
        (EVERYWHERE, (1.0,)),
    ):
        for layer in sorted({r["layer"] for r in of(records, REPLIES, arm="learned")}):
            for dose in doses:
                own = of(
                    records, REPLIES, layer=layer, arm="learned", edit=edit, dose=dose, shift="same form", split="test"
                )
                helped = [float(r["helps"]) for r in own if not r["harmful"]]
                turned = share(effects(own, edit, dose), "done", config.seed)
                if turned is not None and helped:
                    points.append(Point("", 100 * float(np.mean(helped)), turned, edit))
    if points:
        yield scatter(
            points,
            name="trade_off",
            title="Turned against helpful",
            x_label="harmless requests helped (%)",
            y_label="replies turned (%)",
            caption="One mark a layer and strength: replies turned as the edit is meant to, against the share of "
            "harmless requests that still get a helpful reply. Addition turns harmless requests themselves.",
            percent=True,
        )


def transfer_scatter(records: Records, config: ReliabilityConfig) -> Iterator[Plot]:
    """Mean slope out of distribution against in distribution, one mark for each behaviour, layer and form."""
    points = []
    for behaviour, _, _, own, shifted in transfer(records):
        outside = share(shifted, "slope", config.seed)
        if outside is not None:
            points.append(Point("", float(np.mean([r["slope"] for r in own])), outside, behaviour))
    if points:
        yield scatter(
            points,
            name="transfer",
            title="Steerability in and out of distribution",
            x_label="slope, trained form (nats a multiple)",
            y_label="slope, another form",
            caption="Mean slope on questions of another form against that on the trained form, one mark for each "
            "behaviour, layer and form; 95 % intervals over topics or requests.",
        )
