"""Tables on directions and their controls, on questions with options, and the files of the study."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence

import numpy as np
import scipy

from experiments.exp13_steering_reliability import reliability_report
from experiments.exp13_steering_reliability.answer_options import FORMS, OPTIONS, VECTORS
from experiments.exp13_steering_reliability.reliability_report import share
from experiments.exp13_steering_reliability.steering_runs import REPLIES, SHIFTS, SLOPES, ReliabilityConfig
from experiments.exp13_steering_reliability.training_draws import DIRECTIONS, DRAWS, LEARNED, RANDOM, SHUFFLED
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from mlx_interp.deferred import mx, pyarrow
from mlx_interp.directions.direction import Direction, direction_bytes
from mlx_interp.reporting import Cell, Column, Record, Table
from mlx_interp.stats import Estimate, function_interval, trend_test
from mlx_interp.stats.distance import LEVEL

LEAST_NORM, LEAST_STABILITY = 1e-3, 0.5
"""Below these shares a direction is rounding, or another one in every half of the prompts."""


def sound(record: Record) -> bool:
    """Whether a direction is longer than rounding, the same from other requests, and told from chance."""
    return bool(
        record["relative_norm"] >= LEAST_NORM and record["stability"] >= LEAST_STABILITY and record["p_value"] <= LEVEL
    )


def direction_table(records: Records, config: ReliabilityConfig) -> Table | None:
    """Whether each layer's direction is more than noise."""
    own = of(records, DIRECTIONS)
    rows: list[list[Cell]] = [
        [
            *(r["layer"], sum(r["n"]), r["norm"], r["relative_norm"], r["p_value"], r["stability"]),
            "pass" if sound(r) else "FAIL",
        ]
        for r in own
    ]
    return Table(
        "Directions: are they more than noise?",
        [
            *("layer", "n", "norm", Column("share of the stream's norm", "%", digits=3)),
            *(Column("p", digits=3), "stability", "verdict"),
        ],
        rows,
        [
            f"Fails where the norm is below {LEAST_NORM:g} of the stream's (rounding), or the median cosine of "
            f"directions from resampled requests below {LEAST_STABILITY:g}, or p above {LEVEL:g} (999 exchanges of "
            "labels, for all layers together). Files: files/directions.",
        ],
    )


def draws_table(records: Records, config: ReliabilityConfig) -> Table | None:
    """The learned direction against many draws of each control."""
    rows: list[list[Cell]] = []
    for edit, dose, layer in dict.fromkeys((r["edit"], r["dose"], r["layer"]) for r in of(records, DRAWS)):
        own = of(records, DRAWS, edit=edit, dose=dose, layer=layer)
        learned = [r for r in own if r["arm"] == LEARNED]
        done = float(np.mean([r["done"] for r in learned]))
        for arm in (RANDOM, SHUFFLED):
            mine = [r for r in own if r["arm"] == arm]
            rates = [float(np.mean([r["done"] for r in mine if r["draw"] == d])) for d in range(config.n_draws)]
            rows.append(
                [
                    *(edit, layer, dose, len(learned), share(learned, "done", config.seed), arm, len(rates)),
                    *(share(mine, "done", config.seed), min(rates), max(rates), sum(rate >= done for rate in rates)),
                ]
            )
    return Table(
        "Controls, drawn many times: replies turned on held-out requests of the trained form",
        [
            *("edit", "layer", "dose", "n", Column("learned", "%"), "control", "draws"),
            *(Column("mean of the draws", "%"), Column("least", "%"), Column("most", "%"), "as many as learned"),
        ],
        rows,
        ["All of the learned direction's length. As many as learned: draws that turn no fewer replies."],
    ) if rows else None  # fmt: skip


def options_table(records: Records, config: ReliabilityConfig) -> Table | None:
    """Slopes of single questions by behaviour, layer and form, beside a random vector."""
    rows: list[list[Cell]] = []
    for behaviour, layer in _places(records):
        for form in FORMS:
            sides = [_of(records, behaviour, layer, form, arm) for arm in (LEARNED, "random")]
            if not sides[0]:
                continue
            cells: list[Cell] = [behaviour, layer, form, len(sides[0])]
            for own in sides:
                cells += [share(own, "slope", config.seed), share(_wrong(own), "wrong", config.seed)]
            ranks = [r["rank"] for r in sides[0] if r["rank"] is not None]
            rows.append([*cells, float(np.mean(ranks)) if ranks else None])
    return Table(
        "Questions with two options: steerability of single questions",
        [
            *("behaviour", "layer", "questions", "n", Column("slope", "nats"), Column("anti-steerable", "%")),
            *(Column("slope, random", "nats"), Column("anti-steerable, random", "%"), "rank correlation"),
        ],
        rows,
        [
            "Slope of the positive answer's logit minus the other's over multiples of the vector, added at the last "
            "prompt token. Questions end with their options in either order; vectors are found on the trained form. "
            "Intervals over topics.",
        ],
    ) if rows else None  # fmt: skip


def bias_table(records: Records, config: ReliabilityConfig) -> Table | None:
    """How much of the slopes goes by the place and the word of the positive answer."""
    rows: list[list[Cell]] = []
    for behaviour, layer in _places(records):
        own = _of(records, behaviour, layer, FORMS[0], LEARNED)
        fits = [_interval(own, which, config.seed) for which in range(3)]
        halves: list[Cell] = []
        for field in ("named_first", "is_yes"):
            for value in (True, False):
                part = [r for r in own if r[field] is value]
                halves.append(share(part, "slope", config.seed) if part else None)
        rows.append([behaviour, layer, len(own), *fits, *halves])
    return Table(
        "Bias by option: regression of the slopes on the positive answer's place and word, trained form",
        [
            *("behaviour", "layer", "n", Column("named first", "nats"), Column("is Yes", "nats")),
            Column("variance explained", "%"),
            *(Column(f"slope, {name}", "nats") for name in ("named first", "named second", "Yes", "No")),
        ],
        rows,
        ["Named first, is Yes: what each adds to a question's slope. A dash: all questions have the same word."],
    ) if rows else None  # fmt: skip


def _interval(own: Sequence[Record], which: int, seed: int) -> Estimate | None:
    """Coefficient of named_first (0), of is_yes (1), or the share of variance explained (2), over topics."""
    topics = list(dict.fromkeys(r["unit"] for r in own))
    groups = [[r for r in own if r["unit"] == topic] for topic in topics]
    parts = [(np.array([[r["named_first"], r["is_yes"]] for r in g], float), [r["slope"] for r in g]) for g in groups]

    def figure(chosen: Sequence[int]) -> float:
        x = np.concatenate([parts[i][0] for i in chosen])
        y = np.concatenate([parts[i][1] for i in chosen])
        if which < 2 and np.ptp(x[:, which]) == 0:
            return math.nan
        design = np.column_stack([x - x.mean(axis=0), np.ones(len(x))])
        fit = np.linalg.lstsq(design, y, rcond=None)[0]
        if which < 2:
            return float(fit[which])
        return 1 - float(((y - design @ fit) ** 2).sum()) / float(((y - y.mean()) ** 2).sum()) if np.ptp(y) else 0.0

    return function_interval(
        lambda draws: np.array([figure(chosen) for chosen in draws]), len(groups), seed=seed, resamples=500
    )


def transfer(records: Records) -> list[tuple[str, int, str, list[Record], list[Record]]]:
    """Behaviour, layer, form, and the slopes in and out of distribution; refusal among the behaviours."""
    found: list[tuple[str, int, str, list[Record], list[Record]]] = []
    for behaviour, layer in _places(records):
        sides = [_of(records, behaviour, layer, form, LEARNED) for form in FORMS]
        found.append((behaviour, layer, FORMS[1], sides[0], sides[1]))
    for layer in sorted({r["layer"] for r in of(records, SLOPES)}):
        sides = [of(records, SLOPES, layer=layer, shift=form, split="test", arm=LEARNED) for form in SHIFTS]
        found += [("refuses", layer, form, sides[0], side) for form, side in zip(SHIFTS[1:], sides[1:], strict=True)]
    return [row for row in found if row[3] and row[4]]


def transfer_table(records: Records, config: ReliabilityConfig) -> Table | None:
    """Steerability in against out of distribution."""
    rows: list[list[Cell]] = []
    inside, outside = [], []
    for behaviour, layer, form, own, shifted in transfer(records):
        slopes = [share(side, "slope", config.seed) for side in (own, shifted)]
        wrong = [share(_wrong(side), "wrong", config.seed) for side in (own, shifted)]
        values = [float(np.mean([r["slope"] for r in side])) for side in (own, shifted)]
        inside.append(values[0])
        outside.append(values[1])
        relative = values[1] / values[0] if abs(values[0]) > 0.1 else None
        rows.append([behaviour, layer, form, len(own), slopes[0], len(shifted), slopes[1], relative, *wrong])
    if not rows:
        return None
    note = ""
    if len(rows) >= 3 and len(set(inside)) > 1 and len(set(outside)) > 1:
        rho, p = trend_test(inside, outside, seed=config.seed)
        note = f" Rank correlation over the {len(rows)} rows: {rho:.2f} (P {p:.3f})."
    return Table(
        "In against out of distribution: the same vector on questions of another form",
        [
            *("behaviour", "layer", "other form", "n", Column("slope, trained form", "nats"), "n, other"),
            *(Column("slope, other form", "nats"), "ratio"),
            *(Column("anti-steerable, trained form", "%"), Column("anti-steerable, other form", "%")),
        ],
        rows,
        ["Ratio: left out where the slope of the trained form is below .1." + note],
    )


def predictor_table(records: Records, config: ReliabilityConfig) -> Table | None:
    """What is known before steering, against steerability."""
    rows: list[list[Cell]] = []
    columns: list[tuple[float, float, float]] = []
    for r in of(records, VECTORS):
        own = _of(records, r["behaviour"], r["layer"], FORMS[0], LEARNED)
        gaps, slopes = ([s[field] for s in own] for field in ("propensity", "slope"))
        per_sample = (
            float(scipy.stats.spearmanr(gaps, slopes).statistic)
            if len(set(gaps)) > 2 and len(set(slopes)) > 2
            else None
        )
        columns.append((r["agreement"], r["separation"] or 0.0, float(np.mean(slopes))))
        rows.append(
            [
                *(r["behaviour"], r["layer"], len(own), r["relative_norm"], r["agreement"], r["separation"]),
                *(share(own, "propensity", config.seed), per_sample, share(own, "slope", config.seed)),
            ]
        )
    if not rows:
        return None
    notes = []
    if len(rows) >= 4 and all(len(set(values)) > 1 for values in zip(*columns, strict=True)):
        found = [trend_test([c[i] for c in columns], [c[2] for c in columns], seed=config.seed) for i in (0, 1)]
        names = ("agreement", "d'")
        said = [f"{name} {rho:.2f} (P {p:.3f})" for name, (rho, p) in zip(names, found, strict=True)]
        notes = [f"Rank correlation with the slope over the {len(rows)} rows: {', '.join(said)}."]
    return Table(
        "What predicts steerability (Braun et al. 2025)",
        [
            *("behaviour", "layer", "n", Column("share of the stream's norm", "%"), "agreement", "d'"),
            *(Column("propensity", "nats"), "propensity against slope", Column("slope", "nats")),
        ],
        rows,
        [
            "Agreement: mean cosine of a single training question's difference to the vector. d': positive against "
            "negative answers of held-out questions along it. Propensity against slope: rank correlation over "
            "questions, unsteered logit difference against slope.",
            *notes,
        ],
    )


def _places(records: Records) -> list[tuple[str, int]]:
    return list(dict.fromkeys((r["behaviour"], r["layer"]) for r in of(records, OPTIONS)))


def _of(records: Records, behaviour: str, layer: int, form: str, arm: str) -> list[Record]:
    return of(records, OPTIONS, behaviour=behaviour, layer=layer, form=form, arm=arm)


def _wrong(records: Sequence[Record]) -> list[Record]:
    return [{**r, "wrong": r["slope"] < 0} for r in records]


def files(records: Records, config: ReliabilityConfig) -> Iterator[tuple[str, str | bytes]]:
    """Every reply as parquet, and a direction file for each layer."""
    yield "all_results.parquet", results(of(records, REPLIES))
    for r in of(records, DIRECTIONS):
        yield f"directions/layer_{r['layer']}.safetensors", direction_bytes(direction(r))


CSV = {
    reliability_report.dose_table: "alpha_table.csv",
    reliability_report.layer_table: "layers.csv",
    reliability_report.slope_table: "slopes.csv",
    reliability_report.shift_table: "shift.csv",
    reliability_report.criteria: "criteria.csv",
    draws_table: "draws.csv",
    options_table: "options.csv",
    bias_table: "bias.csv",
    transfer_table: "transfer.csv",
    predictor_table: "predictors.csv",
}


def results(replies: Sequence[Record]) -> bytes:
    """Replies as a parquet file, under the names that the replication guide gives its columns.

    split: harm_train (harmful, the trained form; held out all the same), harm_test (harmful, another form), benign.
    """
    rows = [
        {
            "prompt": r["unit"],
            "completion": r["text"],
            "split": "benign" if not r["harmful"] else "harm_train" if r["shift"] == SHIFTS[0] else "harm_test",
            "form": r["shift"],
            "part": r["split"],
            "layer": r["layer"],
            "alpha": float(r["dose"]),
            "intervention": r["edit"],
            "direction": r["arm"],
            "refusal": bool(r["refused"]),
            "helpfulness": None if r["helps"] is None else bool(r["helps"]),
            "fluent": bool(r["fluent"]),
            "log_prob": r["log_prob"],
            "length": r["tokens"],
        }
        for r in replies
    ]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, compression="zstd")
    return buffer.getvalue()


def direction(record: Record) -> Direction:
    """The direction of a record, as it was found."""
    first, second = record["n"]
    return Direction(
        vector=mx.array(np.array(record["vector"], np.float32)),
        site=record["site"],
        position=-1,
        method=f"difference of means of {first} and {second} prompts",
        template="chat",
        model_id=record["model_id"],
        weights_hash=record["weights_hash"],
        quantization=record["quantization"],
        n_layers=record["n_layers"],
        floor=record["floor"],
        p_value=record["p_value"],
    )
