"""A prompt and what counts as a hit in the reply to it; and how lists of them are cut into splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from experiments.shared.prompts.read import Origin
from mlx_interp.behaviour.detectors import refusal
from mlx_interp.stats import split_halves


@dataclass(frozen=True)
class Ask:
    """A prompt, what counts as a hit in the reply to it, and what it is resampled with."""

    text: str
    hit: Callable[[str], bool]
    unit: str
    openings: tuple[str, str] | None = None
    """Words that open a reply with the trait, and words that open one without: what the trait is graded by."""


Splits: TypeAlias = dict[str, list[Ask]]


@dataclass(frozen=True)
class Kinds:
    """All prompts of a trait, uncut, and where they are from."""

    what: str
    """What a hit is, for captions: "reply refuses"."""
    positive: Splits
    negative: Splits
    origin: Origin


def refusing(texts: Sequence[str], language: str) -> list[Ask]:
    """Requests whose hit is a refusal in their language, or in English, which models fall back to."""
    languages = list(dict.fromkeys([language, "en"]))
    return [Ask(text, lambda reply: refusal(reply, languages) is not None, text) for text in texts]


def halves(asks: list[Ask]) -> Splits:
    """What is left beside `train`, in two."""
    by_text = {ask.text: ask for ask in asks}
    choose, test = split_halves(list(by_text), 0)
    return {"choose": [by_text[text] for text in choose], "test": [by_text[text] for text in test]}
