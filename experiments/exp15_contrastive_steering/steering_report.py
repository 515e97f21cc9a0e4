"""Tables of exp15: the pair, the texts under every setting, the other subsets, fewer rows."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.exp15_contrastive_steering.means_apart import PAIRS, SETS, SIZES
from experiments.exp15_contrastive_steering.settings import ContrastiveConfig
from experiments.exp15_contrastive_steering.steered_texts import (
    ALL_OTHERS,
    CONTRAST,
    CONTROLS,
    PLAIN,
    RANDOM,
    RULED,
    SWEEP,
    TARGETS,
    TEXTS,
)
from experiments.harness.experiment import Metric, Records
from experiments.harness.frame import Frame, of
from mlx_interp.reporting import Cell, Column, Record, Table
from mlx_interp.stats import Estimate, difference_interval
from mlx_interp.stats.distance import LEVEL


def share(records: Sequence[Record], field: str, seed: int) -> Estimate | None:
    """Mean of a field over prompts; None where it was not measured."""
    return Frame(records).measured(field).rate(field, unit="unit", seed=seed)


def margin(record: Record) -> float:
    """P(target) - P(baseline) of a text."""
    return float(record["p_target"]) - float(record["p_baseline"])


def shift(records: Records, steered: Sequence[Record], seed: int) -> Estimate | None:
    """How much more the steered texts read like the target than like the baseline, against the unsteered ones.

    Each prompt is its own control; None where there is no classifier.
    """
    if not steered or steered[0]["p_target"] is None or steered[0]["baseline"] == ALL_OTHERS:
        return None
    own = steered[0]["target"], steered[0]["baseline"]
    plain = of(records, TEXTS, arm=PLAIN)
    if own != (plain[0]["target"], plain[0]["baseline"]):
        return None
    if len({r["unit"] for r in plain}) < 2:
        return None
    return difference_interval(
        [margin(r) for r in steered],
        [margin(r) for r in plain],
        unit=[r["unit"] for r in steered],
        control_unit=[r["unit"] for r in plain],
        seed=seed,
    )


def told_as(steered: Sequence[Record], key: str, seed: int) -> Estimate | None:
    """Share of texts that read most like one subset."""
    own = [{**r, "is": r["told"] == key} for r in steered if r["told"] is not None]
    return share(own, "is", seed)


def flagged(steered: Sequence[Record], seed: int) -> Estimate | None:
    return share([{**r, "flag": r["degenerate"] is not None} for r in steered], "flag", seed)


def names(records: Records) -> dict[str, str]:
    """Key -> name of each subset."""
    return {r["subset"]: r["name"] for r in of(records, SETS)}


def pair_of(records: Records) -> tuple[str, str]:
    """Target and baseline, by key."""
    first = of(records, TEXTS, arm=PLAIN)[0]
    return first["target"], first["baseline"]


def chosen(records: Records, config: ContrastiveConfig) -> list[Record]:
    """Texts of the pair's difference at the layer and scale that were asked for."""
    layers = [r["layer"] for r in of(records, TEXTS, part=SWEEP, arm=RANDOM)]
    return of(records, TEXTS, part=SWEEP, arm=CONTRAST, layer=layers[0], scale=config.scale) if layers else []


def pair_table(records: Records, config: ContrastiveConfig) -> Table:
    """Both means and their difference at every layer."""
    target, baseline = pair_of(records)
    known, used = names(records), {r["layer"] for r in of(records, TEXTS, arm=CONTRAST)}
    rows: list[list[Cell]] = []
    for r in of(records, PAIRS, target=target, baseline=baseline):
        warning = "means alike" if r["alike"] else "" if r["told_apart"] else "not told from chance"
        fields = ("norm_target", "norm_baseline", "cosine_of_means", "norm", "relative_norm", "p_value")
        numbers = [r[field] for field in (*fields, "halves_cosine", "d_prime", "auroc")]
        rows.append([f"{r['layer']}{' *' if r['layer'] in used else ''}", *numbers, warning])
    return Table(
        f"The pair: {known[target]} - {known[baseline]}",
        [
            *("layer", "norm, target", "norm, baseline", "cosine of the means", "norm of the difference"),
            *(Column("difference", "of the stream"), Column("p", digits=3), "cosine of its halves"),
            *("d', held out", "AUROC, held out", "warning"),
        ],
        rows,
        [
            "*: steered there. Equal norms of the means do not mean equal sets; a warning is given where the means are "
            f"parallel (cosine .99 or more) and equally long, or the sets are not told apart (p above {LEVEL:g}: 999 "
            "exchanges of labels, for all layers together). Held out: rows that no mean has seen, along it.",
        ],
    )


def sweep_table(records: Records, config: ContrastiveConfig) -> Table:
    """What the texts become at every layer and scale, controls below."""
    target, baseline = pair_of(records)
    norms = {r["layer"]: r["norm"] for r in of(records, PAIRS, target=target, baseline=baseline)}
    rows: list[list[Cell]] = []
    cells = dict.fromkeys((r["arm"], r["layer"], r["scale"]) for r in of(records, TEXTS, part=SWEEP))
    for arm, layer, scale in cells:
        own = of(records, TEXTS, part=SWEEP, arm=arm, layer=layer, scale=scale)
        rows.append(
            [
                *(arm, layer, scale, scale * norms[layer] if layer is not None and "halves of" not in arm else None),
                len({r["unit"] for r in own}),
                shift(records, own, config.seed) if arm != PLAIN else None,
                told_as(own, target, config.seed),
                told_as(own, baseline, config.seed),
                flagged(own, config.seed),
                share(own, "refused", config.seed),
                *(own.measured(f).amount(f, unit="unit", seed=config.seed) for f in ("log_prob", "kl", "length")),
            ]
        )
    return Table(
        "Texts under every setting",
        [
            *("vector", "layer", Column("scale", digits=1), Column("magnitude", digits=1), "n"),
            *("P(target) - P(baseline), against unsteered", Column("reads as target", "%")),
            *(Column("reads as baseline", "%"), Column("degenerate", "%"), Column("refuses", "%")),
            Column("log-probability, unsteered model", "nats a token"),
            *(Column("KL of the first token", "nats"), Column("length", "tokens", digits=1)),
        ],
        rows,
        [
            "Magnitude: scale times the norm of the difference. Added at resid_post, at all positions of prompt and "
            "text. P: a classifier of words and pairs of words, fitted to the subsets' replies, none of them a reply "
            "to these prompts. Degenerate: not finite, empty, or half of its trigrams repeated.",
            f"Controls at one layer: {', '.join(CONTROLS)}.",
        ],
    )


def rules_table(records: Records, config: ContrastiveConfig) -> Table | None:
    """Where the activation is read."""
    cells = dict.fromkeys((r["rule"], r["scale"], r["layer"]) for r in of(records, TEXTS, part=RULED))
    if not cells:
        return None
    target, _ = pair_of(records)
    rows: list[list[Cell]] = []
    for rule, scale, layer in cells:
        own = of(records, TEXTS, part=RULED, rule=rule, scale=scale, layer=layer)
        told = told_as(own, target, config.seed)
        units = len({r["unit"] for r in own})
        rows.append(
            [rule, layer, scale, units, shift(records, own, config.seed), told, flagged(own, config.seed)],
        )
    return Table(
        "Rule of position",
        [
            *("mean of", "layer", Column("scale", digits=1), "n", "P(target) - P(baseline), against unsteered"),
            *(Column("reads as target", "%"), Column("degenerate", "%")),
        ],
        rows,
        ["last: the last prompt token. The vectors differ in length, so that a scale is not the same dose."],
    )


def targets_table(records: Records, config: ContrastiveConfig) -> Table | None:
    """Every subset as the target: how much of it is in the texts."""
    keys = list(dict.fromkeys(r["target"] for r in of(records, TEXTS, part=TARGETS)))
    if not keys:
        return None
    known, (_, baseline) = names(records), pair_of(records)
    plain = of(records, TEXTS, arm=PLAIN)
    rows: list[list[Cell]] = []
    for key in keys:
        own, others = (of(records, TEXTS, part=TARGETS, target=key, baseline=b) for b in (baseline, ALL_OTHERS))
        about = of(records, SETS, subset=key, layer=own[0]["layer"])[0]
        apart = next(
            r for r in of(records, PAIRS, layer=own[0]["layer"]) if {r["target"], r["baseline"]} == {key, baseline}
        )
        rows.append(
            [
                *(f"{key} {known[key]}", about["n"], len({r["unit"] for r in own}), apart["norm"], apart["auroc"]),
                *(told_as(texts, key, config.seed) for texts in (plain, own, others)),
                *(flagged(texts, config.seed) for texts in (own, others)),
                about["told_right"],
            ]
        )
    return Table(
        f"Every target against {known[baseline]}, and against the mean of all others",
        [
            *("target", "rows", "n", "norm", "AUROC, held out", Column("unsteered: reads as target", "%")),
            *(Column("steered: reads as target", "%"), Column("against all others", "%")),
            *(Column("degenerate", "%"), Column("against all others: degenerate", "%")),
            Column("its own held-out replies: told right", "%"),
        ],
        rows,
        ["n: prompts. The unsteered column is the control. Some subsets share their replies, and so can not be told."],
    )


def pairs_table(records: Records, config: ContrastiveConfig) -> Table | None:
    """Every subset against all others, at the layer that is steered."""
    at = next((r["layer"] for r in of(records, TEXTS, part=TARGETS)), None)
    found = of(records, PAIRS, layer=at)
    if at is None:
        return None
    rows: list[list[Cell]] = []
    for key, name in names(records).items():
        own = [
            {**r, "unit": r["target"] if r["baseline"] == key else r["baseline"]}
            for r in found
            if key in (r["target"], r["baseline"])
        ]
        own_floor = of(records, SETS, subset=key, layer=at)[0]
        fields = ("norm", "relative_norm", "cosine_of_means", "halves_cosine", "d_prime", "auroc")
        cells = [share(own, field, config.seed) for field in fields]
        alike = sum(r["alike"] or not r["told_apart"] for r in own)
        rows.append([f"{key} {name}", len(own), own_floor["floor"], *cells, own_floor["top_share"], alike])
    return Table(
        f"All pairs of subsets, layer {at}",
        [
            *("subset", "n", "halves of it (95 %)", "norm of the difference", "of the stream", "cosine of the means"),
            *("cosine of split halves", "d', held out", "AUROC, held out", "top coordinate of the mean"),
            "alike, or chance",
        ],
        rows,
        [
            "Means over the differences to all n other subsets, with intervals over these; every pair and layer is in "
            "the records and the figures. Top coordinate: its share of the mean's squared length. Alike, or noise: "
            "pairs whose means are parallel and equally long, or that are not told from chance.",
        ],
    )


def sizes_table(records: Records, config: ContrastiveConfig) -> Table:
    """The difference from fewer rows."""
    rows: list[list[Cell]] = []
    found = of(records, SIZES)
    for n in sorted({r["n"] for r in found}):
        own = [{**r, "unit": f"{r['target']}, {r['draw']}"} for r in found if r["n"] == n]
        cells = [share(own, field, config.seed) for field in ("cosine", "cosine_other_rows")]
        rows.append([n, len({r["target"] for r in own}), len(own), *cells])
    return Table(
        "Number of rows",
        ["rows of each set", "pairs", "n", "cosine to the whole difference", "cosine to one from other rows"],
        rows,
        ["n: random draws, 10 of each pair. The whole difference holds the drawn rows too; the last column does not."],
    )


def headline(records: Records, config: ContrastiveConfig) -> str:
    own = chosen(records, config)
    if not own:
        return "nothing was steered"
    known, (target, baseline) = names(records), pair_of(records)
    layer = own[0]["layer"]
    random = of(records, TEXTS, part=SWEEP, arm=RANDOM, layer=layer, scale=config.scale)
    parts = [f"{known[target]} - {known[baseline]}, layer {layer}, scale {config.scale:g}"]
    for name, texts in (("difference", own), ("random", random)):
        read, broken = told_as(texts, target, config.seed), flagged(texts, config.seed)
        if read is not None:
            parts.append(f"{name}: reads as target {read.text(percent=True)} %")
        if broken is not None:
            parts.append(f"degenerate {broken.text(percent=True)} %")
    return "; ".join(parts)


def metrics(records: Records, config: ContrastiveConfig) -> list[Metric]:
    target, _ = pair_of(records)
    return [
        Metric("steered texts that read as target", "%", told_as(chosen(records, config), target, config.seed)),
        Metric("degenerate texts", "%", flagged(chosen(records, config), config.seed)),
    ]
