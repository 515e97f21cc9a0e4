"""Tables and figures of the head-level study: tasks, the choice of a setting, and the vector instead of examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experiments.harness.experiment import Metric, Records
from experiments.harness.frame import Frame, of
from experiments.shared.in_context.mediation import (
    ADDED,
    ANSWERS,
    ARMS,
    CHOICE,
    DATA,
    LAYER,
    PAPER,
    PLAIN,
    RANDOM,
    VARIANTS,
    VECTOR,
    MediationConfig,
    average_effects,
    settings,
)
from experiments.shared.in_context.screening import BASE, rate
from mlx_interp.reporting import Cell, Column, Panel, Plot, Record, Series, Table, heat_map, line_with_band
from mlx_interp.stats import Estimate, gap_closed, mean_or_none

SHARED = 0.3
"""Share of answers that begin alike, beyond which a task's figures by first token come with a warning."""
ENOUGH = 0.8
"""Share of the gap that a function vector should close."""
KINDS = ("no examples", "corrupted")
SHOWN = (VECTOR, PLAIN, *ARMS[1:])


def names(records: Records) -> list[str]:
    return list(dict.fromkeys(r["task"] for r in of(records, BASE)))


def data_table(records: Records, config: MediationConfig) -> Table:
    """The tasks as data, and what their figures have to be read with."""
    found = of(records, DATA)
    rows: list[list[Cell]] = [
        [r["task"], r["pairs"], r["repeats"], r["conflicts"], r["commonest"], r["leak"], r["shared"], r["warning"]]
        for r in found
    ]
    heads: list[Column | str] = ["task", "pairs", "repeated", "contradicting, left out"]
    heads += [Column(name, "%") for name in ("commonest answer", "answers also among examples", "first tokens shared")]
    alike = [str(r["task"]) for r in found if r["shared"] > SHARED]
    notes = [
        "Commonest answer: what always giving it would score. Answers also among examples: of the held-out pairs. "
        "First tokens shared: share of a task's answers that begin with the same token as another."
    ]
    if alike:
        notes.append(f"**Scored loosely by first token: {', '.join(alike)}**; read whole answers.")
    return Table("Tasks as data", [*heads, "separator"], rows, notes)


def base_table(records: Records, config: MediationConfig) -> Table:
    """Which tasks the model does, and what is left for a vector to restore."""
    rows: list[list[Cell]] = []
    for name in [*names(records), "all"]:
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
    """Accuracy with each vector at its setting."""
    chosen, paper, plain = settings(records)
    rows: list[list[Cell]] = []
    for kind in KINDS:
        for name in [*names(records), "all"]:
            arms = {arm: _arm(records, kind, name, arm) for arm in ("nothing", *SHOWN)}
            gaps = [_gap(arms[arm], arms["nothing"], config) for arm in (VECTOR, RANDOM)]
            rates = [rate(found, config.seed) for found in arms.values()]
            rows.append([kind, name, len(arms[VECTOR]), *rates, *gaps])
    closed = closed_tasks(records, config)
    n = len(of(records, CHOICE))
    heads = [Column(arm, "%") for arm in ("nothing", *SHOWN)]
    return Table(
        "A vector instead of examples",
        ["prompt", "task", "n", *heads, Column("gap closed", "%"), Column("gap closed, random heads", "%")],
        rows,
        [
            f"Function vector: {chosen}. Plain sum: {plain}. Paper's setting: {paper}. All three were chosen on {n} "
            "queries of the other half of the pairs, from which heads and means come as well; none of the queries here "
            "was seen. Test set: queries right with examples, so that 100 % is the ceiling. Random heads and other "
            "task: the same form, number and strength; random vector: the same length and strength. "
            f"{LAYER.capitalize()}: the stream's mean, added once, at the same layer.",
            f"Gap closed: share of what is missing to 100 %; {ENOUGH:.0%} or more of it on {closed[0]} of {closed[1]} "
            "tasks (no examples).",
        ],
    )


def _arm(records: Records, kind: str, name: str, arm: str) -> list[Record]:
    return [r for r in of(records, ANSWERS, prompt=kind, arm=arm) if name in (r["task"], "all")]


def _gap(arm: Sequence[Record], base: Sequence[Record], config: MediationConfig) -> Estimate | None:
    plain = {r["item"]: float(r["right"]) for r in base}
    values = [float(r["right"]) for r in arm]
    units = [r["item"] for r in arm]
    return gap_closed(values, [plain[unit] for unit in units], unit=units, seed=config.seed)


def closed_tasks(records: Records, config: MediationConfig, kind: str = KINDS[0], arm: str = VECTOR) -> tuple[int, int]:
    """On how many tasks an arm closes enough of the gap, and of how many there is a gap."""
    gaps = [
        _gap(_arm(records, kind, name, arm), _arm(records, kind, name, "nothing"), config) for name in names(records)
    ]
    there = [gap.value for gap in gaps if gap is not None]
    return sum(gap >= ENOUGH for gap in there), len(there)


def variants_table(records: Records, config: MediationConfig) -> Table:
    """All ways to make the vector, by rank and by whole answer."""
    rows: list[list[Cell]] = []
    for kind in KINDS:
        for arm in ("nothing", *VARIANTS):
            own = of(records, ANSWERS, prompt=kind, arm=arm)
            units = [r["item"] for r in own]
            tops = [
                mean_or_none([float(r["rank"] < k) for r in own], unit=units, seed=config.seed) for k in (1, 2, 3, 5)
            ]
            log_prob = mean_or_none([r["log_prob"] for r in own], unit=units, seed=config.seed)
            gap = None if arm == "nothing" else _gap(own, _arm(records, kind, "all", "nothing"), config)
            closed = None if arm == "nothing" else closed_tasks(records, config, kind, arm)[0]
            rows.append([kind, arm, len(own), *tops, rate(own, config.seed, "whole"), log_prob, gap, closed])
    tops_heads = [Column(f"top {k}", "%") for k in (1, 2, 3, 5)]
    return Table(
        "Ways to make the vector, by rank and by whole answer",
        [
            "prompt",
            "vector",
            "n",
            *tops_heads,
            Column("whole answer", "%"),
            Column("its log-probability", "nats"),
            Column("gap closed", "%"),
            f"tasks with {ENOUGH:.0%} or more",
        ],
        rows,
        [
            "Own heads: by the task's own effects, instead of those shared by all tasks; heads of other tasks: by the "
            "effects of all tasks but this one; from corrupted prompts: the same heads' means over prompts with wrong "
            "labels. Whole answer: greedy decoding writes it, "
            "with the vector at the query's last token only."
        ],
    )


def choice_table(records: Records, config: MediationConfig) -> Table | None:
    """What the first half of the pairs says of each number of heads and strength, each at its best layer."""
    own = of(records, CHOICE)
    if not own:
        return None
    rows: list[list[Cell]] = []
    head = own[0]
    layers = range(len(head["layers"]))
    for form, name in enumerate(("plain", "minus the mean of tasks")):
        for i, k in enumerate(head["heads"]):
            for j, strength in enumerate(head["strengths"]):
                hits = [[r["right"][form][i][at][j] for r in own] for at in layers]
                at = max(layers, key=lambda layer, hits=hits: (sum(hits[layer]), -layer))  # type: ignore[misc]
                right = Frame(own).mean(hits[at], seed=config.seed)
                rows.append([name, k, strength, head["layers"][at], len(own), right])
    return Table(
        "The choice of a setting, on the first half of the pairs",
        ["sum", "heads", Column("strength", digits=1), "best layer", "n", Column("right", "%")],
        rows,
        ["Bare queries of pairs from which the means come as well; the figures of the study are of the other half."],
    )


def by_layer(records: Records, config: MediationConfig) -> Iterator[Plot]:
    for kind in KINDS:
        own = of(records, ADDED, prompt=kind)
        if not own:
            continue
        layers = list(range(len(own[0]["right"])))
        yield line_with_band(
            layers,
            [Series(arm, [_at(own, arm, layer, config) for layer in layers]) for arm in ARMS],
            name=f"by_layer_{kind.replace(' ', '_')}",
            title=f"Accuracy by layer of addition, {kind}",
            x_label="layer (output)",
            y_label="right (share of queries)",
            caption=f"Share of queries right when a vector is added at a layer's output, prompts with {kind}"
            + ("" if kind == "no examples" else " labels")
            + f". Function vector: {settings(records)[0]}; {PAPER}: {settings(records)[1]}; at all layers. Bands: "
            "95 % intervals over queries, of all tasks together.",
            limits=(0, 1),
        )


def _at(own: Sequence[Record], arm: str, layer: int, config: MediationConfig) -> Estimate | None:
    return rate([{"item": r["item"], "right": r["right"][layer]} for r in own if r["arm"] == arm], config.seed)


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
        f"{len(names(records))} tasks that weigh equally.",
    )


def headline(records: Records, config: MediationConfig) -> str:
    arms = [_arm(records, KINDS[0], "all", arm) for arm in (VECTOR, "nothing", RANDOM)]
    vector, nothing, control = (rate(arm, config.seed) for arm in arms)
    gap = _gap(arms[0], arms[1], config)
    if vector is None or nothing is None or control is None or gap is None:
        return "too few queries are right with examples"
    texts = [one.text(percent=True) for one in (vector, nothing, control, gap)]
    closed = closed_tasks(records, config)
    return (
        f"no examples: {texts[0]} % right with the function vector, {texts[1]} % without, {texts[2]} % random heads; "
        f"{texts[3]} % of the gap to examples closed, {ENOUGH:.0%} or more on {closed[0]} of {closed[1]} tasks"
    )


def metrics(records: Records, config: MediationConfig) -> list[Metric]:
    arms = [_arm(records, KINDS[0], "all", arm) for arm in (VECTOR, "nothing")]
    return [
        Metric("right with the function vector", "%", rate(arms[0], config.seed)),
        Metric("gap closed", "%", _gap(arms[0], arms[1], config)),
    ]
