"""Random directions in numbers: does a direction that means nothing bring refusals, or stop them?

1. Directions are drawn evenly from the sphere ("random"), each by a stable seed; the same ones without their part along
   the found direction are a control of their own ("random, orthogonal"). All are as long as the found one.
2. Each is used where the study uses the found one: the same layer, strength, positions and held-out prompts.
3. The rate is a mean over draws and prompts, with an interval that resamples both; beside it the least and the most of
   a single draw, and how far the mean is from the rate of the prompts left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from experiments.harness.experiment import Records, Stage
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared.traits import stages
from experiments.shared.traits.layer_choice import chosen_layer
from experiments.shared.traits.stages import Item, TraitConfig
from experiments.shared.traits.trait_report import KINDS, rate
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.directions.direction import Direction
from mlx_interp.interventions import Intervention
from mlx_interp.reporting import Cell, Column, Panel, Plot, Record, Table, heat_map
from mlx_interp.stats import Estimate, crossed_interval

DRAWS = "draws"
RANDOM, ORTHOGONAL = "random", "random, orthogonal"
QUANTILES = tuple(np.linspace(0, 1, 21).tolist())
MOST_AWAY = 0.05
"""How far from the plain rate random directions may be on average."""


@dataclass(frozen=True)
class DrawConfig(TraitConfig):
    """Fields of studies that draw many random directions."""

    n_train: int = 116
    n_test: int = 20
    n_draws: int = 100
    """Random directions that are added; of orthogonal ones, and of those ablated, a fifth. Few induce anything, and
    these induce much: the mean of twenty draws is luck."""


Places = Callable[[Run["DrawConfig"], Records], tuple[Sequence[str], float]]


class Drawn(TypedDict):
    """A prompt's reply under one direction, found or drawn at random."""

    trait: str
    language: str
    kind: str
    unit: str
    layer: int
    strength: float
    arm: str
    draw: int
    cosine: float | None
    """With the found direction."""
    hit: bool


def stage(trait: str, places: Places, positions: int | None) -> Stage[DrawConfig, Item, Drawn]:
    """Draws at the chosen layer; places: languages ("" is the study's) and strength; positions: where it is added."""

    def items(run: Run[DrawConfig], earlier: Records) -> list[Item]:
        layer = chosen_layer(earlier, trait)
        if layer is None:
            return []
        languages, strength = places(run, earlier)
        return [
            Item(f"{language} {kind} {number}".strip(), trait, kind, "test", number, layer, strength, language)
            for language in languages
            for kind in KINDS
            for number in range(len(getattr(stages.sets(run, trait, language), kind)["test"]))
        ]

    def measure_there(run: Run[DrawConfig], item: Item) -> Iterator[Drawn]:
        yield from measure(run, item, positions)

    return Stage(DRAWS, items, measure_there, record=Drawn)


def measure(run: Run[DrawConfig], item: Item, positions: int | None) -> Iterator[Drawn]:
    """One prompt left alone, under the study's direction, and under every draw, as one batch."""
    config = run.config
    ask = stages.asked(run, item)
    source = Item(item.key, item.trait)  # the direction is that of the study's own language, wherever it is used
    found = stages.vector(run, source, item.layer, "direction")
    added, few = item.kind == "negative", -(-config.n_draws // 5)
    counts = {RANDOM: config.n_draws if added else few, ORTHOGONAL: few}
    cells = [("direction", 0), *((arm, n) for arm, count in counts.items() for n in range(count))]
    directions = [found, *(drawn(found, arm, n, config.seed) for arm, n in cells[1:])]
    edits: list[list[Intervention]] = [
        [one.added(item.value, positions=positions)] if added else one.ablated_everywhere() for one in directions
    ]
    texts = run.model.sweep_generate(run.model.prompt(ask.text, chat=True), [[], *edits], max_tokens=config.new_tokens)
    cosines = [float(mx.sum(one.unit * found.unit)) for one in directions]
    for (arm, draw), cosine, text in zip([("plain", 0), *cells], [None, *cosines], texts, strict=True):
        yield {
            "trait": item.trait,
            "language": item.language or config.language,
            "kind": item.kind,
            "unit": ask.unit,
            "layer": item.layer,
            "strength": item.value,
            "arm": arm,
            "draw": draw,
            "cosine": cosine,
            "hit": ask.hit(text.text),
        }


def drawn(found: Direction, arm: str, draw: int, seed: int) -> Direction:
    """A direction drawn at random, as long as the found one; the draw's number gives the same one in every run."""
    own = np.asarray(found.vector, np.float64)
    key = ("random direction", found.site, draw)
    vector = random_like(own, seed=seed, key=key, without=own if arm == ORTHOGONAL else None)
    return replace(found, vector=mx.array(vector.astype(np.float32)), method=arm)


def table(records: Records, config: DrawConfig) -> Table | None:
    """Rates under many random directions, in every language."""
    rows: list[list[Cell]] = []
    for (trait, language, kind), own in _groups(records).items():
        plain, found = ([r for r in own if r["arm"] == arm] for arm in ("plain", "direction"))
        for arm in (RANDOM, ORTHOGONAL):
            mine, single = [r for r in own if r["arm"] == arm], sorted(draw_rates(own, arm))
            means = [_crossed(mine, before, config.seed) for before in ([], plain)]
            rates = [rate(part, config.seed) for part in (plain, found)]
            rows.append(
                [trait, language, KINDS[kind], len(plain), *rates, arm, len(single), *means, single[0], single[-1]]
            )
    if not rows:
        return None
    strengths = ", ".join(f"{strength:g}" for strength in sorted({r["strength"] for r in of(records, DRAWS)}))
    return Table(
        "Random directions, drawn many times",
        [
            *(
                "trait",
                "language",
                "edit",
                "n",
                Column("plain", "%"),
                Column("found direction", "%"),
                "control",
                "draws",
            ),
            *(Column(what, "%") for what in ("mean of the draws", "away from plain", "least", "most")),
        ],
        rows,
        [
            f"Layer, prompts, length and strength ({strengths} times the difference of means) are those of the found "
            "direction. Random: drawn evenly from the sphere; orthogonal: without its part along the found direction. "
            f"Intervals resample draws and prompts. The mean is meant to stay within {MOST_AWAY:.0%} of plain.",
        ],
    )


def figure(records: Records, config: DrawConfig) -> Iterator[Plot]:
    """Every draw's own rate, from the least to the most, by language: how much hangs on one draw."""
    groups = _groups(records)
    for trait, kind in dict.fromkeys((trait, kind) for trait, _, kind in groups):
        names = [name for t, name, k in groups if (t, k) == (trait, kind)]
        panels = [
            Panel(arm, [np.quantile(draw_rates(groups[trait, name, kind], arm), QUANTILES).tolist() for name in names])
            for arm in (RANDOM, ORTHOGONAL)
        ]
        yield heat_map(
            panels,
            name=f"{trait}_{kind}_draws",
            title=f"{trait}: random directions {KINDS[kind]}",
            x_label="share of the random directions, by their rate (%)",
            y_label="language",
            value_label="rate of the trait",
            caption=f"Rate of the trait ({trait}) on held-out prompts with a random direction {KINDS[kind]}, by "
            "language: quantiles over the draws, the least on the left, the most on the right. Orthogonal: to the "
            "found direction.",
            x_ticks=[f"{100 * share:.0f}" if n % 4 == 0 else "" for n, share in enumerate(QUANTILES)],
            y_ticks=names,
            limits=(0, 1),
            columns=1,
        )


def mean(records: Records, seed: int, **labels: object) -> Estimate | None:
    """Rate under random directions, over all draws; of harmless prompts in all languages, or as the labels say."""
    return _crossed(of(records, DRAWS, **{"kind": "negative", "arm": RANDOM, **labels}), [], seed)


def draw_rates(records: Sequence[Record], arm: str) -> list[float]:
    """The rate of every single draw."""
    own = [r for r in records if r["arm"] == arm]
    return [float(np.mean([r["hit"] for r in own if r["draw"] == n])) for n in sorted({r["draw"] for r in own})]


def _crossed(records: Sequence[Record], plain: Sequence[Record], seed: int) -> Estimate | None:
    before = {r["unit"]: float(r["hit"]) for r in plain}
    values = [float(r["hit"]) - before.get(r["unit"], 0.0) for r in records]
    units, draws = ([r[name] for r in records] for name in ("unit", "draw"))
    return crossed_interval(values, unit=units, draw=draws, seed=seed, bounds=(-1.0 if plain else 0.0, 1.0))


def _groups(records: Records) -> dict[tuple[str, str, str], list[Record]]:
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for r in of(records, DRAWS):
        groups.setdefault((r["trait"], r["language"], r["kind"]), []).append(r)
    return groups
