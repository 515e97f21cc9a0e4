"""Stages that every study of a trait has, by name, and their record types."""

from __future__ import annotations

from typing import TypedDict

DIRECTIONS, EFFECTS, OPENINGS = "directions", "effects", "openings"
STRENGTHS, SIDE, PROMPTS = "strengths", "side effects", "prompts"


class Found(TypedDict):
    """A direction at one layer."""

    trait: str
    language: str
    arm: str
    """direction, or shuffled labels."""
    layer: int
    n_layers: int
    norm: float
    """Length of the difference of means."""
    relative_norm: float | None
    """The same over the mean length of the states there."""
    squared: float | None
    """Squared length without what noise adds to it; below 0 where there is less than noise."""
    p_value: float
    """By exchanged labels, for all layers together."""
    differs: bool
    carries: bool
    stability: float
    """Cosine of the directions of random halves of the prompts."""


class Edited(TypedDict):
    """One prompt under a layer's direction."""

    trait: str
    kind: str
    """positive: the trait shows and is ablated; negative: it does not and is added."""
    split: str
    unit: str
    """The unit that is resampled: the prompt, or the topic where several share one."""
    layer: int | None
    arm: str


class Affected(Edited):
    """What a layer's direction does to one prompt's reply."""

    hit: bool
    """Whether the reply shows the trait."""
    repetition: float
    """Share of repeated trigrams."""
    text: str


class Opened(Edited):
    """What a layer's direction does to the words that open one prompt's reply."""

    words: str
    """Opening with the trait / opening without."""
    log_odds: float
    """Of the first against the second, whole phrases, nats."""


class Used(TypedDict):
    """Which prompts were used."""

    trait: str
    language: str
    kind: str
    split: str
    n: int
    name: str
    revision: str
    part: str
    licence: str
    reference: str
    sha256: str
    known: bool


class OfDose(TypedDict):
    """What is added, where."""

    trait: str
    rule: str
    """At which positions it is added."""
    layer: int
    strength: float
    """Multiple of the difference of means."""
    arm: str


class Dosed(OfDose):
    """A reply under one strength of a direction."""

    kind: str
    unit: str
    finite: bool
    """Whether the model's numbers stay numbers; else there is no text."""
    hit: bool
    repetition: float
    log_prob: float | None
    """Of the text under the plain model, mean over its tokens, nats."""
    text: str


class SideEffect(TypedDict):
    """An everyday fact under a direction."""

    trait: str
    arm: str
    layer: int
    unit: str
    known: bool
    """Whether the model answers it without the direction."""
    right: bool
    kl: float
    """KL of the next token from that without the direction, nats."""
