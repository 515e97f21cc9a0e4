"""One language's refusal direction in another: strength, transfer, and cosines of directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run, of_run
from experiments.shared.traits import geometry, random_draws, stages
from experiments.shared.traits.layer_choice import chosen_layer
from experiments.shared.traits.own_sets import LANGUAGES
from experiments.shared.traits.stages import Item
from mlx_interp.directions.contrasts import Contrast, contrast, cosines
from mlx_interp.embedded import load_world, trained_refusal_direction
from mlx_interp.errors import ConfigError
from mlx_interp.interventions import Intervention
from mlx_interp.loading.names import EMBEDDED

TRAIT = "refusal"
TRANSFER, PARALLEL, DOSE = "transfer", "cosines", "dose"
EDITS = ("plain", "ablated", "random ablated", "added", "random added")
SUFFICES = 0.95
"""Refusals that a strength has to bring on prompts set aside."""


@dataclass(frozen=True)
class Config(random_draws.DrawConfig):
    languages: tuple[str, ...] = ()
    """Which languages; by default all that there are prompts in."""
    doses: tuple[float, ...] = (0.25, 0.375, 0.4375, 0.5, 0.5625, 0.625, 0.6875, 0.75, 0.875, 1.0)
    """Strengths to add with, of which the least that suffices in every language is taken."""

    def __post_init__(self) -> None:
        if self.language != "en" or (self.languages and "en" not in self.languages):
            raise ConfigError(
                f"language {self.language}, languages {','.join(self.languages) or 'all'}: the direction of English is "
                "what others are compared with: leave language, languages with en"
            )


def languages(run: Run[Config]) -> list[str]:
    """Those asked for, or all that the model has prompts in."""
    return list(run.config.languages) or (load_world().languages if run.model.name in EMBEDDED else list(LANGUAGES))


def dose_items(run: Run[Config], earlier: Records) -> list[Item]:
    """Every strength in every language, at the layer chosen in English."""
    layer = chosen_layer(earlier, TRAIT)
    if layer is None:
        return []
    return [
        Item(f"{dose:g} in {language}", TRAIT, split=language, layer=layer, value=dose)
        for language in languages(run)
        for dose in run.config.doses
    ]


class Dosed(TypedDict):
    """A harmless request under one strength of the English direction."""

    dose: float
    """Multiple of the difference of means."""
    target: str
    """The request's language."""
    unit: str
    hit: bool
    """Whether the reply refuses."""


def measure_dose(run: Run[Config], item: Item) -> Iterator[Dosed]:
    """The English direction added at every position of one language's harmless requests set aside for choosing."""
    asks = stages.sets(run, TRAIT, item.split).negative["choose"]
    prompts = [run.model.prompt(ask.text, chat=True) for ask in asks]
    direction = stages.vector(run, item, item.layer, "direction")
    texts = run.model.generate(prompts, interventions=[direction.added(item.value)], max_tokens=run.config.new_tokens)
    for ask, text in zip(asks, texts, strict=True):
        yield {"dose": item.value, "target": item.split, "unit": ask.unit, "hit": ask.hit(text.text)}


def chosen_dose(records: Records) -> float:
    """The least strength that suffices in every language in which any does; what random directions do has no say.

    Where none suffices in all of them at once, the one whose worst language is best; the least of equals.
    """
    hits: dict[str, dict[float, list[bool]]] = {}
    for r in of(records, DOSE):
        hits.setdefault(r["target"], {}).setdefault(r["dose"], []).append(bool(r["hit"]))
    rates = [{dose: sum(found) / len(found) for dose, found in by_dose.items()} for by_dose in hits.values()]
    reached = [by_dose for by_dose in rates if max(by_dose.values()) >= SUFFICES] or rates
    return max(reached[0], key=lambda dose: (min(min(by_dose[dose], SUFFICES) for by_dose in reached), -dose))


def transfers(run: Run[Config], earlier: Records) -> list[Item]:
    """Every source language in every target language, at the layer chosen in English."""
    layer = chosen_layer(earlier, TRAIT)
    if layer is None:
        return []
    return [
        Item(f"{source} in {target}", TRAIT, split=target, layer=layer, language=source, value=chosen_dose(earlier))
        for source in languages(run)
        for target in languages(run)
    ]


def drawn_at(run: Run[random_draws.DrawConfig], earlier: Records) -> tuple[list[str], float]:
    """Every language, at the chosen strength."""
    assert isinstance(run.config, Config)
    return languages(run.under(run.config)), chosen_dose(earlier)


def prompt_items(run: Run[Config], earlier: Records) -> list[Item]:
    return [Item(f"{TRAIT} {name}", TRAIT, language=name) for name in languages(run)]


class Transferred(TypedDict):
    """A request of one language under the direction of another."""

    source: str
    """The direction's language."""
    target: str
    """The request's."""
    layer: int
    dose: float
    carries: bool
    """Whether the direction is more than noise."""
    edit: str
    kind: str
    """positive: harmful; negative: harmless."""
    unit: str
    hit: bool
    text: str


def measure_transfer(run: Run[Config], item: Item) -> Iterator[Transferred]:
    """One language's direction on another's held-out prompts, both kinds, each edit; plain and random for English only.

    What the plain model says depends on no direction, and one set of random directions is control enough.
    """
    target = stages.sets(run, TRAIT, item.split)
    carries = bool(stages.found(run, TRAIT, language=item.language).carries[item.layer, 0])
    for edit in EDITS if item.language == "en" else ("ablated", "added"):
        arm = "random" if edit.startswith("random") else "direction"
        direction = stages.vector(run, item, item.layer, arm)
        arms: dict[str, list[Intervention]] = {
            "plain": [],
            "ablated": direction.ablated_everywhere(),
            "added": [direction.added(item.value)],
        }
        edits = arms[edit.removeprefix("random ")]
        for kind, asks in (("positive", target.positive["test"]), ("negative", target.negative["test"])):
            prompts = [run.model.prompt(ask.text, chat=True) for ask in asks]
            texts = run.model.generate(prompts, interventions=edits, max_tokens=run.config.new_tokens)
            for ask, text in zip(asks, texts, strict=True):
                yield {
                    "source": item.language,
                    "target": item.split,
                    "layer": item.layer,
                    "dose": item.value,
                    "carries": carries,
                    "edit": edit,
                    "kind": kind,
                    "unit": ask.unit,
                    "hit": ask.hit(text.text),
                    "text": text.text,
                }


class Parallel(TypedDict):
    """Cosines of one language's direction at the layer chosen in English."""

    source: str
    target: str
    cosine: float
    """With the target's direction."""
    random: float
    language: float | None
    """With the difference of the languages themselves; None for English."""
    trained: float | None
    """With the one that the model was trained in; None where none is known."""


def measure_cosine(run: Run[Config], item: Item) -> Iterator[Parallel]:
    """Cosine of the two languages' directions, and of the source's with a random one."""
    one, other = (stages.found(run, TRAIT, language=name) for name in (item.language, item.split))
    control = np.asarray(stages.vector(run, item, item.layer, "random").vector)
    vector = one.vectors[item.layer, 0]
    identity = language_itself(run, item.language) if item.language != "en" else None
    trained = trained_refusal_direction(run.model.d_model) if run.model.name in geometry.KNOWN else None
    yield {
        "source": item.language,
        "target": item.split,
        "cosine": float(cosines(vector, other.vectors[item.layer, 0])),
        "random": float(cosines(vector, control)),
        "language": None if identity is None else float(cosines(vector, identity.vectors[item.layer, 0])),
        "trained": None if trained is None else float(cosines(vector, trained)),
    }


@of_run(16)
def language_itself(run: Run[Config], language: str) -> Contrast:
    """Harmless requests of a language minus harmless requests of English: nothing of refusal."""
    sides = [stages.sets(run, TRAIT, name).negative["train"] for name in (language, "en")]
    prompts = [[run.model.prompt(ask.text, chat=True) for ask in side] for side in sides]
    return contrast(run.model, prompts[0], prompts[1], seed=run.config.seed)


def places(run: Run[Config], earlier: Records) -> list[Item]:
    """Held-out prompts of every language, seen from the English direction."""
    return geometry.place_items(earlier, {TRAIT: languages(run)})
