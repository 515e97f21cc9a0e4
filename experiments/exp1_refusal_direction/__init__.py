"""exp1: refusal is mediated by a single direction (Arditi et al. 2024).

Question   Is there one direction whose removal stops refusals and whose addition causes them?
Data       requests that are refused and requests of the same form that are not, in three disjoint splits: the
           synthetic world's on embedded models, the project's own (mild) ones on others.
Measure    candidates at every layer and every template token behind the instruction; selected by bypass, induce and KL;
           then on held-out prompts: taken out everywhere, added once, and the weights orthogonalised for good; every
           layer by its effect; strengths with repetition and likelihood of the texts; everyday facts beside it;
           loss on other text, taken out against subtracted, a fine-tune beside it; an adversarial suffix, and what
           it does to the last token and to the heads that write the direction.
Figure     rate of refusals, read from the opening of the reply, with a 95 % interval over prompts.
Control    random directions (drawn many times at the chosen layer) and directions from shuffled labels, of the same
           length at the same place; orthogonalised weights must agree with ablation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.exp1_refusal_direction import judged, loss, selection, suffixes
from experiments.harness.experiment import Experiment, Plan, Records, Stage
from experiments.shared.traits import draws, geometry, report, stages
from experiments.shared.traits.stages import Item
from mlx_interp.directions.direction import Direction
from mlx_interp.directions.orthogonalization import orthogonalized
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Record, Table

TRAIT = "refusal"
WEIGHTS = "weights"
FORMS = ("plain", "taken out at run time", "orthogonalised weights")


@dataclass(frozen=True)
class Config(draws.DrawConfig, suffixes.SuffixConfig):
    """Nothing of its own."""


def selected(model: Model, config: Config, layer: int, position: int) -> Direction:
    return selection.candidates(model, config).direction(layer, position)


def forms(model: Model, config: Config, earlier: Records) -> list[Item]:
    """The selected direction, taken out in two ways; nothing where no candidate passed."""
    best = selection.ranked(earlier)[:1]
    return [
        Item(f"{form}, {kind}", TRAIT, kind, form, number=position, layer=layer)
        for layer, position in best
        for form in FORMS
        for kind in ("positive", "negative")
    ]


def measure_form(model: Model, item: Item, config: Config) -> Iterator[Record]:
    """Replies to the held-out prompts of one kind."""
    asks = getattr(stages.sets(model, config, TRAIT), item.kind)["test"]
    prompts = [model.prompt(ask.text, chat=True) for ask in asks]
    direction = selected(model, config, item.layer, item.number)
    remains = None
    if item.split == "orthogonalised weights":
        with orthogonalized(model, direction) as edit:
            texts = model.generate(prompts, max_tokens=config.new_tokens)
            remains = edit.worst.remains
    else:
        edits = direction.ablated_everywhere() if item.split == "taken out at run time" else []
        texts = model.generate(prompts, interventions=edits, max_tokens=config.new_tokens)
    for ask, text in zip(asks, texts, strict=True):
        yield {
            "trait": TRAIT,
            "kind": item.kind,
            "form": item.split,
            "layer": item.layer,
            "position": item.number,
            "unit": ask.unit,
            "hit": ask.hit(text.text),
            "remains": remains,
            "text": text.text,
        }


def form_table(records: Records, config: Config) -> Table | None:
    """Refusals under the selected direction, taken out at run time or in the weights."""
    measured = report.of(records, WEIGHTS)
    if not measured:
        return None
    rows: list[list[Cell]] = []
    for form in FORMS:
        own = [r for r in measured if r["form"] == form]
        kinds = [[r for r in own if r["kind"] == kind] for kind in ("positive", "negative")]
        plain = {r["unit"]: r["text"] for r in measured if r["form"] == "taken out at run time"}
        same = [{"same": r["text"] == plain[r["unit"]], "unit": r["unit"]} for r in own]
        rates = [report.rate(kind, config.seed) for kind in kinds]
        rows.append([form, len(kinds[0]), *rates, report.rate(same, config.seed, "same"), own[0]["remains"]])
    return Table(
        "The selected direction, at run time and in the weights",
        [
            *("form", "n", Column("harmful refused", "%"), Column("harmless refused", "%")),
            Column("text as at run time", "%"),
            Column("remains in the worst matrix", "%"),
        ],
        rows,
        [
            "Remains: share of the direction that the worst matrix still writes. On a CPU weights are unquantised; "
            "with 4 bits rounding leaves more (docs/orthogonalization.md).",
        ],
    )


def drawn_at(model: Model, config: draws.DrawConfig, earlier: Records) -> tuple[list[str], float]:
    """The language of the study, and the whole difference of means."""
    return [""], 1.0


def plan(model: Model, items: Sequence[Item], config: Config) -> Plan:
    return report.plan_of(model, config, [TRAIT], strengths=True)


EXPERIMENT = Experiment(
    name="exp1_refusal_direction",
    config=Config,
    stages=[
        *stages.of_trait(TRAIT),
        Stage(selection.SCORES, selection.items, selection.measure, batch=64),
        Stage(WEIGHTS, forms, measure_form),
        *stages.calibrated(TRAIT),
        Stage(loss.LOSS, loss.items, loss.measure),
        draws.stage(TRAIT, drawn_at, positions=stages.added_at(TRAIT)),
        geometry.places(TRAIT),
        geometry.angles(TRAIT, "sycophancy", "stance", "confidence"),
        *suffixes.STAGES,
        judged.STAGE,
    ],
    tables=[
        selection.table,
        form_table,
        report.layer_table,
        report.effect_table,
        draws.table,
        report.strength_table,
        report.side_table,
        loss.table,
        loss.reported,
        selection.metric_table,
        geometry.place_table,
        geometry.separation_table,
        geometry.angle_table,
        suffixes.table,
        suffixes.head_table,
        judged.table,
        report.prompt_table,
    ],
    figures=[
        selection.figure,
        report.by_layer,
        draws.figure,
        report.by_strength,
        geometry.angle_figure,
        suffixes.figure,
    ],
    headline=report.headline,
    plan=plan,
    limits_items=False,
    scaling=report.metrics,
)
