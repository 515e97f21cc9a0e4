"""The selected direction ablated at run time and in the weights: replies, and what the weights still write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from experiments.exp1_refusal_direction import selection
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared.traits import stages, trait_report
from experiments.shared.traits.stages import Item, TraitConfig
from mlx_interp.directions.direction import Direction
from mlx_interp.directions.orthogonalization import orthogonalized
from mlx_interp.reporting import Cell, Column, Table

TRAIT = "refusal"
WEIGHTS = "weights"
FORMS = ("plain", "ablated at run time", "orthogonalised weights")


class Replied(TypedDict):
    """A reply under the selected direction, ablated at run time or in the weights."""

    trait: str
    kind: str
    form: str
    layer: int
    position: int
    unit: str
    hit: bool
    remains: float | None
    """Share of the direction that the worst matrix still writes."""
    text: str


def selected(run: Run[TraitConfig], layer: int, position: int) -> Direction:
    return selection.candidates(run).direction(layer, position)


def forms(run: Run[TraitConfig], earlier: Records) -> list[Item]:
    """The selected direction, ablated in two ways; nothing where no candidate passed."""
    best = selection.ranked(earlier)[:1]
    return [
        Item(f"{form}, {kind}", TRAIT, kind, form, number=position, layer=layer)
        for layer, position in best
        for form in FORMS
        for kind in ("positive", "negative")
    ]


def measure_form(run: Run[TraitConfig], item: Item) -> Iterator[Replied]:
    """Replies to the held-out prompts of one kind."""
    model = run.model
    asks = getattr(stages.sets(run, TRAIT), item.kind)["test"]
    prompts = [model.prompt(ask.text, chat=True) for ask in asks]
    direction = selected(run, item.layer, item.number)
    remains = None
    if item.split == "orthogonalised weights":
        with orthogonalized(model, direction) as edit:
            texts = model.generate(prompts, max_tokens=run.config.new_tokens)
            remains = edit.worst.remains
    else:
        edits = direction.ablated_everywhere() if item.split == "ablated at run time" else []
        texts = model.generate(prompts, interventions=edits, max_tokens=run.config.new_tokens)
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


def form_table(records: Records, config: TraitConfig) -> Table | None:
    """Refusals under the selected direction, ablated at run time or in the weights."""
    measured = of(records, WEIGHTS)
    if not measured:
        return None
    rows: list[list[Cell]] = []
    for form in FORMS:
        own = [r for r in measured if r["form"] == form]
        kinds = [[r for r in own if r["kind"] == kind] for kind in ("positive", "negative")]
        plain = {r["unit"]: r["text"] for r in measured if r["form"] == "ablated at run time"}
        same = [{"same": r["text"] == plain[r["unit"]], "unit": r["unit"]} for r in own]
        rates = [trait_report.rate(kind, config.seed) for kind in kinds]
        rows.append([form, len(kinds[0]), *rates, trait_report.rate(same, config.seed, "same"), own[0]["remains"]])
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
