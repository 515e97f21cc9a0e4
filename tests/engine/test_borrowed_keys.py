"""Layers that attend to keys and values of an earlier one, heads of two sizes, and layers' own embeddings of tokens."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Add, Patch, Scale
from mlx_interp.engine.edge_pass import wiring
from mlx_interp.engine.sweep_batch import Sweep
from mlx_interp.errors import ShapeError, SiteError, UnsupportedModel
from mlx_interp.model import Model
from tests.engine.examples import TOKENS, worst
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model() -> Model:
    """Layers 3 and 4 borrow from 1, 5 from 2; 2 and 5 have larger heads and no window."""
    return tiny_model("gemma4_text")


def moved(model: Model, edit: Patch | Scale, name: str) -> float:
    clean, changed = model.run(TOKENS, capture=name), model.run(TOKENS, capture=name, interventions=edit)
    return float(mx.abs(changed[name] - clean[name]).max())


def test_a_lenders_keys_are_those_of_its_borrowers(model: Model) -> None:
    out = model.run(TOKENS, capture=["k.1", "k.2", "q", "scores"])
    for layer, source in ((3, 1), (4, 1), (5, 2)):
        k = np.repeat(np.asarray(out[f"k.{source}"])[0], 2, axis=1)
        scores = np.einsum("qhd,khd->hqk", np.asarray(out[f"q.{layer}"])[0], k)
        seen = np.asarray(out[f"scores.{layer}"])[0]
        assert np.allclose(seen[seen != 0], scores[seen != 0], rtol=1e-4, atol=1e-4)


def test_an_edit_of_a_lenders_values_reaches_its_borrowers_directly(model: Model) -> None:
    stream = model.run(TOKENS, capture="resid_pre.3")["resid_pre.3"]
    restored = Patch("resid_pre.3", stream)  # what goes by the stream is put back
    changed = model.run(TOKENS, interventions=[Scale("v.1", 0.0), restored], capture=["z.3", "z.4", "q.3"])
    clean = model.run(TOKENS, capture=["q.3"])
    assert mx.array_equal(changed["q.3"], clean["q.3"])
    assert float(mx.abs(changed["z.3"]).max()) == 0.0
    assert float(mx.abs(changed["z.4"]).max()) == 0.0


def test_a_sweep_in_which_borrowers_see_the_clean_runs_keys_alone_is_wrong(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = [[Scale("k.1", 3.0, 2)], [Add("resid_pre.4", mx.ones((model.d_model,)), 2.0, 3)], [Scale("v.2", 0.0, 4)]]
    expected = mx.concatenate([model.run(TOKENS, interventions=one).logits for one in variants])
    assert worst(model.sweep(TOKENS, variants), expected) < 1e-4
    borrowed = Sweep._borrowed

    def of_the_clean_run(self, source, q):  # type: ignore[no-untyped-def]
        self.lent[source] = tuple([x[:0] for x in part] for part in self.lent[source])
        return borrowed(self, source, q)

    monkeypatch.setattr(Sweep, "_borrowed", of_the_clean_run)
    assert worst(model.sweep(TOKENS, variants), expected) > 1e-3


def test_a_layers_own_embedding_follows_the_token_and_not_the_stream(model: Model) -> None:
    assert moved(model, Scale("resid_pre.0", 3.0), "ple.2") == 0.0
    assert moved(model, Scale("ple.2", 0.0), "ple_out.2") > 1e-3
    assert moved(model, Scale("ple.2", 0.0), "ple_out.1") == 0.0
    out = model.run(TOKENS, capture=["ple_in", "ple_out", "resid_post"])
    for layer in range(model.n_layers):
        scale = model.network.layers[layer].layer_scalar
        given = (out[f"ple_in.{layer}"] + out[f"ple_out.{layer}"]) * scale
        assert worst(given, out[f"resid_post.{layer}"]) < 1e-5


def test_what_a_layer_lacks_or_has_otherwise_is_said(model: Model) -> None:
    with pytest.raises(
        SiteError, match=r"no 'k' in layer 4.*keys and values of layer 1; layers with it: write 'k\.0,1,2'"
    ):
        model.run(TOKENS, capture="k.4")
    with pytest.raises(SiteError, match=r"no 'v' in layer 3"):
        model.run(TOKENS, interventions=Scale("v.2-3", 0.0))
    with pytest.raises(ShapeError, match=r"Add\(site='z'.*give \(12,\)"):
        model.run(TOKENS, interventions=Add("z", mx.ones((8,)), 1.0, -1))
    both = model.run(TOKENS, interventions=Scale("z", 0.5)).logits
    one_by_one = model.run(TOKENS, interventions=[Scale(f"z.{layer}", 0.5) for layer in range(6)]).logits
    assert mx.array_equal(both, one_by_one)
    with pytest.raises(SiteError, match=r"gemma4 has no site 'ple': its layers have no embeddings of their own"):
        tiny_model("gemma4").run(TOKENS, capture="ple.0")
    with pytest.raises(UnsupportedModel, match="edges lead between heads and MLPs"):
        wiring(model.network)
