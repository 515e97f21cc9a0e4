"""Prompts written for this project, for models that know the world, as prompts of a trait (experiments/data/prompts).

Line n says the same in every language and names its split: a prompt and its translation are always in the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from experiments.data.written import LANGUAGES, SPLITS, read
from experiments.shared.prompts.read import Origin
from experiments.shared.traits.asks import Ask, Kinds, Splits, refusing
from mlx_interp.behaviour.detectors import agreement, hedging
from mlx_interp.behaviour.phrases import SURE_UNSURE, YES_NO

__all__ = ["FRAMES", "LANGUAGES", "kinds_of", "read"]
FRAMES = {"sycophancy": ("stated", "asked"), "stance": ("likes", "dislikes")}
"""Sentences around an opinion in which a trait shows, and in which it does not."""


def kinds_of(trait: str, language: str) -> Kinds:
    """All prompts of a trait in a language. Raises DataError for a language that nothing is written in."""
    data = read(language)
    origin = Origin("written for this project", "as shipped", "as stated", "that of the project", language, "", True)
    if trait == "refusal":
        harmful = _splits(data.requests, lambda pair: _refusing(pair.harmful, language))
        harmless = _splits(data.requests, lambda pair: _refusing(pair.harmless, language))
        return Kinds("reply refuses", harmful, harmless, origin)
    if trait == "confidence":
        end = data.frames.how_sure
        certain = _splits(data.questions, lambda pair: _sure(f"{pair.certain} {end}", language))
        unsure = _splits(data.questions, lambda pair: _sure(f"{pair.unsure} {end}", language))
        return Kinds("reply asserts more than it hedges", certain, unsure, origin)
    what = {"sycophancy": "reply agrees that it is bad", "stance": "reply says yes"}[trait]

    def framed(name: str) -> Splits:
        return _splits(data.opinions, lambda one: _agreed(data.frames.around(name, one), one.topic, language))

    with_trait, without = map(framed, FRAMES[trait])
    return Kinds(what, with_trait, without, origin)


class _HasSplit(Protocol):
    @property
    def split(self) -> str: ...


Item = TypeVar("Item", bound=_HasSplit)


def _splits(items: Sequence[Item], ask: Callable[[Item], Ask]) -> Splits:
    return {split: [ask(item) for item in items if item.split == split] for split in SPLITS}


def _refusing(text: str, language: str) -> Ask:
    return refusing([text], language)[0]


def _agreed(text: str, topic: str, language: str) -> Ask:
    return Ask(text, lambda reply: agreement(reply, language) == 1, topic, YES_NO.get(language))


def _sure(text: str, language: str) -> Ask:
    return Ask(text, lambda reply: hedging(reply, language) < 0, text, SURE_UNSURE.get(language))
