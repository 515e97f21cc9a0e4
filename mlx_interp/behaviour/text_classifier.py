"""Text classifier: multinomial logistic regression on hashed words and pairs of words; which set a text reads like.

1. A text becomes the counts of its words, signs and pairs of neighbouring ones, hashed into a fixed number of places,
   as log(1 + count), of length 1. Chinese and Japanese characters are words of their own.
2. Weights minimise the mean loss in nats plus a squared penalty; each class counts the same, however many its texts.
3. How well it does is known from texts that it was not fitted to: `accuracy`, by class.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy

from mlx_interp.errors import DataError
from mlx_interp.shapes import ShapesShown

PLACES = 2048
PENALTY = 1e-4
"""Of the squared weights, beside the mean loss in nats; texts have length 1."""
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")


@dataclass(frozen=True, eq=False, repr=False)
class TextClassifier(ShapesShown):
    """A fitted classifier."""

    classes: tuple[str, ...]
    weights: np.ndarray
    """(PLACES, n_classes)."""
    bias: np.ndarray
    """(n_classes,)."""

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(n_texts, n_classes): how much each text reads like each class; the classes' bias for one without words."""
        return np.asarray(scipy.special.softmax(features(texts) @ self.weights + self.bias, axis=1))

    def accuracy(self, texts: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
        """Share of each class's texts that are told as its own; for texts that the classifier was not fitted to."""
        told = [self.classes[index] for index in self.probabilities(texts).argmax(axis=1)]
        return {
            name: float(np.mean([t == name for t, label in zip(told, labels, strict=True) if label == name]))
            for name in dict.fromkeys(labels)
        }


def fit_text_classifier(texts: Sequence[str], labels: Sequence[str]) -> TextClassifier:
    """A classifier of the labels. Raises DataError for fewer than two classes, or texts and labels that do not pair."""
    if len(texts) != len(labels) or len(set(labels)) < 2:
        raise DataError(f"a classifier of texts needs two classes or more, found {sorted(set(labels))}")
    classes = tuple(dict.fromkeys(labels))
    x, y = features(texts), np.array([classes.index(label) for label in labels])
    weight = 1.0 / np.bincount(y)[y] / len(classes)
    right = np.eye(len(classes))[y]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        values = flat.reshape(PLACES + 1, len(classes))
        scores = x @ values[:-1] + values[-1]
        log_probs = scipy.special.log_softmax(scores, axis=1)
        slope = (np.exp(log_probs) - right) * weight[:, None]
        down = np.concatenate([x.T @ slope + 2 * PENALTY * values[:-1], slope.sum(axis=0, keepdims=True)])
        fit = -float((log_probs[np.arange(len(y)), y] * weight).sum())
        return fit + PENALTY * float((values[:-1] ** 2).sum()), down.ravel()

    found = scipy.optimize.minimize(
        loss, np.zeros((PLACES + 1) * len(classes)), jac=True, method="L-BFGS-B", options={"maxiter": 300}
    )
    values = found.x.reshape(PLACES + 1, len(classes))
    return TextClassifier(classes, values[:-1], values[-1])


def features(texts: Sequence[str]) -> scipy.sparse.csr_array:
    """(n_texts, PLACES), sparse, rows of length 1, or 0 for a text without words."""
    values: list[float] = []
    columns: list[int] = []
    ends = [0]
    for text in texts:
        words = WORD.findall(text.lower())
        grams = Counter([*words, *(f"{a} {b}" for a, b in pairwise(words))])
        # crc32, not hash(): the same places in every process.
        places: Counter[int] = Counter()
        for gram, count in grams.items():
            places[zlib.crc32(gram.encode()) % PLACES] += count
        length = np.linalg.norm([np.log1p(count) for count in places.values()]) if places else 1.0
        columns += places.keys()
        values += [float(np.log1p(count) / length) for count in places.values()]
        ends.append(len(columns))
    return scipy.sparse.csr_array((values, columns, ends), shape=(len(texts), PLACES))
