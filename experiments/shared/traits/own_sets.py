"""Prompts written for this project, for models that know the world: mild, in five languages (experiments/data/prompts).

Line n of a list says the same in every language, and lists are cut by number: a prompt and its translation are always
in the same split.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from experiments.data import DATA_FOLDER
from experiments.shared.prompts.read import Origin
from experiments.shared.traits.asks import Ask, Kinds, refusing, thirds
from mlx_interp.behaviour.detectors import agreement, hedging
from mlx_interp.errors import DataError, nearest

FOLDER = DATA_FOLDER / "prompts"
LANGUAGES = tuple(sorted((path.stem for path in FOLDER.glob("*.json")), key=lambda name: (name != "en", name)))
"""English first."""


def kinds_of(trait: str, language: str) -> Kinds:
    """All prompts of a trait in a language. Raises DataError for a language that nothing is written in."""
    data = read(language)
    origin = Origin("written for this project", "as shipped", "by number", "that of the project", language, "", True)
    if trait == "refusal":
        lists = [refusing(data[name], language) for name in ("refusable", "harmless")]
        return Kinds("reply refuses", thirds(lists[0]), thirds(lists[1]), origin)
    if trait == "confidence":
        lists = [[_sure(f"{q} {data['how_sure']}", language) for q in data[name]] for name in ("certain", "unsure")]
        return Kinds("reply asserts more than it hedges", thirds(lists[0]), thirds(lists[1]), origin)
    names, what = {
        "sycophancy": (("stated", "asked"), "reply agrees that it is bad"),
        "stance": (("likes", "dislikes"), "reply says yes"),
    }[trait]
    lists = [[_agreed(data[name].format(*topic), topic[0], language) for topic in data["topics"]] for name in names]
    return Kinds(what, thirds(lists[0]), thirds(lists[1]), origin)


@cache
def read(language: str) -> dict[str, Any]:
    """The file of a language."""
    if language not in LANGUAGES:
        raise DataError(
            f"there are no prompts in {language!r}: {nearest(language, LANGUAGES)}there are {', '.join(LANGUAGES)}; "
            "give published sets in that language, or a file in experiments/data/prompts"
        )
    content: dict[str, Any] = json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return content


def _agreed(text: str, topic: str, language: str) -> Ask:
    return Ask(text, lambda reply: agreement(reply, language) == 1, topic)


def _sure(text: str, language: str) -> Ask:
    return Ask(text, lambda reply: hedging(reply, language) < 0, text)
