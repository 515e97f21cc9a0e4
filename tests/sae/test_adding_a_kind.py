"""Another kind of autoencoder is one class: it trains, resumes, is saved, read and put into a model like the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, get_args

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.errors import SAEError
from mlx_interp.model import Model
from mlx_interp.sae import KINDS, SAE, Kind, TrainConfig, load, save, train
from mlx_interp.sae.kinds import BY_NAME, ReLU, Settings, Weights, architectures

SMALL = {"d_sae": 24, "steps": 60, "batch_size": 32, "warm_up": 5, "sparsity_warm_up": 5}
X = np.random.default_rng(3).standard_normal((600, 9)).astype(np.float32)


class Leaky(ReLU):
    """Features below 0 count too, by a learned slope: a kind with a parameter that no other has."""

    own: ClassVar[Mapping[str, str]] = {"b_enc": "m", "slope": "m"}
    scale_free = frozenset({"slope"})
    architecture = "prelu"

    def features(self, weights: Mapping[str, mx.array], z: mx.array, k: int | None) -> mx.array:
        return mx.maximum(z, 0) + mx.exp(weights["slope"]) * 0.1 * mx.minimum(z, 0)

    def trained(self, weights: Weights, z: mx.array, settings: Settings) -> tuple[mx.array, mx.array]:
        f = self.features(weights, z, None)
        return f, mx.mean(mx.sum(mx.abs(f), axis=-1))


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BY_NAME, "prelu", Leaky())


def test_it_trains_and_learns_its_own_parameter() -> None:
    sae = train(X, "resid_post.1", TrainConfig(kind="prelu", sparsity=0.05, **SMALL))
    assert sae.kind == "prelu"
    assert set(sae.weights) == {"W_enc", "W_dec", "b_dec", "b_enc", "slope"}
    assert float(mx.abs(sae.weights["slope"]).max()) > 1e-4
    by_hand = (X - np.asarray(sae.weights["b_dec"])) @ np.asarray(sae.weights["W_enc"]) + np.asarray(
        sae.weights["b_enc"]
    )
    slope = 0.1 * np.exp(np.asarray(sae.weights["slope"]))
    expected = np.where(by_hand > 0, by_hand, slope * by_hand)
    np.testing.assert_allclose(np.asarray(sae.encode(X)), expected, rtol=1e-4, atol=1e-5)


def test_scaled_inputs_train_the_same_directions_and_leave_the_slope_alone() -> None:
    one, other = (
        train(X, "resid_post.1", TrainConfig(kind="prelu", sparsity=0.05, **SMALL)),
        train(8 * X, "resid_post.1", TrainConfig(kind="prelu", sparsity=0.05, **SMALL)),
    )
    assert mx.allclose(one.weights["W_dec"], other.weights["W_dec"], rtol=1e-3, atol=1e-3)
    assert mx.allclose(one.weights["slope"], other.weights["slope"], rtol=1e-3, atol=1e-4)
    assert mx.allclose(8 * one.weights["b_enc"], other.weights["b_enc"], rtol=1e-2, atol=1e-3)


def test_it_is_written_and_read_back_the_same(tmp_path: Path) -> None:
    sae = train(X, "resid_post.1", TrainConfig(kind="prelu", sparsity=0.05, **SMALL))
    back = load(save(sae, tmp_path / "prelu"))
    assert back.kind == "prelu"
    assert mx.array_equal(back.encode(X), sae.encode(X))
    assert architectures()["prelu"] == "prelu"


def test_its_features_are_edited_in_a_model(llama: Model) -> None:
    rng = np.random.default_rng(0)
    sizes = {"d": llama.d_model, "m": 50}
    shapes = {name: [sizes[axis] for axis in axes] for name, axes in BY_NAME["prelu"].shapes.items()}
    weights = {name: mx.array(rng.standard_normal(shape).astype(np.float32) / 7) for name, shape in shapes.items()}
    sae = SAE("prelu", "resid_post.1", weights)
    logits = llama.run([3, 5, 8], interventions=[sae.ablate([4])]).logits
    swept = llama.sweep([3, 5, 8], [[sae.ablate([4])], []])
    assert logits is not None
    assert mx.allclose(swept[0], logits[0], rtol=1e-4, atol=1e-4)
    assert not mx.allclose(swept[0], swept[1], rtol=1e-4, atol=1e-4)


def test_the_shipped_kinds_are_named_once_and_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    assert KINDS == get_args(Kind) == tuple(name for name in BY_NAME if name != "prelu")
    with pytest.raises(SAEError, match="no kind of autoencoder 'topkk': did you mean 'topk'"):
        TrainConfig(kind="topkk")


def test_no_file_of_the_library_asks_which_kind_an_autoencoder_is() -> None:
    """What is of one kind stands in `kinds`: a test of a kind's name elsewhere would be a second place."""
    library = Path(__file__).resolve().parents[2] / "mlx_interp"
    for folder in ("sae", "circuits", "engine"):
        for path in (library / folder).glob("*.py"):
            text = path.read_text(encoding="utf-8")
            for name in KINDS:
                assert f'kind == "{name}"' not in text, f"{path.name} asks for {name}: let the kind say it"
