"""Traits: prompts that show one and prompts that do not, what a text must do to count, and disjoint splits.

A trait's direction is found on `train`, its layer chosen on `choose`, its effect reported on `test`. On embedded models
the prompts are those of the synthetic world, on others the project's own; for refusal, published sets can take their
place (experiments/prompt_sets).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from experiments.harness.frame import spread
from experiments.shared.prompts.read import Origin, by_split, refuse_shared
from experiments.shared.traits import own_sets, world_sets
from experiments.shared.traits.asks import Splits, refusing
from mlx_interp.behaviour.detectors import phrases
from mlx_interp.behaviour.phrases import REFUSALS
from mlx_interp.errors import DataError, nearest
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model

TRAITS = ("refusal", "sycophancy", "stance", "confidence")
SPLITS = ("train", "choose", "test")
EVERYWHERE = ("confidence",)
"""Traits whose direction is added at every position, generated ones too, not once at the last prompt token: replies of
both kinds open with the same words ("I am certain", "I am not sure"), and are decided only behind them."""


@dataclass(frozen=True)
class Sets:
    """Prompts that show a trait (positive) and prompts that do not, in three disjoint splits."""

    trait: str
    what: str
    """What a hit is, for captions: "reply refuses"."""
    positive: Splits
    negative: Splits
    origins: dict[tuple[str, str], Origin] = field(default_factory=dict)
    """Where the prompts of a kind and split are from."""

    def __post_init__(self) -> None:
        for split in SPLITS:
            if min(len(self.positive[split]), len(self.negative[split])) < 4:
                raise DataError(f"{self.trait}: split {split} needs four prompts of each kind or more")
        texts = {split: [ask.text for ask in [*self.positive[split], *self.negative[split]]] for split in SPLITS}
        refuse_shared(texts, self.trait)
        both = {" ".join(ask.text.casefold().split()) for split in SPLITS for ask in self.positive[split]}
        twice = [a.text for s in SPLITS for a in self.negative[s] if " ".join(a.text.casefold().split()) in both]
        if twice:
            raise DataError(f"{self.trait}: {len(twice)} prompts show it and do not, {twice[0]!r} for one")


def sets_of(
    model: Model,
    trait: str,
    n_train: int,
    n_test: int,
    language: str = "en",
    *,
    harmful: Sequence[str] = (),
    harmless: Sequence[str] = (),
    seed: int = 0,
) -> Sets:
    """The prompt sets of a trait, at most so many of each kind.

    harmful, harmless: for refusal, names of published sets, one for all splits or one for each.
    Raises DataError for a trait or a language that there is not, a language whose refusals cannot be told, and what
    prompt_sets.read raises.
    """
    if trait not in TRAITS:
        raise DataError(f"no trait {trait!r}: {nearest(trait, TRAITS)}there are {', '.join(TRAITS)}")
    if trait == "refusal":
        phrases(REFUSALS, language, "refusal")
    names = {"positive": tuple(harmful), "negative": tuple(harmless)} if trait == "refusal" else {}
    parts: dict[str, Splits] = {}
    origins: dict[tuple[str, str], Origin] = {}
    what = "reply refuses"
    if not all(names.get(kind) for kind in ("positive", "negative")):
        own = (world_sets if model.name in EMBEDDED else own_sets).kinds_of(trait, language)
        what, parts = own.what, {"positive": own.positive, "negative": own.negative}
        origins = {(kind, split): own.origin for kind in parts for split in SPLITS}
    for kind, chosen in names.items():
        if chosen:
            found = by_split(chosen, "harmful" if kind == "positive" else "harmless", seed=seed, language=language)
            parts[kind] = {split: refusing(one.texts, language) for split, one in found.items()}
            origins |= {(kind, split): one.origin for split, one in found.items()}
    cut = {kind: _cut(splits, n_train, n_test) for kind, splits in parts.items()}
    return Sets(trait, what, cut["positive"], cut["negative"], origins)


def _cut(splits: Splits, n_train: int, n_test: int) -> Splits:
    return {name: spread(asks, n_train if name == "train" else n_test) for name, asks in splits.items()}
