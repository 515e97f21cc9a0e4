"""What several parts' tables and figures count in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.harness.experiment import Records
from experiments.harness.frame import Frame
from mlx_interp.reporting import Record
from mlx_interp.stats import Estimate

ALL = "all"
GROUPS = {"failure": "failures", "correct": "correct queries"}


def families(records: Sequence[Record]) -> list[str]:
    """The families there are, and "all" after them if they are several."""
    found = list(dict.fromkeys(r["family"] for r in records))
    return [*found, ALL] if len(found) > 1 else found


def mean_over(values: Sequence[float | bool], records: Sequence[Record], seed: int) -> Estimate | None:
    """Mean over queries; resampled by bridge, since many queries share one. None if there are none."""
    return Frame(records).mean((float(value) for value in values), unit="bridge", seed=seed)


def share_by_layer(hits: Mapping[str, Sequence[bool]], records: Sequence[Record], seed: int) -> list[Estimate | None]:
    """At each layer the share of queries (keys of `hits`, in the records' order) that hit there."""
    rows = np.array([hits[r["item"]] for r in records], dtype=float)
    return [mean_over(list(rows[:, layer]), records, seed) for layer in range(rows.shape[1])] if len(rows) else []


def first(hits: Sequence[bool]) -> int | None:
    """The first layer that hits."""
    return next((layer for layer, hit in enumerate(hits) if hit), None)


def n_layers(records: Records) -> int:
    return int(next(r["n_layers"] for r in records if "n_layers" in r))
