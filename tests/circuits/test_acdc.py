"""ACDC many removals at a time is ACDC one at a time."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Model
from mlx_interp.circuits import wiring
from mlx_interp.circuits.acdc import acdc, divergence
from mlx_interp.circuits.discovery import existing
from mlx_interp.circuits.exact import edge_metric
from mlx_interp.errors import CircuitError
from mlx_interp.patching.nodes import reader
from tests.circuits.test_attribution import pairs_of
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("llama", num_hidden_layers=2)


def one_at_a_time(model: Model, threshold: float) -> tuple[np.ndarray, float]:
    wires, pairs = wiring(model.network), pairs_of(model)[:2]
    metric, owner = divergence(model, pairs), np.array(reader(wires))
    kept, now = existing(wires).copy(), 0.0
    for number in range(wires.n_inputs - 1, -1, -1):
        if owner[number] < wires.n_nodes and not kept[:, owner[number]].any():
            kept[number] = False
        for node in np.flatnonzero(kept[number])[::-1]:
            less = kept.copy()
            less[number, node] = False
            found = float(edge_metric(model, pairs, mx.array(less[None].astype(np.float32)), metric=metric).mean())
            if found - now < threshold:
                kept, now = less, found
    return kept, now


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.2])
def test_many_removals_at_a_time_are_one_at_a_time(model: Model, share: float) -> None:
    pairs = pairs_of(model)[:2]
    every = existing(wiring(model.network))
    nothing = edge_metric(
        model, pairs, mx.array((every & False)[None].astype(np.float32)), metric=divergence(model, pairs)
    )
    threshold = share * float(nothing.mean())
    expected, value = one_at_a_time(model, threshold)
    found = acdc(model, pairs, threshold)
    assert 0 < found.edges.sum() < every.sum()
    assert (found.edges == expected).all()
    assert found.divergence == pytest.approx(value, abs=1e-5)


def test_the_models_own_divergence_is_zero(model: Model) -> None:
    pairs = pairs_of(model)
    every = existing(wiring(model.network)).astype(np.float32)
    found = edge_metric(model, pairs, mx.array(np.stack([every, every * 0])), metric=divergence(model, pairs))
    assert np.abs(found[:, 0]).max() < 1e-5
    assert found[:, 1].min() > 1e-3


def test_a_threshold_that_keeps_everything_or_no_pairs_are_refused(model: Model) -> None:
    with pytest.raises(CircuitError, match="threshold above 0"):
        acdc(model, pairs_of(model), 0.0)
    with pytest.raises(CircuitError, match="0 pairs"):
        acdc(model, [], 0.1)
