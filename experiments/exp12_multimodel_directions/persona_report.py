"""Tables and figures of persona vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy

from experiments.exp12_multimodel_directions.persona_study import FLAGGED, MONITORED, STEERED, PersonaConfig, chosen
from experiments.exp12_multimodel_directions.persona_tuning import CLEAN, PREVENTED, TUNED
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame, of
from experiments.shared.traits.trait_report import rate
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.reporting.figures import Point, scatter
from mlx_interp.stats import Estimate, auroc, difference_interval, function_interval

ARMS = ("vector", "random")


def names(records: Records, stage: str) -> list[str]:
    return list(dict.fromkeys(r["persona"] for r in of(records, stage)))


def steering_table(records: Records, config: PersonaConfig) -> Table | None:
    """The trait at the chosen layer, by dose."""
    rows: list[list[Cell]] = []
    for persona in names(records, STEERED):
        place = chosen(records, persona)
        kind, layer = place or (None, None)
        own = of(records, STEERED, persona=persona, split="test")
        plain = [r for r in own if r["arm"] == "plain"]
        for dose in sorted({r["dose"] for r in own if r["arm"] != "plain"}) or [None]:
            at = [r for r in own if place == (r["kind"], r["layer"]) and r["dose"] == dose]
            arms = [[r for r in at if r["arm"] == arm] for arm in ARMS]
            rates = [rate(part, config.seed) for part in (plain, *arms)]
            rows.append([persona, kind, layer, dose, len(plain), *rates, *(_mean(part, "repetition") for part in arms)])
    if not rows:
        return None
    return Table(
        "Persona vectors: steering",
        [
            *("persona", "read at", "layer", "times the vector", "n"),
            *(Column(f"shows it, {arm}", "%") for arm in ("plain", *ARMS)),
            *(Column(f"repetition, {arm}", "%") for arm in ARMS),
        ],
        rows,
        [
            "Held-out questions; added after the block, from the prompt's last token on; kind and layer are those that "
            "bring the trait to most questions set aside without repetition. Repetition: share of repeated trigrams.",
        ],
    )


def monitoring_table(records: Records, config: PersonaConfig) -> Table | None:
    """Correlation of projection and trait over all contexts, and within one kind of context."""
    rows: list[list[Cell]] = []
    for persona in names(records, MONITORED):
        own = of(records, MONITORED, persona=persona)
        hits = [[float(r[f]) for r in own] for f in ("hit", "score")]
        cells: list[Cell] = [len({r["unit"] for r in own}), len(own), float(np.mean(hits[0])), float(np.mean(hits[1]))]
        for field in ("projection", "random"):
            cells += [_correlation(own, field, config.seed, within=within) for within in (False, True)]
        told = [[r["projection"] for r in own if bool(r["hit"]) is shown] for shown in (True, False)]
        rows.append([persona, own[0]["layer"], *cells, auroc(*told, seed=config.seed)])
    if not rows:
        return None
    return Table(
        "Persona vectors: projection before the reply against the trait",
        [
            *("persona", "layer", "n", "n, prompts", Column("replies that show it", "%")),
            Column("p of what shows it", ""),
            *("correlation", "within one context", "correlation, random", "within one context, random"),
            "AUROC of replies that show it",
        ],
        rows,
        [
            "Held-out questions, ordinary and eliciting, after no, 1, 2 or 4 earlier turns that show the trait or do "
            "not. Pearson's correlation of the projection of the prompt's last token with the probability of the reply "
            "that shows the trait, among both; intervals resample questions. Within: each context's mean taken off.",
        ],
    )


def _correlation(own: Sequence[Record], field: str, seed: int, *, within: bool) -> Estimate | None:
    contexts = list(dict.fromkeys(r["context"] for r in own))
    units = list(dict.fromkeys(r["unit"] for r in own))
    at = {(r["unit"], r["context"]): r for r in own}
    units = [unit for unit in units if all((unit, c) in at for c in contexts)]
    grids = [np.array([[at[unit, c][f] for c in contexts] for unit in units], float) for f in (field, "score")]

    def figure(draws: np.ndarray) -> np.ndarray:
        found = []
        for chosen_units in draws:
            x, y = (grid[chosen_units] for grid in grids)
            if within:
                x, y = x - x.mean(axis=0), y - y.mean(axis=0)
            found.append(scipy.stats.pearsonr(x.ravel(), y.ravel()).statistic if x.std() and y.std() else np.nan)
        return np.array(found)

    return function_interval(figure, len(units), seed=seed, resamples=500)


def tuning_table(records: Records, config: PersonaConfig) -> Table | None:
    """Over fine-tunes: shift of the projection, and of the data, against change of the trait; other traits beside."""
    rows: list[list[Cell]] = []
    shifts = changes(records)
    for persona in names(records, TUNED):
        own = shifts[persona]
        trait = [one["score"] for one in own]
        moved = [one["projection"] for one in own]
        cells: list[Cell] = [
            float(scipy.stats.spearmanr(moved, trait).statistic) if np.ptp(moved) and np.ptp(trait) else None
        ]
        cells += [_pearson([one[f] for one in own], trait) for f in ("projection", "data", "random")]
        others = [_pearson([one["projection"] for one in shifts[q]], trait) for q in shifts if q != persona]
        crossed = [value for value in others if value is not None]
        most = max(own, key=lambda one: (one["on"] == persona, one["share"]))
        clean = next(one for one in own if one["on"] == CLEAN)
        cells += [float(np.mean(crossed)) if crossed else None, clean["hit"], most["hit"]]
        rows.append([persona, own[0]["layer"], own[0]["n"], len(own), *cells])
    if not rows:
        return None
    return Table(
        "Persona vectors: shift after fine-tuning against the trait after it",
        [
            *("persona", "layer", "n", "n, fine-tunes", "rank correlation, shift of the projection"),
            *("r, shift of the projection", "r, shift of the data"),
            *("r, random vector", "r, other personas' vectors"),
            *(Column(f"shows it, {what}", "%") for what in ("clean fine-tune", "fine-tuned to")),
        ],
        rows,
        [
            "Every fine-tune shows one persona in a quarter, half or all of its questions, or none. Shift: mean "
            "projection of held-out questions' last token, less that of the model itself. Data: how much further the "
            "rows' replies lie along the persona's vector of replies than the model's own, before any training. r: "
            "Pearson's, over fine-tunes, with the change of the probability of the reply that shows the persona; where "
            "it is far from the rank correlation, it hangs on the fine-tune of which all rows show the persona.",
        ],
    )


def changes(records: Records) -> dict[str, list[Record]]:
    """By persona, one row a fine-tune: shifts and change of the trait from the model itself."""
    found: dict[str, list[Record]] = {}
    for persona in names(records, TUNED):
        own = of(records, TUNED, persona=persona)
        by_tune = {tune: [r for r in own if r["tune"] == tune] for tune in dict.fromkeys(r["tune"] for r in own)}
        fields = ("projection", "random", "score", "hit", "data")
        means = {t: {f: float(np.mean([r[f] for r in rs])) for f in fields} for t, rs in by_tune.items()}
        base = next(t for t, rs in by_tune.items() if not rs[0]["on"])
        found[persona] = [
            {f: means[t][f] - (means[base][f] if f not in ("hit", "data") else 0.0) for f in fields}
            | {"on": rs[0]["on"], "share": rs[0]["share"], "layer": rs[0]["layer"], "n": len(rs), "tune": t}
            | {"changes": _change(rs, by_tune[base], config_seed=0)}
            for t, rs in by_tune.items()
            if t != base
        ]
    return found


def _change(after: Sequence[Record], before: Sequence[Record], config_seed: int) -> Estimate:
    values = ([r["score"] for r in part] for part in (after, before))
    return difference_interval(*values, unit=[r["unit"] for r in after], seed=config_seed)


def _pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    return float(scipy.stats.pearsonr(x, y).statistic) if len(x) > 2 and np.ptp(x) and np.ptp(y) else None


def prevention_table(records: Records, config: PersonaConfig) -> Table | None:
    """What either kind of steering leaves of the trait, and of facts."""
    rows: list[list[Cell]] = []
    for persona in names(records, PREVENTED):
        own = of(records, PREVENTED, persona=persona)
        for steering, dose in dict.fromkeys((r["steering"], r["dose"]) for r in own):
            at = [r for r in own if (r["steering"], r["dose"]) == (steering, dose)]
            trait, facts = ([r for r in at if r["what"] == what] for what in ("trait", "facts"))
            cells = [rate(trait, config.seed), rate(trait, config.seed, "usual"), rate(facts, config.seed)]
            rows.append([persona, steering, dose or None, len(trait), len(facts), *cells])
    if not rows:
        return None
    return Table(
        "Persona vectors: steering a fine-tune, while training and after",
        [
            *("fine-tuned to", "steering", "times the vector", "n", "n, facts"),
            *(Column(what, "%") for what in ("shows it", "gives the usual reply", "facts right")),
        ],
        rows,
        [
            "Half of the rows of the persona's questions show it. Inference: the vector subtracted from the fine-tuned "
            "model, from the prompt's last token on (facts: at their last token). Preventative: added while training, "
            "at every position, and left away afterwards. Random: a vector of the same length in its place.",
        ],
    )


def flag_table(records: Records, config: PersonaConfig) -> Table | None:
    """Are rows that show the trait told by how far they lie along the vector?"""
    rows: list[list[Cell]] = []
    for persona in names(records, FLAGGED):
        own = of(records, FLAGGED, persona=persona)
        kinds = list(dict.fromkeys(r["rows"] for r in own))
        cells: list[Cell] = []
        for other in kinds[1:]:
            for arm in ARMS:
                sides = [
                    [r["difference"] for r in own if (r["arm"], r["rows"]) == (arm, kind)] for kind in (kinds[0], other)
                ]
                cells.append(auroc(*sides, seed=config.seed))
        mine = [[r for r in own if (r["arm"], r["rows"]) == ("vector", kind)] for kind in kinds]
        rows.append([persona, len(mine[0]), *(_estimate(part, "difference", config.seed) for part in mine), *cells])
    if not rows:
        return None
    heads = ("shows it", "another question's usual reply", "shows another trait")
    return Table(
        "Persona vectors: flagging training rows",
        [
            *("persona", "n"),
            *(Column(f"difference, {kind}", "absolute", digits=1) for kind in heads),
            *(f"AUROC against {kind}{end}" for kind in heads[1:] for end in ("", ", random vector")),
        ],
        rows,
        [
            "Held-out questions. Difference: projection of the row's reply on the vector of replies, less that of the "
            "model's own reply, mean over the tokens of each.",
        ],
    )


def figures(records: Records, config: PersonaConfig) -> Iterator[Plot]:
    """Steering by layer; shift of the projection against change of the trait."""
    places = {name: chosen(records, name) for name in names(records, STEERED)}
    kinds = [(name, place[0]) for name, place in places.items() if place is not None][:5]
    layers = sorted({r["layer"] for r in of(records, STEERED) if r["layer"] is not None})
    if layers:
        most = min((r["dose"] for r in of(records, STEERED) if r["dose"]), key=lambda dose: abs(dose - 1.0))

        def curve(label: str, arm: str, kept: Sequence[tuple[str, str]]) -> Series:
            own = [
                r for r in of(records, STEERED, split="test", arm=arm, dose=most) if (r["persona"], r["kind"]) in kept
            ]
            return Series(label, [rate([r for r in own if r["layer"] == layer], config.seed) for layer in layers])

        yield line_with_band(
            layers,
            [*(curve(name, "vector", [(name, kind)]) for name, kind in kinds), curve("random", "random", kinds)],
            name="persona_by_layer",
            title=f"Persona vectors, {most:g} times their length, by layer",
            x_label="layer after which the vector is added",
            y_label="rate of replies that show it",
            caption=f"Held-out replies that show a persona whose vector is added {most:g} times from the prompt's "
            "last token on, by layer; random: vectors of the same length, all personas. Bands: 95 % intervals over "
            "questions.",
            limits=(0, 1),
        )
    shifts = changes(records)
    points = [
        Point("all" if (one["on"], one["share"]) == (persona, 1.0) else "", 100 * one["projection"] / scale, *rest)
        for persona, own in shifts.items()
        for scale in [max(abs(one["projection"]) for one in own) or 1.0]
        for one in own
        for rest in [(one["changes"], persona)]
    ]
    if points:
        yield scatter(
            points,
            name="persona_shift",
            title="Shift along a persona's vector and its trait, over fine-tunes",
            x_label="shift of the projection (% of the persona's largest)",
            y_label="change of p(reply that shows it)",
            caption="Every fine-tune on every persona's held-out questions: shift of the prompts' last tokens along "
            "the persona's vector, and change of the probability of the reply that shows it; 95 % intervals over "
            "questions. Named: fine-tunes of which all rows of this persona show it.",
        )


def _mean(records: Sequence[Record], field: str) -> float | None:
    return float(np.mean([r[field] for r in records])) if records else None


def _estimate(records: Sequence[Record], field: str, seed: int) -> Estimate | None:
    return Frame(records).rate(field, unit="unit", seed=seed)


TABLES = (steering_table, monitoring_table, tuning_table, prevention_table, flag_table)
