"""Controls: what stands beside a figure to show that it is no accident of the method."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np

from mlx_interp.stats import stable_draw

T = TypeVar("T")


def shuffled_labels(
    positive: Sequence[T], negative: Sequence[T], *, seed: int, key: Hashable = ""
) -> tuple[list[T], list[T]]:
    """Shuffled labels: two classes, each with a random half of either kind.

    Drawn by seed and key alone, and never by place: lists that people write have an order (every second request begins
    with "Explain"), so that halves taken in turn are a contrast of their own. A kind of odd length gives its odd one to
    the first class if it is the positive kind, else to the second, so that classes of equal kinds are equally large.
    """
    rng = np.random.default_rng(stable_draw(seed, ("shuffled labels", key), 2**31))
    first: list[T] = []
    second: list[T] = []
    for kind, extra in ((positive, 1), (negative, 0)):
        order = rng.permutation(len(kind)).tolist()
        half = (len(kind) + extra) // 2
        first += [kind[at] for at in order[:half]]
        second += [kind[at] for at in order[half:]]
    return first, second
