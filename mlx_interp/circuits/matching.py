"""Matched pairs of prompts of two classes, and whether words alone tell the two classes apart.

1. Of each category and length in tokens, prompts of the one class are matched one to one with those of the other, so
   that the words they share are as many as can be (assignment by the Hungarian method).
2. A bag of words (and of pairs of words) is fitted to some pairs and tells the class of the texts of the others. Where
   it does, a difference between the classes' circuits may be one of wording.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import scipy

from mlx_interp.behaviour.text_classifier import WORD, fit_text_classifier
from mlx_interp.errors import DataError
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.store.rows import PromptRow

FOLDS = 5
Match = tuple[PromptRow, PromptRow, Prompt, Prompt]


def matched(
    model: Model, first: Sequence[PromptRow], second: Sequence[PromptRow], *, by_category: bool = True
) -> list[Match]:
    """Prompts of two classes, one to one, of equal category and equal length in tokens, with as many words shared as
    can be. Raises DataError where no two fit."""
    sides: list[dict[tuple[str, int], list[tuple[PromptRow, Prompt]]]] = []
    for rows in (first, second):
        places = defaultdict(list)
        for row in rows:
            prompt = model.prompt(row.text, chat=row.chat)
            places[row.category if by_category else "", len(prompt)].append((row, prompt))
        sides.append(dict(places))
    found: list[Match] = []
    for key in sorted(sides[0].keys() & sides[1].keys()):
        a, b = sides[0][key], sides[1][key]
        shared = np.array([[_shared(x.text, y.text) for y, _ in b] for x, _ in a])
        for i, j in zip(*scipy.optimize.linear_sum_assignment(-shared), strict=True):
            found.append((a[i][0], b[j][0], a[i][1], b[j][1]))
    if not found:
        categories = [sorted({row.category for row in rows}) for rows in (first, second)]
        raise DataError(
            f"no prompt of the one class has the category and the length in tokens of one of the other: {len(first)} "
            f"in {', '.join(categories[0])}; {len(second)} in {', '.join(categories[1])}"
        )
    return found


def _shared(a: str, b: str) -> float:
    """Jaccard of two texts' words."""
    x, y = (set(WORD.findall(text.lower())) for text in (a, b))
    return len(x & y) / max(1, len(x | y))


def told_by_words(pairs: Sequence[tuple[str, str]], seed: int, folds: int = FOLDS) -> list[float]:
    """For every pair of texts, the share of its two that a bag of words tells right: .5 is chance.

    Fitted to the pairs of the other folds, without any text that occurs in the fold at hand. Raises DataError for
    fewer pairs than folds.
    """
    if len(pairs) < folds:
        raise DataError(f"{len(pairs)} pairs cannot be told in {folds} folds: give more")
    order = np.random.default_rng(seed).permutation(len(pairs))
    found = np.full(len(pairs), 0.5)
    for fold in range(folds):
        held = order[fold::folds]
        known = {text for i in held for text in pairs[i]}
        fitted = [(text, side) for i in order for side, text in enumerate(pairs[i]) if text not in known]
        if len({side for _, side in fitted}) < 2:
            continue  # every other pair has one of these texts: nothing to learn from, which is chance
        words = fit_text_classifier([text for text, _ in fitted], [str(side) for _, side in fitted])
        for i in held:
            told = words.probabilities(pairs[i]).argmax(axis=1)
            found[i] = float(np.mean([words.classes[place] == str(side) for side, place in enumerate(told)]))
    return found.tolist()
