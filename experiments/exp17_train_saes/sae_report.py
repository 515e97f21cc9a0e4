"""Tables and figures of exp17, from its records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from experiments.exp17_train_saes.runs import POSITIONS, SEEDS, TRAINED, TRUTH, SAEConfig
from experiments.harness.experiment import Metric, Records
from experiments.harness.frame import Frame, of
from mlx_interp.reporting import Cell, Column, Plot, Record, Table
from mlx_interp.reporting.curves import Curve, Mark, curves
from mlx_interp.stats import Estimate, difference_interval, mean_or_none

HEADINGS = {
    "kind": "Kinds over sparsity",
    "control": "Controls at the middle k of topk",
    "layer": "Layers, topk at the middle k",
    "width": "Width, topk at the middle k",
    "data": "Training text",
    "nested": "Nested prefixes",
    "seed": "Another seed",
}


def delta(records: Records, config: SAEConfig, item: str) -> Estimate | None:
    """What splicing costs, nats a token of the answer, over texts."""
    own = of(records, TRAINED, item=item, what="loss")
    if len(own) < 2:
        return None
    units = [r["unit"] for r in own]
    spliced, clean = [r["spliced"] for r in own], [r["clean"] for r in own]
    return difference_interval(spliced, clean, unit=units, seed=config.seed)


def mean_of(records: Sequence[Record], field: str, unit: str, seed: int) -> Estimate | None:
    return Frame(records).measured(field).rate(field, unit=unit, seed=seed)


def fidelity_tables(role: str) -> Callable[[Records, SAEConfig], Table | None]:
    """The table of all dictionaries of one role, beside the topk one they depart from."""

    def table(records: Records, config: SAEConfig) -> Table | None:
        rows: list[list[Cell]] = []
        roles = (role,) if role in ("kind", "layer") else ("kind", role)
        for r in of(records, TRAINED, what="reconstruction"):
            reference = r["kind"] == "topk" and r["setting"] == config.middle_k
            if r["role"] not in roles or (role not in ("kind", "layer") and r["role"] == "kind" and not reference):
                continue
            losses = of(records, TRAINED, item=r["item"], what="loss")
            rows.append(
                [
                    r["site"],
                    r["label"],
                    f"{r['setting']:g}",
                    r["d_sae"],
                    r["distinct_tokens"],
                    r["n_tokens"],
                    *(r[name] for name in ("l0", "fve", "cosine", "norm_ratio", "dead", "dense")),
                    r["recovered"],
                    r["recovered_mean"],
                    len(losses),
                    delta(records, config, r["item"]),
                    losses.measured("kl").amount("kl", unit="unit", seed=config.seed),
                ]
            )
        if not rows:
            return None
        return Table(
            HEADINGS[role],
            [
                *("site", "kind", "k, L0 or weight", "features", "tokens trained on", "n tokens"),
                Column("L0", digits=1),
                *(Column("FVE", digits=3), Column("cosine", digits=3), Column("norm ratio")),
                *(Column("dead", "%"), Column("dense", "%")),
                *(Column("CE recovered, of zero", digits=3), Column("of the mean", digits=3), "n texts"),
                *(Column("delta CE", "nats"), Column("KL", "nats")),
            ],
            rows,
            [
                "Held-out texts, BOS left out; loss of the answers' tokens (models not of the embedded world: of all "
                "tokens but the first), spliced at every position. Dead: silent on these n tokens, which overstates "
                "it. Trained on far fewer tokens than an autoencoder of a large model needs: a probe of the method.",
            ],
        )

    table.__name__ = f"{role}_table"
    return table


def pareto(records: Records, config: SAEConfig) -> Iterator[Plot]:
    """FVE and delta CE against L0, one line a kind, controls as points."""
    found = of(records, TRAINED, what="reconstruction")
    first = next((r["site"] for r in found), None)
    if first is None:
        return
    for field, label in (("fve", "variance explained"), ("delta", "delta CE (nats)")):

        def value(r: Record, field: str = field) -> Estimate | None:
            if field == "delta":
                return delta(records, config, r["item"])
            return Estimate(r["fve"], r["fve"], r["fve"], r["n_tokens"]) if r["fve"] is not None else None

        lines = []
        for kind in config.kinds:
            own = sorted(
                (r for r in found if r["role"] == "kind" and r["kind"] == kind and r["site"] == first), key=_l0
            )
            lines.append(Curve(kind, [r["l0"] for r in own], [value(r) for r in own]))
        marks = [Mark(r["label"], r["l0"], value(r)) for r in found if r["role"] == "control"]
        yield curves(
            lines,
            [mark for mark in marks if field == "fve" or mark.label != "shuffled"],
            name=f"pareto_{field}",
            title=f"{label} against sparsity, {first}",
            x_label="L0 (active features a token)",
            log_x=True,
            y_label=label,
            caption=f"{label} of held-out activations against L0 at {first}; lines are kinds over sparsity, marks are "
            f"controls at k = {config.middle_k}; n = {found[0]['n_tokens']} tokens"
            + ("; 95 % intervals over texts." if field == "delta" else "."),
        )


def _l0(record: Record) -> float:
    return float(record["l0"])


def position_table(records: Records, config: SAEConfig) -> Table | None:
    """Fidelity by position."""
    own = of(records, POSITIONS)
    if not own:
        return None
    places = sorted({(r["low"], r["high"]) for r in own})
    rows: list[list[Cell]] = []
    for label in dict.fromkeys(r["label"] for r in own):
        cells = {(r["low"], r["high"]): r["fve"] for r in own if r["label"] == label}
        rows.append([label, *(cells.get(place) for place in places)])
    counts = {(r["low"], r["high"]): (r["n"], r["norm"]) for r in own}
    said = ", ".join(f"{_span(p)}: {counts[p][0]} tokens of norm {counts[p][1]:.1f}" for p in places)
    heads = [Column(_span(place), digits=3) for place in places]
    return Table("Variance explained by position in the text", ["kind", *heads], rows, [f"{said}."])


def _span(place: tuple[int, int]) -> str:
    return f"position {place[0]}" if place[0] == place[1] else f"{place[0]}-{place[1]}"


def truth_table(records: Records, config: SAEConfig) -> Table | None:
    """The best single feature of each concept."""
    own = of(records, TRUTH)
    rows: list[list[Cell]] = []
    for group, basis in dict.fromkeys((r["group"], r["basis"]) for r in own):
        these = [r for r in own if (r["group"], r["basis"]) == (group, basis)]
        means = [mean_of(these, name, "concept", config.seed) for name in ("precision", "recall", "f1")]
        rows.append([group, basis, these[0]["n_columns"], len(these), _average(these, "n_positive"), *means])
    if not rows:
        return None
    return Table(
        "Ground truth: the best single feature of each concept, on held-out tokens",
        [
            *("concepts", "columns", "how many", "n concepts", Column("positive tokens of each", digits=0)),
            *(Column("precision", "%"), Column("recall", "%"), Column("F1", "%")),
        ],
        rows,
        [
            "Column and threshold are chosen on one half (F1) and scored on the other; entity: the state of a city "
            "(models not of the embedded world: state or country of what a fact is about), at its last token, each in "
            "one half only; task: at the last token; language and harm: at the last "
            "token before the reply. Intervals over concepts (harm: languages). Raw neurons, random directions and "
            "principal components count by either sign; random directions are twice as many columns as features.",
        ],
    )


def probe_table(records: Records, config: SAEConfig) -> Table | None:
    """k-sparse probing."""
    own = of(records, TRUTH)
    rows: list[list[Cell]] = []
    for group, basis in dict.fromkeys((r["group"], r["basis"]) for r in own):
        these = [r for r in own if (r["group"], r["basis"]) == (group, basis)]
        probes = [[{**r, "auroc": r["auroc"][str(k)]} for r in these] for k in config.probed_k]
        means = [mean_of(probed, "auroc", "concept", config.seed) for probed in probes]
        means.append(mean_of(these, "auroc_all", "concept", config.seed))
        rows.append([group, basis, len(these), *means])
    if not rows:
        return None
    heads = [Column(f"AUROC, k = {k}", digits=3) for k in config.probed_k]
    return Table(
        "k-sparse probing on held-out tokens",
        ["concepts", "columns", "n concepts", *heads, Column("probe on all dimensions", digits=3)],
        rows,
        ["Columns by the difference of means over their spread, on one half; logistic regression; .5 is chance."],
    )


def _average(records: Sequence[Record], field: str) -> float:
    return float(sum(r[field] for r in records) / len(records))


def seed_table(records: Records, config: SAEConfig) -> Table | None:
    """Whether another run finds the same features."""
    own = of(records, SEEDS)
    rows: list[list[Cell]] = [
        [r["label"], r["n"], r["others"], mean_share(r, config), r["cosine"]] for r in own if r["share"] is not None
    ]
    if not rows:
        return None
    return Table(
        "Stability: living features of the topk autoencoder with a partner of cosine above .7",
        ["partner", "n features", "features of the partner", Column("share", "%"), Column("mean best cosine")],
        rows,
        ["The same setting from another seed, trained on other text, and the controls; directions of the decoder."],
    )


def mean_share(record: Record, config: SAEConfig) -> Estimate | None:
    hits = round(record["share"] * record["n"])
    values = [1.0] * hits + [0.0] * (record["n"] - hits)
    return mean_or_none(values, unit=list(range(record["n"])), seed=config.seed)


def truth_figure(records: Records, config: SAEConfig) -> Iterator[Plot]:
    """F1 of the best single column, by group."""
    own = of(records, TRUTH)
    groups = list(dict.fromkeys(r["group"] for r in own))
    shown = ("topk", "batchtopk", "raw neurons", "random directions", "principal components", "untrained")
    lines = []
    for basis in shown:
        means = [
            mean_of([r for r in own if (r["group"], r["basis"]) == (group, basis)], "f1", "concept", config.seed)
            for group in groups
        ]
        if any(mean is not None for mean in means):
            lines.append(Curve(basis, list(range(len(groups))), means))
    if lines:
        yield curves(
            lines,
            [],
            name="ground_truth_f1",
            title="Best single feature of a concept",
            x_label="",
            y_label="F1 on held-out tokens",
            x_ticks=groups,
            caption="F1 of the best single column of each concept, chosen on one half and scored on the other, mean "
            "over concepts with 95 % intervals, by what activations are written in.",
        )


def headline(records: Records, config: SAEConfig) -> str:
    own = of(records, TRAINED, what="reconstruction", role="kind", kind="topk", setting=config.middle_k)
    if not own:
        return "nothing measured"
    cost = delta(records, config, own[0]["item"])
    parts = [f"topk, k = {config.middle_k}: FVE {own[0]['fve']:.2f}, delta CE {cost} nats"]
    for basis in ("topk", "raw neurons"):
        entity = [r for r in of(records, TRUTH) if (r["group"], r["basis"]) == ("entity", basis)]
        if found := mean_of(entity, "f1", "concept", config.seed) if entity else None:
            parts.append(f"F1 of an entity's best feature ({basis}) {found.text(percent=True)} %")
    return "; ".join(parts)


def metrics(records: Records, config: SAEConfig) -> list[Metric]:
    own = of(records, TRAINED, what="reconstruction", role="kind", kind="topk", setting=config.middle_k)
    entity = [r for r in of(records, TRUTH) if (r["group"], r["basis"]) == ("entity", "topk")]
    return [
        Metric("delta CE of topk", "nats", delta(records, config, own[0]["item"]) if own else None),
        Metric("F1 of a state's feature", "%", mean_of(entity, "f1", "concept", config.seed) if entity else None),
    ]
