"""Tables and figures of the head-level study: the heads themselves, and what it takes of them."""

from __future__ import annotations

import numpy as np

from experiments.exp11_function_vectors_v2.extent import COUNTS, NEEDED, SHOTS
from experiments.exp11_function_vectors_v2.heads import ATTENTION, INDUCTION, PLACE_ROLES, PLACES
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.shared.in_context.mediation import EFFECTS, RANDOM, VECTOR, MediationConfig, ranked, settings
from experiments.shared.in_context.screening import rate
from mlx_interp.in_context.demonstrations import ROLES
from mlx_interp.in_context.function_vectors import Head
from mlx_interp.reporting import Cell, Column, Panel, Plot, Table, heat_map
from mlx_interp.stats import Estimate, mean_or_none, trend_test, unpaired_difference

SHOWN = 10


def by_head(records: Records, stage: str, field: str, seed: int, **labels: object) -> dict[Head, Estimate | None]:
    """A figure of every head with its interval over prompts, from records that hold (n_layers, n_heads)."""
    own = of(records, stage, **labels)
    stacked = np.array([r[field] for r in own])
    units = [r["item"] for r in own]
    return {
        (layer, head): mean_or_none(stacked[:, layer, head].tolist(), unit=units, seed=seed)
        for layer in range(stacked.shape[1])
        for head in range(stacked.shape[2])
    }


def overlap(records: Records, k: int) -> int:
    """How many of the top k heads of one half of the prompts are among those of the other half."""
    keys = sorted({r["item"] for r in of(records, EFFECTS)})
    halves = [set(keys[0::2]), set(keys[1::2])]
    tops = [ranked([r for r in of(records, EFFECTS) if r["item"] in half])[:k] for half in halves]
    return len(set(tops[0]) & set(tops[1]))


def heads_table(records: Records, config: MediationConfig) -> Table | None:
    """The chosen heads: effect, attention to labels, prefix matching; their mean against all others'."""
    if not of(records, ATTENTION):
        return None
    seed, k = config.seed, settings(records)[0].k
    columns = {
        "indirect effect": by_head(records, EFFECTS, "effects", seed),
        "attention to labels": by_head(records, ATTENTION, "plain", seed, role="label"),
        "the same, weighted": by_head(records, ATTENTION, "weighted", seed, role="label"),
        "prefix matching": by_head(records, INDUCTION, "scores", seed),
    }
    order = ranked(records)
    rows: list[list[Cell]] = [
        [f"{layer}.{head}", *(column[layer, head] for column in columns.values())] for layer, head in order[:SHOWN]
    ]
    chosen, others = order[:k], order[k:]
    for name, heads in ((f"mean of the {k} chosen", chosen), (f"mean of the {len(others)} others", others)):
        rows.append([name, *(_mean(column, heads, seed) for column in columns.values())])
    rows.append(["difference", *(_difference(column, chosen, others, seed) for column in columns.values())])
    effects = [_value(columns["indirect effect"][head]) for head in order]
    trends = []
    for name in list(columns)[1:]:
        found = [_value(columns[name][head]) for head in order]
        if len(set(found)) > 1 and len(set(effects)) > 1:
            rho, p = trend_test(effects, found, seed=seed)
            trends.append(f"{name} {rho:.2f} (p {p:.3f})")
    n = len({r["item"] for r in of(records, ATTENTION)})
    return Table(
        "The chosen heads",
        ["head (layer.head)", *(Column(name, digits=3) for name in columns)],
        rows,
        [
            f"Effects over {len(of(records, EFFECTS))} corrupted prompts, attention from the last token of {n} prompts "
            "with examples, as a share; weighted: by the length of the values that are fetched. Prefix matching: "
            "attention to the token that followed the same token before, in random tokens said twice. Intervals of the "
            "last three rows are over heads.",
            f"Of the {k} heads of largest effect on one half of the prompts, {overlap(records, k)} are among the {k} "
            f"of the other half. Rank correlation with the effect over all heads: {'; '.join(trends)}.",
        ],
    )


def _value(one: Estimate | None) -> float:
    return 0.0 if one is None else one.value


def _mean(column: dict[Head, Estimate | None], heads: tuple[Head, ...], seed: int) -> Estimate | None:
    return mean_or_none([_value(column[head]) for head in heads], unit=heads, seed=seed)


def _difference(
    column: dict[Head, Estimate | None], heads: tuple[Head, ...], others: tuple[Head, ...], seed: int
) -> Estimate | None:
    values = [[_value(column[head]) for head in group] for group in (heads, others)]
    return unpaired_difference(values[0], values[1], unit=heads, other_unit=others, seed=seed)


def places_table(records: Records, config: MediationConfig) -> Table | None:
    """Indirect effects at other tokens than the last."""
    if not of(records, PLACES):
        return None
    k = settings(records)[0].k
    order = ranked(records)
    rows: list[list[Cell]] = []
    for place in PLACE_ROLES:
        own = of(records, PLACES, place=place)
        if not own:
            rows.append([place, 0, None, None, None, None])
            continue
        stacked = np.array([r["effects"] for r in own])
        units = [r["item"] for r in own]
        mean = stacked.mean(axis=0)
        best = np.unravel_index(int(mean.argmax()), mean.shape)
        groups = [np.mean([stacked[:, a, b] for a, b in heads], axis=0) for heads in (order[:k], order[k:])]
        rows.append(
            [
                place,
                len(own),
                f"{best[0]}.{best[1]}",
                mean_or_none(stacked[:, best[0], best[1]].tolist(), unit=units, seed=config.seed),
                *(mean_or_none(group.tolist(), unit=units, seed=config.seed) for group in groups),
            ]
        )
    names = ("its effect", f"mean of the {k} chosen heads", "mean of the others")
    return Table(
        "Indirect effects at other tokens",
        ["tokens", "prompts", "best head", *(Column(name, digits=3) for name in names)],
        rows,
        [
            "A head's mean output at those tokens, over prompts with right examples, stands in for its own on a prompt "
            "with corrupted labels; tokens of one word count as one. The best head is the best of all heads here: its "
            "figure is the largest of many."
        ],
    )


def attention_figure(records: Records, config: MediationConfig) -> Plot | list[Plot]:
    """Where the heads of largest effect look, and what all heads give to labels."""
    if not of(records, ATTENTION):
        return []
    order = ranked(records)[:SHOWN]
    here = [role for role in ROLES if of(records, ATTENTION, role=role)]
    panels = []
    for name, field in (("attention", "plain"), ("weighted by values", "weighted")):
        means = [np.mean([r[field] for r in of(records, ATTENTION, role=role)], axis=0) for role in here]
        panels.append(Panel(name, [[float(mean[layer, head]) for layer, head in order] for mean in means]))
    n = len({r["item"] for r in of(records, ATTENTION)})
    return heat_map(
        panels,
        name="attention_by_role",
        title="Where the heads of largest effect look",
        x_label="head (layer.head), largest effect first",
        y_label="tokens of the prompt",
        value_label="share of attention",
        caption=f"Attention of the {len(order)} heads of largest indirect effect, from the last token of {n} prompts "
        "with examples, summed over all tokens of a role; weighted by the length of the values that are fetched.",
        x_ticks=[f"{layer}.{head}" for layer, head in order],
        y_ticks=list(here),
        columns=1,
    )


def induction_figure(records: Records, config: MediationConfig) -> Plot | list[Plot]:
    """All heads: attention to labels beside prefix matching."""
    if not of(records, ATTENTION):
        return []
    labels = np.mean([r["plain"] for r in of(records, ATTENTION, role="label")], axis=0)
    scores = np.mean([r["scores"] for r in of(records, INDUCTION)], axis=0)
    return heat_map(
        [Panel("attention to labels", labels), Panel("prefix matching", scores)],
        name="labels_and_prefix_matching",
        title="Label attention and induction, all heads",
        x_label="head",
        y_label="layer",
        value_label="share of attention",
        caption="Share of attention from the last token that goes to the examples' labels, and in random tokens said "
        "twice, to the token that followed before.",
        columns=2,
    )


def counts_table(records: Records, config: MediationConfig) -> Table:
    """How many heads it takes."""
    found = of(records, COUNTS)
    rows: list[list[Cell]] = []
    for k in sorted({r["k"] for r in found}):
        arms = [[r for r in found if r["k"] == k and r["arm"] == arm] for arm in (VECTOR, RANDOM)]
        rows.append([k, len(arms[0]), *(rate(arm, config.seed) for arm in arms)])
    at = settings(records)[0]
    heads: list[Column | str] = ["heads", "n", Column(VECTOR, "%"), Column(RANDOM, "%")]
    return Table("Number of heads", heads, rows, [f"Layer {at.layer}, strength {at.strength:g}, no examples."])


def needed_table(records: Records, config: MediationConfig) -> Table:
    """What in-context accuracy is left without the heads."""
    found = of(records, NEEDED)
    rows: list[list[Cell]] = []
    for k in sorted({r["k"] for r in found}):
        arms = [[r for r in found if r["k"] == k and r["arm"] == arm] for arm in ("chosen heads", "random heads")]
        if k == 0:
            arms = [of(records, NEEDED, arm="nothing")] * 2
        rows.append([k, len(arms[0]), *(rate(arm, config.seed) for arm in arms)])
    return Table(
        "Necessity: heads set to their mean over tasks, on prompts with examples",
        ["heads", "n", Column("chosen heads", "%"), Column("random heads", "%")],
        rows,
        ["At the last token only. Random: as many of the other heads, drawn anew for each query."],
    )


def shots_table(records: Records, config: MediationConfig) -> Table:
    """Accuracy by the number of examples."""
    found = of(records, SHOTS)
    rows: list[list[Cell]] = []
    for k in sorted({r["shots"] for r in found}):
        own = [r for r in found if r["shots"] == k]
        rows.append([k, len(own), rate(own, config.seed)])
    return Table("Number of examples, no intervention", ["examples", "n", Column("right", "%")], rows)
