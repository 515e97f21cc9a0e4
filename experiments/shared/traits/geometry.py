"""Where prompts lie: projections of held-out prompts on a direction, separation of two kinds, cosines of directions.

1. Projection: the state at the last prompt token along the direction, at the layer where it was found. Does it tell
   which prompts show the trait, and which of those that should show it do (a refused request from an answered one)?
2. Separation: silhouette of each held-out prompt among the states of both kinds (Rousseeuw 1987), -1 to 1.
3. Cosines among the directions of all traits, and with contrasts that have nothing to do with them; their ceiling is
   the cosine that resampled prompts give a direction with itself.

Controls: a random direction; the same states with shuffled labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypedDict

import numpy as np

from experiments.harness.experiment import Records, Stage
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared.traits import stages
from experiments.shared.traits.layer_choice import chosen_layer
from experiments.shared.traits.stages import Item, TraitConfig
from experiments.shared.traits.trait_report import rate
from mlx_interp.directions.contrasts import cosines
from mlx_interp.directions.states import states_of
from mlx_interp.embedded import trained_refusal_direction
from mlx_interp.reporting import Cell, Column, Panel, Plot, Record, Table, heat_map
from mlx_interp.stats import Estimate, auroc, stable_draw

PLACES, ANGLES = "places", "angles"
TRAINED = "the one trained in"
"""Embedded models in which refusal was trained to lie along one known direction: does the method find it?"""
KNOWN = ("tiny-llama", "tiny-gemma2", "tiny-qwen2")
KINDS = ("positive", "negative")


class Placed(TypedDict):
    """A prompt's state on the chosen layer's direction."""

    trait: str
    language: str
    layer: int
    kind: str
    unit: str
    hit: bool
    projection: float
    random: float
    """Projection on a random direction."""
    silhouette: float
    """Of the two kinds of prompts, in the state's space, -1 to 1."""
    shuffled: float


class Angle(TypedDict):
    """The directions of two traits at one layer."""

    one: str
    other: str
    layer: int
    cosine: float
    without_largest: float
    """The cosine without the dimension that weighs most."""
    random: float
    ceiling: float
    """The cosine that two halves of the same prompts reach."""
    carries: bool


def places(*traits: str) -> Stage[TraitConfig, Item, Placed]:
    """Projections and separation of each trait, in the language of the study."""
    return Stage(
        PLACES, lambda run, earlier: place_items(earlier, {t: [""] for t in traits}), measure_places, record=Placed
    )


def angles(*traits: str) -> Stage[TraitConfig, Item, Angle]:
    """Cosines among the directions of these traits."""
    return Stage(ANGLES, angle_items(traits), measure_angles, record=Angle)


def place_items(earlier: Records, languages: dict[str, list[str]]) -> list[Item]:
    """A trait in a language, at the layer chosen for it."""
    found = []
    for trait, names in languages.items():
        layer = chosen_layer(earlier, trait)
        if layer is not None:
            found += [Item(f"{trait} {name}".strip(), trait, layer=layer, language=name) for name in names]
    return found


def measure_places(run: Run[TraitConfig], item: Item) -> Iterator[Placed]:
    """Every held-out prompt: its reply, its projection on the study's direction and a random one, its silhouette."""
    target = stages.sets(run, item.trait, item.language)
    asks = [(kind, ask) for kind in KINDS for ask in getattr(target, kind)["test"]]
    prompts = [run.model.prompt(ask.text, chat=True) for _, ask in asks]
    source = Item(item.key, item.trait)  # the direction is that of the study's own language, wherever it is looked at
    directions = [stages.vector(run, source, item.layer, arm) for arm in ("direction", "random")]
    states = states_of(run.model, prompts, directions[0].site)
    projected = [states @ np.asarray(direction.unit, dtype=np.float64) for direction in directions]
    labels = np.array([kind == "positive" for kind, _ in asks])
    seed = stable_draw(run.config.seed, ("silhouette", item.trait, item.language), 2**31)
    shuffled = np.random.default_rng(seed).permutation(labels)
    texts = run.model.generate(prompts, max_tokens=run.config.new_tokens)
    own, null = silhouettes(states, labels), silhouettes(states, shuffled)
    for number, ((kind, ask), text) in enumerate(zip(asks, texts, strict=True)):
        yield {
            "trait": item.trait,
            "language": item.language or run.config.language,
            "layer": item.layer,
            "kind": kind,
            "unit": ask.unit,
            "hit": ask.hit(text.text),
            "projection": float(projected[0][number]),
            "random": float(projected[1][number]),
            "silhouette": float(own[number]),
            "shuffled": float(null[number]),
        }


def silhouettes(states: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) for states (n, d) of two kinds: how much nearer the own kind is than the other by mean distance, -1 to 1."""
    squares = np.sum(states**2, axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * states @ states.T, 0))
    same = labels[:, None] == labels[None]
    within = np.sum(apart * same, axis=1) / np.maximum(same.sum(axis=1) - 1, 1)
    between = np.sum(apart * ~same, axis=1) / np.maximum((~same).sum(axis=1), 1)
    return np.asarray((between - within) / np.maximum(np.maximum(between, within), 1e-30))


def angle_items(traits: Sequence[str]) -> Callable[[Run[TraitConfig], Records], list[Item]]:
    def items(run: Run[TraitConfig], earlier: Records) -> list[Item]:
        """Pairs of traits, at the layer chosen for the first; half of the depth for a trait that was not measured."""
        found = []
        for one in traits:
            layer = chosen_layer(earlier, one)
            at = run.model.n_layers // 2 if layer is None else layer
            others = [*traits, TRAINED] if one == "refusal" and run.model.name in KNOWN else traits
            found += [Item(f"{one}, {other}", one, other, layer=at) for other in others]
        return found

    return items


def measure_angles(run: Run[TraitConfig], item: Item) -> Iterator[Angle]:
    """Cosine of two traits' directions at one layer, with the ceiling, and with a random direction."""
    one = stages.found(run, item.trait)
    vector = one.vectors[item.layer, 0]
    if item.kind == TRAINED:
        second, ceiling, carries = trained_refusal_direction(run.model.d_model), one.stability[item.layer, 0], True
    else:
        other = stages.found(run, item.kind)
        second, ceiling = other.vectors[item.layer, 0], min(x.stability[item.layer, 0] for x in (one, other))
        carries = bool(other.carries[item.layer, 0])
    random = np.asarray(stages.vector(run, item, item.layer, "random").vector)
    yield {
        "one": item.trait,
        "other": item.kind,
        "layer": item.layer,
        "cosine": float(cosines(vector, second)),
        "without_largest": float(cosines(*_without_largest(vector, second))),
        "random": float(cosines(vector, random)),
        "ceiling": float(ceiling),
        "carries": bool(one.carries[item.layer, 0] and carries),
    }


def _without_largest(one: np.ndarray, other: np.ndarray, n: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Both without the coordinates in which either is largest: in some families a few outweigh all others."""
    drop = np.union1d(np.argsort(-np.abs(one))[:n], np.argsort(-np.abs(other))[:n])
    return np.delete(one, drop), np.delete(other, drop)


def place_table(records: Records, config: TraitConfig) -> Table | None:
    """Projections of prompts that show the trait, of those that should and do not, and of the others."""
    rows: list[list[Cell]] = []
    for (trait, language), own in _groups(records).items():
        shows = [r for r in own if r["kind"] == "positive" and r["hit"]]
        spared = [r for r in own if r["kind"] == "positive" and not r["hit"]]
        other = [r for r in own if r["kind"] == "negative"]
        cells: list[Cell] = [len(shows), len(spared), len(other)]
        cells += [rate(part, config.seed, "projection") for part in (shows, spared, other)]
        cells += [_told(shows + spared, other, config.seed, field) for field in ("projection", "random")]
        cells.append(_told([r for r in own if r["hit"]], [r for r in own if not r["hit"]], config.seed, "projection"))
        cells.append(_told(shows, spared, config.seed, "projection"))
        rows.append([trait, language, own[0]["layer"], *cells])
    if not rows:
        return None
    return Table(
        "Projections of held-out prompts on the direction",
        [
            *("trait", "language", "layer", "n, hit", "n, positive without hit", "n, negative"),
            *(Column(f"projection, {part}", "absolute", digits=1) for part in ("hit", "no hit", "negative")),
            *("AUROC, kinds", "AUROC, kinds, random direction", "AUROC, hits", "AUROC, hits among positive"),
        ],
        rows,
        [
            "State at the last prompt token, before any reply, along the direction of the study's language. Positive: "
            "prompts meant to show the trait; hit: the plain reply does. AUROC .5: tells nothing.",
        ],
    )


def _told(above: Sequence[Record], below: Sequence[Record], seed: int, field: str) -> Estimate | None:
    return auroc([r[field] for r in above], [r[field] for r in below], seed=seed)


def separation_table(records: Records, config: TraitConfig) -> Table | None:
    """How far apart the two kinds lie, beside how many of either show the trait."""
    rows: list[list[Cell]] = []
    for (trait, language), own in _groups(records).items():
        kinds = [[r for r in own if r["kind"] == kind] for kind in KINDS]
        apart = [rate(own, config.seed, field) for field in ("silhouette", "shuffled")]
        rows.append([trait, language, own[0]["layer"], len(own), *apart, *(rate(k, config.seed) for k in kinds)])
    if not rows:
        return None
    return Table(
        "Separation of the two kinds of prompts",
        [
            *("trait", "language", "layer", "n", "silhouette", "silhouette, shuffled labels"),
            *(Column(f"hits, {kind}", "%") for kind in KINDS),
        ],
        rows,
        ["Mean silhouette of held-out prompts at the last prompt token, in the whole stream; 1 is far apart, 0 mixed."],
    )


def angle_table(records: Records, config: TraitConfig) -> Table | None:
    """Cosines among directions, beside their ceiling and a random direction."""
    rows: list[list[Cell]] = [
        [
            *(r["one"], r["other"], r["layer"], "yes" if r["carries"] else "no"),
            *(r["cosine"], r["without_largest"], r["ceiling"], r["random"]),
        ]
        for r in of(records, ANGLES)
        if r["one"] != r["other"]
    ]
    if not rows:
        return None
    return Table(
        "Cosines of directions",
        [
            *("direction", "other direction", "layer", "both more than chance", "cosine"),
            *("without the largest coordinates", "ceiling", "random direction"),
        ],
        rows,
        [
            "At the layer chosen for the first. Ceiling: the less stable of the two with itself on resampled prompts. "
            "Without the three largest coordinates of either.",
        ],
    )


def angle_figure(records: Records, config: TraitConfig) -> Iterator[Plot]:
    """All cosines as a heat map."""
    found = {(r["one"], r["other"]): r["cosine"] for r in of(records, ANGLES)}
    names = list(dict.fromkeys(one for one, _ in found))
    if len(names) < 2:
        return
    yield heat_map(
        [Panel("cosine", [[found.get((one, other)) for other in names] for one in names])],
        name="cosines_of_traits",
        title="Cosines of directions",
        x_label="direction",
        y_label="direction whose layer it is",
        value_label="cosine",
        caption="Cosine of the directions of two traits at the layer chosen for the one of the row.",
        x_ticks=names,
        y_ticks=names,
        limits=(-1, 1),
    )


def _groups(records: Records) -> dict[tuple[str, str], list[Record]]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for r in of(records, PLACES):
        groups.setdefault((r["trait"], r["language"]), []).append(r)
    return groups
