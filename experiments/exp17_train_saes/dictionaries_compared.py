"""Dictionaries beside each other: variance explained by position in the text, features that another seed finds too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from experiments.exp17_train_saes import texts
from experiments.exp17_train_saes.runs import Item, SAEConfig, dictionary, items, measured
from experiments.harness.experiment import Records
from experiments.harness.state import Run
from mlx_interp.massive_activations import first_position
from mlx_interp.reporting import finite
from mlx_interp.sae import stability


class AtPositions(TypedDict):
    """Variance explained at some positions of the texts."""

    label: str
    low: int
    high: int
    n: int
    """Tokens."""
    fve: float | None
    norm: float
    """Root mean square of the activations' lengths."""


def measure_positions(run: Run[SAEConfig], item: Item) -> Iterator[AtPositions]:
    """Share of variance explained by position of the token in its text, BOS left out."""
    config = run.config
    sae = dictionary(run, item)
    held = texts.measured_texts(run, config.seed, config.n_texts)
    x = texts.measured_rows(run, item.site, config.seed, config.n_texts)
    first = [first_position(run.model, t.prompt) for t in held]
    places = np.concatenate([np.arange(len(t.prompt) - left_out) for t, left_out in zip(held, first, strict=True)])
    error = np.sum((x - np.asarray(sae(x))) ** 2, axis=-1)
    spread = np.sum((x - x.mean(0)) ** 2, axis=-1)
    for low, high in ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 10**6)):
        here: npt.NDArray[np.bool_] = (places >= low) & (places <= high)
        if here.any():
            yield {
                "label": item.label,
                "low": low,
                "high": min(high, int(places.max())),
                "n": int(here.sum()),
                "fve": finite(1 - float(error[here].sum() / spread[here].sum())),
                "norm": float(np.sqrt(np.mean(np.sum(x[here] ** 2, axis=-1)))),
            }


def seed_items(run: Run[SAEConfig], earlier: Records) -> list[Item]:
    """The pairs that are compared, named by the second of each."""
    found = {one.role: one for one in items(run, earlier) if one.role in ("seed", "data")}
    controls = [one for one in items(run, earlier) if one.kind in ("untrained", "shuffled", "PCA")]
    return [found["seed"], found["data"], *controls]


class Found(TypedDict):
    """How many of the first dictionary's living features another has too."""

    label: str
    n: int
    """Living features of the first."""
    others: int
    """Of the other."""
    share: float | None
    """Of the first's that have a partner."""
    cosine: float | None
    """Mean over them of the largest cosine."""


def measure_seeds(run: Run[SAEConfig], item: Item) -> Iterator[Found]:
    """How many of the first one's living features the other has too."""
    first = next(
        one
        for one in items(run, ())
        if one.role == "kind" and one.kind == "topk" and one.setting == item.setting and one.site == item.site
    )
    pair = [dictionary(run, one) for one in (first, item)]
    alive = [measured(run, one).frequency > 0 for one in (first, item)]
    share, cosine = stability(pair[0], pair[1], alive)
    yield {
        "label": item.label,
        "n": int(alive[0].sum()),
        "others": int(alive[1].sum()),
        "share": finite(share),
        "cosine": finite(cosine),
    }
