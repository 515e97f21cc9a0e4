"""Crosscoders where the truth is constructed: what one model has alone is found; shrunken and split latents are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.errors import SAEError
from mlx_interp.sae import Crosscoder, TrainConfig, latent_scaling, own_latents, train_crosscoder
from mlx_interp.sae.streams import Floats
from tests.tiny import tiny_model

WIDTH, SHARED, OWN = 24, 14, 4
"""Of either model; concepts of both; concepts of the second alone."""
RNG = np.random.default_rng(0)


def unit(n: int) -> Floats:
    rows = RNG.normal(size=(n, WIDTH))
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


IN_FIRST, IN_SECOND = unit(SHARED), unit(SHARED + OWN)


def rows(n: int, seed: int, *, same: bool = False) -> tuple[Floats, Floats]:
    """Activations of both models: about two concepts a token, in other directions of the second, or the same."""
    rng = np.random.default_rng(seed)
    strength = rng.uniform(1, 2, size=(n, SHARED + OWN)) * (rng.random((n, SHARED + OWN)) < 0.1)
    noise = 0.01 * rng.normal(size=(2, n, WIDTH))
    first = strength[:, :SHARED] @ (IN_SECOND[:SHARED] if same else IN_FIRST) + noise[0]
    return first.astype(np.float32), (3 * (strength @ IN_SECOND) + noise[1]).astype(np.float32)


CONFIG = TrainConfig(
    kind="batchtopk",
    k=2,
    d_sae=48,
    steps=1500,
    batch_size=256,
    learning_rate=3e-3,
    warm_up=50,
    dead="none",
    centre="mean",
)


@pytest.fixture(scope="module")
def trained() -> Crosscoder:
    return train_crosscoder(*rows(8192, 1), "resid_post.1", CONFIG, names=("base", "tuned"))


def cosines(crosscoder: Crosscoder, model: int, truth: Floats) -> np.ndarray:
    """(d_sae, n concepts): of every latent's vector in a model with what the concepts are there."""
    vectors = np.stack([np.asarray(crosscoder.direction(j, model)) for j in range(crosscoder.d_sae)])
    return np.asarray(vectors @ truth.T / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def test_what_the_second_model_alone_has_is_found_and_nothing_else(trained: Crosscoder) -> None:
    scaling = latent_scaling(trained, *rows(4096, 2))
    confirmed = own_latents(trained, scaling).confirmed
    found = cosines(trained, 1, IN_SECOND)[confirmed]
    assert set(found.argmax(axis=-1)) == set(range(SHARED, SHARED + OWN))
    assert found.max(axis=-1).min() > 0.9
    other = own_latents(trained, latent_scaling(trained, *rows(4096, 2), model=0))
    assert len(other.confirmed) == 0  # the first model has nothing alone


def test_a_shared_concept_has_a_vector_in_either_model(trained: Crosscoder) -> None:
    both = cosines(trained, 0, IN_FIRST).max(axis=0), cosines(trained, 1, IN_SECOND[:SHARED]).max(axis=0)
    assert min(both[0].min(), both[1].min()) > 0.9
    first, second = trained.decode(trained.encode(*rows(2048, 3)))
    for made, actual in zip((first, second), rows(2048, 3), strict=True):
        explained = 1 - np.var(np.asarray(made) - actual) / np.var(actual)
        assert explained > 0.9


def test_dedicated_latents_touch_one_model_and_hold_what_it_has_alone() -> None:
    made = train_crosscoder(*rows(8192, 1, same=True), "resid_post.1", CONFIG, dedicated=0.125)
    for weights in (np.asarray(made.sae.weights["W_dec"]), np.asarray(made.sae.weights["W_enc"]).T):
        assert not weights[:6, WIDTH:].any()
        assert not weights[-6:, :WIDTH].any()
        assert weights[6:-6].all(axis=-1).mean() > 0.9
    confirmed = own_latents(made, latent_scaling(made, *rows(4096, 2, same=True))).confirmed
    found = cosines(made, 1, IN_SECOND)[confirmed]
    assert set(found.argmax(axis=-1)) == set(range(SHARED, SHARED + OWN))
    with pytest.raises(SAEError, match="latents are left for both"):
        train_crosscoder(*rows(64, 1), "resid_post.1", CONFIG, dedicated=0.5)


def test_a_checkpoint_of_another_mask_is_refused(tmp_path: Path) -> None:
    small = replace(CONFIG, steps=4, batch_size=32)
    train_crosscoder(*rows(256, 1), "resid_post.1", small, checkpoint=tmp_path / "state")
    with pytest.raises(SAEError, match="a checkpoint of another run"):
        train_crosscoder(*rows(256, 1), "resid_post.1", small, dedicated=0.1, checkpoint=tmp_path / "state")


def by_hand(*latents: tuple[Floats | None, Floats | None]) -> Crosscoder:
    """A crosscoder of latents by their vectors (the first model's, the second's); None: shrunk to nothing."""
    zero = np.zeros(WIDTH, np.float32)
    decoder = np.stack([np.concatenate([zero if v is None else v for v in pair]) for pair in latents])
    weights = {
        "W_dec": mx.array(decoder),
        "W_enc": mx.array(np.linalg.pinv(decoder).astype(np.float32)),
        "b_enc": mx.zeros((len(latents),)),
        "b_dec": mx.zeros((2 * WIDTH,)),
    }
    return Crosscoder(mi.sae.SAE("relu", "resid_post.1", weights), ("base", "tuned"), (WIDTH, WIDTH), (1.0, 1.0))


def shared_and_own(seed: int) -> tuple[Floats, Floats, Floats]:
    """Two vectors, and activations: the first vector is in both models, the second in the second model alone."""
    rng = np.random.default_rng(seed)
    vectors = unit(2)
    strength = rng.uniform(1, 2, size=(512, 2)) * (rng.random((512, 2)) < 0.5)
    first, second = strength[:, :1] @ vectors[:1], strength @ vectors
    return vectors, first.astype(np.float32), second.astype(np.float32)


@pytest.mark.parametrize(
    ("artefact", "share"),
    [("shrunk", "error"), ("split", "rest")],
)
def test_a_shared_concept_that_looks_like_one_models_own_is_not_taken_for_it(artefact: str, share: str) -> None:
    (common, own), first, second = shared_and_own(5)
    latents: list[tuple[Floats | None, Floats | None]] = [(None, common), (None, own)]
    if artefact == "split":
        latents.append((common, None))
    crosscoder = by_hand(*latents)
    scaling = latent_scaling(crosscoder, first, second)
    found = own_latents(crosscoder, scaling)
    assert found.by_norm.tolist() == [0, 1]
    assert found.confirmed.tolist() == [1]
    assert getattr(scaling, share)[0] == pytest.approx(1, abs=0.15)


def test_the_ratios_are_those_of_least_squares_one_latent_at_a_time(trained: Crosscoder) -> None:
    first, second = rows(300, 7)
    scaling = latent_scaling(trained, first, second)
    f = np.asarray(trained.encode(first, second), np.float64)
    decoder = np.asarray(trained.sae.directions, np.float64)
    halves = decoder[:, :WIDTH], decoder[:, WIDTH:]
    bias = np.asarray(trained.sae.weights["b_dec"], np.float64)
    scaled = first * trained.scales[0] - bias[:WIDTH], second * trained.scales[1] - bias[WIDTH:]
    latent = int(scaling.n_active.argmax())
    own = f[:, latent, None] * halves[1][latent]
    share = {}
    for model in (0, 1):
        part = f[:, latent, None] * halves[model][latent]
        rest = f @ halves[model] - part
        for name, y in (("error", scaled[model] - rest), ("rest", rest)):
            share[name, model] = np.linalg.lstsq(own.reshape(-1, 1), y.reshape(-1), rcond=None)[0][0]
    assert scaling.error[latent] == pytest.approx(share["error", 0] / share["error", 1], rel=1e-4)
    everything = share["rest", 1] + share["error", 1]
    assert scaling.rest[latent] == pytest.approx(share["rest", 0] / everything, rel=1e-4)


def test_a_crosscoder_comes_back_from_its_folder(trained: Crosscoder, tmp_path: Path) -> None:
    mi.sae.save_crosscoder(trained, tmp_path / "both")
    back = mi.sae.load_crosscoder(tmp_path / "both")
    assert (back.names, back.widths, back.scales) == (trained.names, trained.widths, trained.scales)
    some = rows(16, 8)
    assert mx.allclose(back.encode(*some), trained.encode(*some), atol=1e-6)
    (tmp_path / "both" / "crosscoder.json").write_text(json.dumps({"names": ["a", "b"]}))
    with pytest.raises(SAEError, match="cannot be read"):
        mi.sae.load_crosscoder(tmp_path / "both")
    with pytest.raises(SAEError, match="no crosscoder: an autoencoder is read with load"):
        mi.sae.load_crosscoder(tmp_path)


def test_two_models_read_the_same_tokens_row_for_row() -> None:
    models = tiny_model("llama"), tiny_model("llama")
    texts = [[5, 9, 3], [8, 2, 33, 4], [7, 7]]
    first, second = mi.sae.paired_activations(models, texts, "resid_post.1")
    assert first.shape == second.shape == (9, models[0].d_model)
    assert np.array_equal(first, second)
    out = models[1].run(texts[1], capture="resid_post.1")["resid_post.1"]
    assert np.allclose(second[3:7], np.asarray(out[0]), atol=1e-5)


def test_what_is_no_pair_is_refused_with_both_sides(trained: Crosscoder) -> None:
    first, second = rows(64, 9)
    with pytest.raises(SAEError, match=r"\(64, 24\), \(63, 24\)"):
        train_crosscoder(first, second[:-1], "resid_post.1")
    with pytest.raises(SAEError, match="one model's activations are all zero"):
        train_crosscoder(first, np.zeros_like(second), "resid_post.1")
    with pytest.raises(SAEError, match=r"activations are \(64, 20\) and \(64, 24\)"):
        trained.encode(first[:, :20], second)
    with pytest.raises(SAEError, match="is no dictionary of widths 24 and 20"):
        replace(trained, widths=(24, 20))
