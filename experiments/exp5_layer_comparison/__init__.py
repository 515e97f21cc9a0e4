"""exp5: where does each phenomenon live? Refusal, stance, confidence, two-hop bridges, function vectors, by depth.

Question   Do phenomena sit at different depths, as the project's first round reported, once depth is judged by effect
           and not by the length of a direction?
Data       as in exp1, exp2 and exp4 for the directions; two-hop queries that the model answers, as in exp3; in-context
           tasks that it does with examples, as in exp11.
Measure    effect of a layer's direction: share of held-out replies that turn as meant, beyond those that are so
           anyway (0: nothing happens). Bridge: share of queries with it in the lens's top 10 at the end of the subject.
           Function vector: share of bare queries done right with the task's vector added at a layer, beyond those
           that are right without.
Figure     each effect as a share of its own largest, against depth; the peak with its effect.
Control    the same of directions from shuffled labels; for the bridge, another query's bridge in the same lens; for
           function vectors, as many heads drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.harness.experiment import Experiment, Plan, Records, Stage
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.tasks import TaskConfig
from experiments.shared.traits import report, stages
from experiments.shared.traits.stages import EFFECTS, Item, TraitConfig
from experiments.shared.two_hop.queries import TwoHopConfig, queries
from mlx_interp.behaviour.answers import answer_scores, continuation, question, verdicts
from mlx_interp.behaviour.two_hop import bridge_position, donor_of
from mlx_interp.errors import DataError
from mlx_interp.in_context.function_vectors import function_vector
from mlx_interp.interventions import Add, Intervention
from mlx_interp.lenses.logit import lens_at, lens_ranks
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import Estimate, difference_interval

TRAITS = ("refusal", "stance", "confidence")
BRIDGE = "bridge"
VECTOR = "function vector"
PHENOMENA = (*TRAITS, BRIDGE, VECTOR)
TOP = 10
REPORTED = {"refusal": 0.64, "stance": 0.80, "confidence": 0.96}
"""Depth in the first round, on Gemma 2 2B, by the length of the direction (stance: there called sycophancy)."""


@dataclass(frozen=True)
class Config(TraitConfig):
    max_queries: int = 120
    """Two-hop queries, evenly over the data."""
    max_tasks: int = 6
    """In-context tasks, evenly over those that there are."""
    queries_per_task: int = 6
    """Held-out queries of each task."""
    n_heads: int = 10
    """Heads of a function vector."""


@dataclass(frozen=True)
class Hop:
    """A two-hop query by its number in the data."""

    key: str
    number: int


def hops(model: Model, config: Config, earlier: Records) -> list[Hop]:
    found = queries(model, TwoHopConfig(seed=config.seed), ())
    n = min(config.max_queries, len(found))
    return [Hop(found[i * len(found) // n].key, i * len(found) // n) for i in range(n)]


def measure_bridge(model: Model, item: Hop, config: Config) -> Iterator[Record]:
    """The lens at the end of the subject: is the query's bridge visible, and another query's?"""
    found = queries(model, TwoHopConfig(seed=config.seed), ())
    query = found[item.number]
    donor = donor_of(query, found)
    asked = question(model, query.two_hop, query.answers)
    if donor is None or not verdicts(model, [asked])[0].first_token:
        return
    (logits,) = lens_at(model, asked.prompt, [bridge_position(model, query)])
    for arm, name in (("direction", query.bridge), ("shuffled labels", donor.bridge)):
        ranks = lens_ranks(logits, [continuation(model, model.prompt(query.first_hop), name)[0]])
        for layer, rank in enumerate(ranks):
            yield {"unit": query.bridge, "arm": arm, "layer": layer, "hit": rank < TOP}


def tasks_of(model: Model, config: Config, earlier: Records) -> list[Item]:
    """Tasks, evenly over those that there are."""
    names = list(of_tasks.tasks(model, TaskConfig(seed=config.seed)))
    n = min(config.max_tasks, len(names))
    return [Item(name, VECTOR, name) for name in (names[i * len(names) // n] for i in range(n))]


def measure_vector(model: Model, item: Item, config: Config) -> Iterator[Record]:
    """A task's function vector, from one half of its pairs, added to bare queries of the other at every layer."""
    setting = TaskConfig(seed=config.seed)
    extract, held_out = of_tasks.halves(model, setting, item.kind)
    shape = of_tasks.template(model, setting)
    others = [task for name, task in of_tasks.tasks(model, setting).items() if name != item.kind]
    try:
        found = function_vector(
            model,
            extract,
            n_heads=config.n_heads,
            n_shots=of_tasks.n_shots(model, setting),
            n_prompts=setting.n_effects,
            template=shape,
            corruption=of_tasks.how(model, setting),
            foreign=[answer for task in others for _, answer in task.pairs],
            seed=config.seed,
        )
    except DataError:
        return  # a task that the model does not do has no vector
    layers = range(1, model.n_layers)
    arms = {"direction": found.vector, "shuffled labels": found.nulls["random heads"]}
    cells: list[tuple[str, int | None]] = [("none", None), *((arm, layer) for arm in arms for layer in layers)]
    variants: list[list[Intervention]] = [[]]
    variants += [[Add(f"resid_pre.{layer}", vector, 1.0, -1)] for vector in arms.values() for layer in layers]
    for word, answer in held_out.pairs[: config.queries_per_task]:
        asked = question(model, shape.prompt([], word), [answer])
        scores = model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens))
        for (arm, layer), score in zip(cells, scores, strict=True):
            yield {"unit": f"{item.kind}: {word}", "arm": arm, "layer": layer, "hit": int(score[0]) == 0}


def effect(records: Records, trait: str, arm: str, layer: int, seed: int) -> Estimate | None:
    """Share of held-out replies that the direction turns as meant, beyond those that are so anyway: 0 where it does
    nothing. Meant: the trait where it is added, none where it is taken out. For the bridge, the share that shows it.
    """
    if trait == BRIDGE:
        return report.rate(report.of(records, BRIDGE, arm=arm, layer=layer), seed)
    if trait == VECTOR:
        steered, plain = (report.of(records, VECTOR, arm=name, layer=at) for name, at in ((arm, layer), ("none", None)))
    else:
        steered, plain = (
            report.of(records, EFFECTS, trait=trait, split="test", arm=name, layer=at)
            for name, at in ((arm, layer), ("none", None))
        )
    if len({r["unit"] for r in steered}) < 2:
        return None
    return difference_interval(
        [as_meant(r) for r in steered],
        [as_meant(r) for r in plain],
        unit=[r["unit"] for r in steered],
        control_unit=[r["unit"] for r in plain],
        seed=seed,
    )


def as_meant(record: Record) -> float:
    """Where the trait is brought, or a task done, a hit is meant; where it is taken out, none."""
    return float(bool(record["hit"]) == (record.get("kind", "negative") == "negative"))


def table(records: Records, config: Config) -> Table:
    """Where each peaks, and how large it is there."""
    rows: list[list[Cell]] = []
    depth = _n_layers(records)
    for trait in PHENOMENA:
        layers = _layers(records, trait)
        curve = {at: effect(records, trait, "direction", at, config.seed) for at in layers}
        found = {at: one for at, one in curve.items() if one is not None}
        if not found:
            rows.append([trait, None, None, None, None, REPORTED.get(trait)])
            continue
        peak = max(found, key=lambda at: (found[at].value, -at))
        control = effect(records, trait, "shuffled labels", peak, config.seed)
        rows.append([trait, peak, peak / depth, found[peak], control, REPORTED.get(trait)])
    return Table(
        "Where each phenomenon peaks",
        [
            *("phenomenon", "layer", Column("depth", "%"), Column("effect there", "%"), Column("control", "%")),
            Column("depth, reported", "%"),
        ],
        rows,
        [
            "Effect: replies that turn as meant (the trait comes where its direction is added, goes where it is taken "
            "out), as a share of all, less those that are so without it: 0 where it does nothing.",
            f"Bridge: share of queries with it in the lens's top {TOP}. Function vector: bare queries right with the "
            "task's vector added at the layer's input, less those right without; control: heads drawn at random.",
            "Reported: by the first round on Gemma 2 2B, where depth was that of the longest direction.",
        ],
    )


def figure(records: Records, config: Config) -> Iterator[Plot]:
    """All curves in one figure, each as a share of its own largest effect."""
    depth = _n_layers(records)
    layers = range(1, depth)
    series = []
    for trait in PHENOMENA:
        curve = [effect(records, trait, "direction", at, config.seed) for at in layers]
        largest = max((one.value for one in curve if one is not None), default=0.0)
        if largest > 0:
            series.append(
                Series(f"{trait} ({largest:.0%})", [None if one is None else _over(one, largest) for one in curve])
            )
    if series:
        yield line_with_band(
            [at / depth for at in layers],
            series,
            name="by_depth",
            title="Effects by depth",
            x_label="depth (share of the layers)",
            y_label="effect, share of its largest",
            caption="Effect of each layer's direction on held-out prompts (bridge: visibility in the lens), as a share "
            "of the largest of its curve, which the legend gives; bands are 95 % intervals.",
        )


def headline(records: Records, config: Config) -> str:
    cells = [(row[0], row[2]) for row in table(records, config).rows]
    return ", ".join(
        f"{name} at {share:.0%}" if isinstance(share, float) else f"{name}: no effect" for name, share in cells
    )


def _over(one: Estimate, largest: float) -> Estimate:
    return Estimate(one.value / largest, one.low / largest, one.high / largest, one.n)


def _n_layers(records: Records) -> int:
    return int(next(r["n_layers"] for r in records if "n_layers" in r))


def _layers(records: Records, trait: str) -> list[int]:
    own = report.of(records, trait) if trait in (BRIDGE, VECTOR) else report.of(records, EFFECTS, trait=trait)
    return sorted({r["layer"] for r in own if r["layer"] is not None})


def plan(model: Model, items: Sequence[Item], config: Config) -> Plan:
    return report.plan_of(model, config, TRAITS, strengths=False)


EXPERIMENT = Experiment(
    name="exp5_layer_comparison",
    config=Config,
    stages=[*stages.of_trait(*TRAITS), Stage(BRIDGE, hops, measure_bridge), Stage(VECTOR, tasks_of, measure_vector)],
    tables=[table, report.layer_table, report.prompt_table],
    figures=[figure],
    headline=headline,
    plan=plan,
    limits_items=False,
    group=lambda item: item.trait,
)
