"""A state space (Mamba 2) in a sweep and by hand: what its state is, and how far a change in it carries."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Patch, Scale
from mlx_interp.errors import SiteError
from mlx_interp.model import Model
from tests.engine.examples import TOKENS, worst
from tests.tiny import tiny_model

LAYERS = (0, 2, 3)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("granitemoehybrid")


def test_the_state_forgets_by_the_time_step_and_adds_the_value_under_its_key(model: Model) -> None:
    names = ["lin_q.0", "lin_k.0", "lin_v.0", "time_step.0", "state.0", "mixed.0"]
    q, k, v, step, states, mixed = (np.asarray(model.run(TOKENS, capture=names)[name])[0] for name in names)
    mixer, d = model.network.layers[0].mamba, model.network.state_sizes
    pace, share = np.exp(np.asarray(mixer.A_log)), np.asarray(mixer.D)
    state = np.zeros((d.n_heads, d.d_value, d.d_key))
    for at in range(len(TOKENS)):
        written = (step[at, :, None] * v[at])[..., None] * k[at, 0]
        state = state * np.exp(-step[at] * pace)[:, None, None] + written
        assert np.allclose(states[at], state.reshape(d.n_heads, -1), atol=1e-4)
        assert np.allclose(mixed[at], state @ q[at, 0] + share[:, None] * v[at], atol=1e-4)


def test_a_text_longer_than_a_chunk_is_read_as_mlx_lm_reads_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.run(TOKENS, capture=["mixed.0", "state.0"], logits="all")
    monkeypatch.setattr("mlx_interp.engine.spaces.CHUNK", 3)
    assert worst(model.run(TOKENS, logits="all").logits, whole.logits) < 1e-4


def test_a_change_is_in_all_later_positions_of_the_same_layer(model: Model) -> None:
    clean = model.run(TOKENS, capture="mixed.0")
    for site in ("lin_v.0", "time_step.0", "state.0"):
        changed = model.run(TOKENS, interventions=Scale(site, 0.5, 2), capture="mixed.0")
        moved = np.abs(np.asarray(changed["mixed.0"] - clean["mixed.0"]))[0].max(axis=(1, 2)) > 1e-3
        assert moved.tolist() == [False, False, True, True, True, True, True], site
    d = model.network.state_sizes
    nothing = Patch("state.0", mx.zeros((d.n_heads, d.d_state)), 3)
    out = model.run(TOKENS, interventions=nothing, capture=["mixed.0", "lin_v.0"])
    share = model.network.layers[0].mamba.D[:, None]
    assert mx.allclose(out["mixed.0"][0, 3], out["lin_v.0"][0, 3] * share, atol=1e-5)


def test_what_it_lacks_is_an_error_that_says_what_it_has(model: Model) -> None:
    with pytest.raises(
        SiteError, match=r"no 'pattern' in layer 0.*its mixer is a state space \(Mamba 2\).*'pattern\.1'"
    ):
        model.run(TOKENS, capture="pattern.0")
    with pytest.raises(SiteError, match="no site 'decay': its mixers have other parts"):
        model.run(TOKENS, capture="decay.0")
