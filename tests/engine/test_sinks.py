"""Sinks (gpt-oss): a score beside the keys that holds nothing, so that rows of a pattern sum to less than one."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Intervention, Knockout, Scale
from mlx_interp.model import Model
from tests.engine.examples import TOKENS
from tests.tiny import tiny_model

BOUND = 1e-5


@pytest.fixture
def model() -> Model:
    return tiny_model("gpt_oss")


def by_hand(model: Model, layer: int, forbidden: list[tuple[int, int]]) -> np.ndarray:
    """The pattern (head, query, key) from scores and sinks, in float64; some edges (query, key) are forbidden."""
    out = model.run(TOKENS, capture=["scores", "pattern"])
    scores, clean = (np.asarray(out[f"{name}.{layer}"])[0].astype(np.float64) for name in ("scores", "pattern"))
    sinks = np.asarray(model.network.sinks(layer), dtype=np.float64)[:, None, None]
    weights = np.where(clean > 0, np.exp(scores), 0.0)
    for query, key in forbidden:
        weights[:, query, key] = 0.0
    return weights / (weights.sum(-1, keepdims=True) + np.exp(sinks))


def test_rows_of_a_pattern_sum_to_what_the_sink_leaves(model: Model) -> None:
    out = model.run(TOKENS, capture="pattern")
    for layer in range(model.n_layers):
        pattern = np.asarray(out[f"pattern.{layer}"])[0]
        assert np.abs(pattern - by_hand(model, layer, [])).max() < BOUND
        assert pattern.sum(-1).max() < 1
        assert pattern.sum(-1).min() > 0


def test_what_a_knockout_takes_goes_to_the_sink_as_well(model: Model) -> None:
    """The rest of the row is not made to sum to one: the sink gets its share of what is free."""
    edges = [(5, 1), (5, 2), (6, 0)]
    edits: list[Intervention] = [Knockout(1, query=5, keys=[1, 2]), Knockout(1, query=6, keys=0)]
    out = model.run(TOKENS, interventions=edits, capture=["pattern.1", "v.1", "z.1"])
    expected = by_hand(model, 1, edges)
    pattern = np.asarray(out["pattern.1"])[0]
    assert np.abs(pattern - expected).max() < BOUND
    v = np.repeat(np.asarray(out["v.1"])[0], model.n_heads // model.n_kv_heads, axis=1)
    assert np.abs(np.einsum("hqk,khd->qhd", expected, v) - np.asarray(out["z.1"])[0]).max() < 1e-4
    swept = model.sweep(TOKENS, [edits, []], capture=["pattern.1"])
    assert np.abs(np.asarray(swept["pattern.1"][0]) - expected).max() < BOUND


def test_a_query_that_may_look_at_nothing_leaves_all_to_the_sink(model: Model) -> None:
    edits: list[Intervention] = [Knockout("all", query=3)]
    out = model.run(TOKENS, interventions=edits, capture=["pattern", "z"], logits="all")
    for layer in range(model.n_layers):
        assert not mx.any(out[f"pattern.{layer}"][0, :, 3])
        assert float(mx.abs(out[f"z.{layer}"][0, 3]).max()) < BOUND
    assert mx.allclose(model.sweep(TOKENS, [edits], logits="all")[0], out.logits[0], atol=1e-4)


def test_a_pattern_scaled_to_nothing_is_a_knockout_of_all(model: Model) -> None:
    nothing = model.run(TOKENS, interventions=[Scale("pattern.1", 0.0, positions=4)]).logits
    forbidden = model.run(TOKENS, interventions=[Knockout(1, query=4)]).logits
    assert mx.allclose(nothing, forbidden, atol=1e-4)
