"""Tables and figures of the head-level study."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.experiment import Metric, Records
from experiments.function_vectors.mediation import (
    ADDED,
    ARMS,
    COUNTS,
    DECODED,
    NEEDED,
    PORTED,
    SHOTS,
    TEMPLATES,
    TOKENS,
    MediationConfig,
    average_effects,
    chosen_layer,
)
from experiments.function_vectors.screening import BASE, of, rate
from mlx_interp.reporting import Cell, Column, Panel, Plot, Series, Table, heat_map, line_with_band
from mlx_interp.stats import Estimate

SHARED = 0.3
"""Share of answers that begin alike, beyond which a task's figures by first token come with a warning."""


def base_table(records: Records, config: MediationConfig) -> Table:
    """Which tasks the model does, and what is left for a vector to restore."""
    rows: list[list[Cell]] = []
    for name in [*_names(records), "all"]:
        own = [r for r in of(records, BASE) if name in (r["task"], "all")]
        kinds = [[r for r in own if r["prompt"] == kind] for kind in ("examples", "corrupted", "no examples")]
        whole = rate(kinds[0], config.seed, "whole")
        rows.append([name, len(kinds[0]), *(rate(kind, config.seed) for kind in kinds), whole])
    heads = [Column(f"right, {kind}", "%") for kind in ("examples", "corrupted labels", "no examples")]
    return Table(
        "Tasks on held-out queries, before any intervention",
        ["task", "n", *heads, Column("whole answer, examples", "%")],
        rows,
        ["Right: the answer's first token comes first. The queries right with examples are the test set below."],
    )


def added_table(records: Records, config: MediationConfig) -> Table:
    """Accuracy with each vector at the chosen layer, on the reporting half."""
    layer = chosen_layer(records)
    rows: list[list[Cell]] = []
    base = {(r["item"], r["prompt"]): r for r in of(records, BASE)}
    for kind in ("no examples", "corrupted"):
        for name in [*_names(records), "all"]:
            own = [r for r in of(records, ADDED, prompt=kind, layer=layer, half="report") if name in (r["task"], "all")]
            mine = [r for r in own if r["arm"] == ARMS[0]]
            plain = rate([{**base[r["item"], kind], "item": r["item"]} for r in mine], config.seed)
            arms = [rate([r for r in own if r["arm"] == arm], config.seed) for arm in ARMS]
            gap = None
            if plain is not None and arms[0] is not None and plain.value < 1:
                gap = (arms[0].value - plain.value) / (1 - plain.value)
            rows.append([kind, name, len(mine), plain, *arms, gap])
    return Table(
        "A vector instead of examples",
        ["prompt", "task", "n", Column("nothing", "%"), *(Column(arm, "%") for arm in ARMS), Column("gap closed", "%")],
        rows,
        [
            f"Added at the output of layer {layer}, chosen on the other half of the queries. Test set: queries right "
            "with examples, so that 100 % is the ceiling. Function vector: heads shared by all tasks; own heads: by "
            "the task's own effects. Gap closed: share of what is missing to 100 %.",
        ],
    )


def shots_table(records: Records, config: MediationConfig) -> Table:
    """Accuracy by the number of examples."""
    found = of(records, SHOTS)
    rows: list[list[Cell]] = []
    for k in sorted({r["shots"] for r in found}):
        own = [r for r in found if r["shots"] == k]
        rows.append([k, len(own), rate(own, config.seed)])
    return Table("Number of examples, no intervention", ["examples", "n", Column("right", "%")], rows)


def ported_table(records: Records, config: MediationConfig) -> Table:
    """The vector in templates that it was not made from."""
    found = of(records, PORTED)
    rows: list[list[Cell]] = []
    for name in TEMPLATES:
        own = [r for r in found if r["template"] == name]
        counted = [r for r in own if r["with_examples"]]
        arms = [[r for r in counted if r["arm"] == arm] for arm in ("nothing", ARMS[0], ARMS[2], ARMS[4])]
        rows.append([name, len(own) // 4, len(arms[0]), *(rate(arm, config.seed) for arm in arms)])
    return Table(
        "Other templates",
        [
            *("template", "queries", "right with examples there"),
            *(Column(name, "%") for name in ("nothing", ARMS[0], ARMS[2], ARMS[4])),
        ],
        rows,
        ["Bare queries in the template; only those count that the model answers with examples in the same template."],
    )


def counts_table(records: Records, config: MediationConfig) -> Table:
    """How many heads it takes."""
    found = of(records, COUNTS)
    rows: list[list[Cell]] = [
        [k, *(rate([r for r in found if r["k"] == k and r["arm"] == arm], config.seed) for arm in (ARMS[0], ARMS[2]))]
        for k in sorted({r["k"] for r in found})
    ]
    return Table("Number of heads", ["heads", Column("function vector", "%"), Column("random heads", "%")], rows)


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
        ["At the last token only."],
    )


def decoded_table(records: Records, config: MediationConfig) -> Table:
    """What the vectors say by themselves."""
    rows: list[list[Cell]] = []
    for name in _names(records):
        mine, control = (of(records, DECODED, task=name, arm=arm)[0] for arm in (ARMS[0], ARMS[2]))
        rows.append([name, " ".join(mine["tokens"]), mine["answers"], control["answers"], mine["shared"]])
    heads: list[Column | str] = ["task", "top tokens", f"answers among the top {TOKENS}", "the same, random heads"]
    heads.append(Column("first tokens shared", "%"))
    alike = [str(row[0]) for row in rows if isinstance(row[4], float) and row[4] > SHARED]
    notes = ["First tokens shared: share of a task's answers that begin with the same token as another."]
    if alike:
        notes.append(f"**Scored loosely by first token: {', '.join(alike)}**; read whole answers in the first table.")
    return Table("The vector through the unembedding", heads, rows, notes)


def heat(records: Records, config: MediationConfig) -> Plot:
    effects = average_effects(records)
    return heat_map(
        [Panel("average indirect effect", effects.tolist())],
        name="indirect_effects",
        title="What each head's mean output restores",
        x_label="head",
        y_label="layer",
        value_label="gain of the right answer's probability",
        caption="Average indirect effect of every head on prompts with corrupted labels, over "
        f"{len(_names(records))} tasks that weigh equally.",
    )


def by_layer(records: Records, config: MediationConfig) -> Iterator[Plot]:
    for kind in ("no examples", "corrupted"):
        own = of(records, ADDED, prompt=kind)
        layers = sorted({r["layer"] for r in own})
        if not layers:
            continue
        cells = {arm: [[r for r in own if (r["arm"], r["layer"]) == (arm, at)] for at in layers] for arm in ARMS}
        yield line_with_band(
            layers,
            [
                Series(arm, [rate(cell, config.seed) for cell in row])
                for arm, row in cells.items()
                if arm != "own heads"
            ],
            name=f"by_layer_{kind.replace(' ', '_')}",
            title=f"Accuracy by layer of addition, {kind}",
            x_label="layer (output)",
            y_label="right (share of queries)",
            caption=f"Share of queries right when a vector is added at a layer's output, prompts with {kind}"
            + ("" if kind == "no examples" else " labels")
            + "; 95 % intervals over queries, of all tasks together.",
            limits=(0, 1),
        )


def headline(records: Records, config: MediationConfig) -> str:
    row = next(r for r in added_table(records, config).rows if r[:2] == ["no examples", "all"])
    nothing, vector, control = (cell for cell in (row[3], row[4], row[6]))
    if not (isinstance(nothing, Estimate) and isinstance(vector, Estimate) and isinstance(control, Estimate)):
        return "too few queries are right with examples"
    texts = [one.text(percent=True) for one in (vector, nothing, control)]
    return f"no examples: {texts[0]} % right with the function vector, {texts[1]} % without, {texts[2]} % random heads"


def metrics(records: Records, config: MediationConfig) -> list[Metric]:
    layer = chosen_layer(records)
    own = of(records, ADDED, prompt="no examples", layer=layer, half="report", arm=ARMS[0])
    return [Metric("right with the function vector", "%", rate(own, config.seed))]


def _names(records: Records) -> list[str]:
    return list(dict.fromkeys(r["task"] for r in of(records, BASE)))
