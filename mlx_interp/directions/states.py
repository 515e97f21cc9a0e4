"""States of one residual site, a row a prompt, and the rounding floor below which two classes do not differ at all.

Noise floor: what rounding alone may give. With causal attention, states before the texts diverge are equal; two classes
whose means are no further apart carry no contrast at that site and position, whichever method reads it, and are
refused. Whether a longer difference is more than chance is another question, answered by a p value and never by a
refusal (directions.direction_test).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_interp import sites
from mlx_interp.deferred import mx
from mlx_interp.directions.direction_test import difference_test
from mlx_interp.errors import DataError, DirectionError
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt, Prompt

ROUNDING = 4
"""Units in the last place that another order of summation may bring; averaging over prompts only lowers it."""


def states_of(
    model: Model,
    prompts: Sequence[AnyPrompt],
    site: str,
    *,
    position: int = -1,
    responses_from: Sequence[int] | None = None,
) -> np.ndarray:
    """(n_prompts, d_model) in float64: one site at one position, or its mean from a position to the end.

    responses_from: for each prompt where its response begins, counted from the prompt's start; `position` is not used.
    Raises DataError for a position that a prompt does not have.
    """
    where = str(sites.parse_one(site, model.n_layers))
    chosen = model.prompts(prompts)
    spans = _spans(chosen, position, responses_from)
    rows: list[np.ndarray] = []
    for out in model.batches(chosen, capture=where):
        held = np.asarray(out[where].astype(mx.float32)).astype(np.float64)
        for row in held:
            start, stop = spans[len(rows)]
            rows.append(row[start:stop].mean(axis=0))
    return np.stack(rows)


def refuse_equal(length: float, floor: float, where: str) -> None:
    """Raises DirectionError for a difference that is no longer than what rounding brings, or is not finite."""
    if not np.isfinite(length):
        raise DirectionError(f"{where}: the difference is not finite: activations overflowed; load with a wider dtype")
    if not length > floor:
        raise DirectionError(
            f"{where}: the classes differ by {length:.3g}, rounding alone by up to {floor:.3g}: this position "
            "does not carry the contrast; read it after the texts diverge"
        )


def compared(model: Model, above: np.ndarray, below: np.ndarray, where: str, *, seed: int) -> tuple[float, float]:
    """Floor of two classes of states (n, d_model), and the p value of their difference; `where` is for the message.

    Raises DirectionError if the classes' means differ by no more than rounding.
    """
    floor = rounding(model) * float(np.linalg.norm(np.concatenate([above, below]), axis=1).mean())
    refuse_equal(float(np.linalg.norm(above.mean(axis=0) - below.mean(axis=0))), floor, where)
    test = difference_test(above[:, None], below[:, None], np.array([floor]), seed=seed)
    return floor, float(test.p_values[0])


def rounding(model: Model) -> float:
    """Share of an activation's norm by which equal texts may differ when they are computed in other batches."""
    return ROUNDING * float(mx.finfo(model.network.dtype).eps)


def _spans(prompts: Sequence[Prompt], position: int, begins: Sequence[int] | None) -> list[tuple[int, int]]:
    """First and last-but-one position that is read of each prompt."""
    if begins is not None and len(begins) != len(prompts):
        raise DataError(f"{len(begins)} beginnings of responses for {len(prompts)} prompts: give one for each")
    spans = []
    for number, prompt in enumerate(prompts):
        start = position if begins is None else begins[number]
        if not -len(prompt) <= start < len(prompt):
            raise DataError(f"position {start} does not exist in {prompt.text!r}, of {len(prompt)} tokens")
        start %= len(prompt)
        spans.append((start, start + 1 if begins is None else len(prompt)))
    return spans
