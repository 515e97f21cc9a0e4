"""Automatic interpretation of features: an explanation in words, and how well the words tell where it is active.

1. `explain` shows a model texts on which a feature is most active, active tokens between << and >>, and asks what they
   have in common.
2. Detection: a judge that has the words alone says which of other texts the feature is active on.
3. Fuzzing: the judge says which of these texts have the right tokens between << and >>, and which have others.

After Paulo et al. (2024), "Automatically interpreting millions of features" (arXiv 2410.13928; delphi). Scores are
areas under the ROC curve over the judge's log-odds of yes, so that no threshold is chosen. Control: the explanation
of another feature. Texts that are scored are none of those that were explained from.
Cost: of a feature one generation, and for each explanation four passes for each scored pair of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp.behaviour.judge import Judge
from mlx_interp.errors import DataError
from mlx_interp.model import Model
from mlx_interp.pages.feature_page import Example
from mlx_interp.stats import Estimate, auroc

ACTIVE = 0.5
"""A token is marked from this share of its text's largest activation on."""
EXPLAIN = (
    "Each line below is a text. In each, the words between << and >> are those that a part of a language model reacts "
    "to.\n\n{texts}\n\nWhat do the marked words have in common? Answer with a short phrase."
)
DETECT = (
    "A part of a language model reacts to: {request}\n\nText: {reply}\n\nDoes the text contain something of that kind? "
    "Answer with Yes or No only."
)
FUZZ = (
    "A part of a language model reacts to: {request}\n\nText: {reply}\n\nAre the words between << and >> of that kind? "
    "Answer with Yes or No only."
)
Judged = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""Explanations, texts -> log-odds of yes for each."""


@dataclass(frozen=True)
class FeatureTexts:
    """Texts of one feature: to explain it from, and others, active and inactive, to score explanations on."""

    shown: tuple[Example, ...]
    active: tuple[Example, ...]
    inactive: tuple[Example, ...]


@dataclass(frozen=True)
class Scored:
    """How well an explanation tells active texts from inactive ones, and right marks from wrong ones."""

    detection: Estimate | None
    """Area under the ROC curve, .5 by chance; None for fewer than two texts of either kind."""
    fuzzing: Estimate | None


def feature_texts(examples: Sequence[Example], *, n_shown: int = 8, n_scored: int = 12, seed: int = 0) -> FeatureTexts:
    """Texts of a feature, from its activations on many: every second of the most active is shown, others are scored.

    Of the active ones as many are scored as inactive ones, drawn from all activations, not the largest alone.
    Raises DataError for a feature that is active on fewer than four texts, or inactive on fewer than two.
    """
    rng = np.random.default_rng(seed)
    active = sorted((one for one in examples if max(one.values) > 0), key=lambda one: -max(one.values))
    inactive = [one for one in examples if max(one.values) <= 0]
    if len(active) < 4 or len(inactive) < 2:
        raise DataError(
            f"a feature that is active on {len(active)} of {len(examples)} texts: four to explain and score it, and "
            "two without it, are the least; give more texts"
        )
    shown = active[: 2 * min(n_shown, len(active) // 2) : 2]
    rest = [one for one in active if one not in shown]
    n = min(n_scored, len(rest), len(inactive))
    drawn = [rest[i] for i in sorted(rng.choice(len(rest), n, replace=False))]
    others = [inactive[i] for i in sorted(rng.choice(len(inactive), n, replace=False))]
    return FeatureTexts(tuple(shown), tuple(drawn), tuple(others))


def marked(example: Example, places: Sequence[int] | None = None) -> str:
    """A text with << and >> around tokens: those given, or those on which the feature is active."""
    chosen = set(active_tokens(example) if places is None else places)
    pieces: list[str] = []
    for place, token in enumerate(example.tokens):
        if place in chosen and place - 1 not in chosen:
            space = len(token) - len(token.lstrip())
            pieces.append(f"{token[:space]}<<{token[space:]}")
        else:
            pieces.append(token)
        if place in chosen and place + 1 not in chosen:
            pieces.append(">>")
    return "".join(pieces).strip()


def active_tokens(example: Example) -> list[int]:
    """Places of the tokens with at least ACTIVE of the text's largest activation."""
    largest = max(example.values)
    return [place for place, value in enumerate(example.values) if largest > 0 and value >= ACTIVE * largest]


def explain(model: Model, shown: Sequence[Example], *, max_tokens: int = 24) -> str:
    """The phrase in which a model says what marked tokens have in common: the first line of its greedy answer.

    Raises DataError without texts.
    """
    if not shown:
        raise DataError("an explanation needs texts on which the feature is active")
    asked = EXPLAIN.format(texts="\n".join(marked(one).replace("\n", " ") for one in shown))
    answer = model.generate(model.prompt(asked, chat=True), max_tokens=max_tokens)[0].text.strip()
    return answer.splitlines()[0].strip() if answer else ""


def score(
    explanation: str, texts: FeatureTexts, *, detects: Judged, fuzzes: Judged | None = None, seed: int = 0
) -> Scored:
    """Scores of an explanation on a feature's texts that it was not made from.

    detects, fuzzes: judges, as `judges` makes them of a model; functions of (explanations, texts) do as well.
    """
    rng = np.random.default_rng(seed)
    right = [marked(one) for one in texts.active]
    wrong = [marked(one, _others(one, rng)) for one in texts.active]
    plain = [["".join(one.tokens).strip() for one in side] for side in (texts.active, texts.inactive)]
    return Scored(
        _told(explanation, plain[0], plain[1], detects, seed), _told(explanation, right, wrong, fuzzes or detects, seed)
    )


def judges(model: Model) -> tuple[Judged, Judged]:
    """A model as the judge of detection and of fuzzing."""
    return Judge(model, DETECT).scores, Judge(model, FUZZ).scores


def _told(
    explanation: str, positives: Sequence[str], negatives: Sequence[str], judge: Judged, seed: int
) -> Estimate | None:
    texts = [*positives, *negatives]
    found = list(judge([explanation] * len(texts), texts)) if texts else []
    return auroc(found[: len(positives)], found[len(positives) :], seed=seed)


def _others(example: Example, rng: np.random.Generator) -> list[int]:
    """As many tokens as are active, drawn from the text's others; all of those where there are fewer."""
    active = active_tokens(example)
    rest = [place for place in range(len(example.tokens)) if place not in active and example.tokens[place].strip()]
    return sorted(rng.choice(rest, min(len(active), len(rest)), replace=False).tolist()) if rest else []
