"""Training finds known dictionaries, keeps its promises about shapes, and survives being killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import collect, load
from mlx_interp.errors import MlxInterpError, SAEError
from mlx_interp.sae import KINDS, SAE, InMemory, Kind, Streamed, TrainConfig, activations, reconstruction, train
from mlx_interp.sae.losses import Objective, geometric_median, without_parallel
from mlx_interp.sae.sae import kind_of
from mlx_interp.sae.training import Trainer

D, TRUE, ACTIVE = 24, 36, 3


def known_dictionary(n: int = 6000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(tokens (n, D) that are sums of three of 36 directions around a mean, those directions)."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((TRUE, D))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    which = np.argsort(rng.random((n, TRUE)), axis=-1)[:, :ACTIVE]
    code = np.zeros((n, TRUE))
    np.put_along_axis(code, which, rng.uniform(1, 2, (n, ACTIVE)), axis=-1)
    x = 10 * (code @ directions + 0.5 * rng.standard_normal(D))
    return x.astype(np.float32), directions


X, DIRECTIONS = known_dictionary()
SMALL = TrainConfig(
    d_sae=64,
    k=ACTIVE,
    steps=500,
    batch_size=256,
    learning_rate=3e-3,
    warm_up=30,
    sparsity_warm_up=100,
    dead_after=15_000,
    aux_k=16,
    bandwidth=0.1,
    threshold=0.05,
)
SPARSITY: dict[Kind, float] = {"relu": 0.12, "gated": 0.4, "jumprelu": 0.02}


@pytest.fixture(scope="module")
def trained() -> dict[Kind, SAE]:
    return {kind: train(X, "resid_post.1", replace(SMALL, kind=kind, sparsity=SPARSITY.get(kind, 0))) for kind in KINDS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_finds_most_of_a_known_dictionary(trained: dict[Kind, SAE], kind: Kind) -> None:
    found = reconstruction(trained[kind], X)
    cosines = np.abs(DIRECTIONS @ np.asarray(trained[kind].directions).T).max(-1)
    assert found.fve > 0.8, found
    assert found.l0 < 9, found
    assert np.mean(cosines > 0.9) > 0.6, np.sort(cosines)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_decoder_rows_have_norm_one_and_the_scale_is_folded_back(trained: dict[Kind, SAE], kind: Kind) -> None:
    """Activations of length some 30 come out as long as they went in, though training saw them at length 1."""
    sae = trained[kind]
    assert np.abs(np.linalg.norm(np.asarray(sae.directions), axis=-1) - 1).max() < 1e-4
    found = reconstruction(sae, X)
    assert 0.9 < found.norm_ratio < 1.05
    assert sae.meta["mean_norm"] == pytest.approx(found.mean_norm, rel=0.02)


@pytest.mark.slow
def test_batchtopk_s_fixed_threshold_keeps_its_k_on_average(trained: dict[Kind, SAE]) -> None:
    assert abs(reconstruction(trained["batchtopk"], X).l0 - ACTIVE) < 0.6
    one = np.asarray(trained["batchtopk"].encode(X[:1]))
    assert np.abs(one - np.asarray(trained["batchtopk"].encode(X[:50]))[:1]).max() < 1e-4


def test_jumprelu_reaches_the_l0_it_is_told_to() -> None:
    config = replace(SMALL, kind="jumprelu", target_l0=5.0, sparsity=0.5, steps=600)
    assert 3.5 < reconstruction(train(X, "resid_post.1", config), X).l0 < 7


def test_dead_features_learn_from_the_auxiliary_loss_and_from_nothing_else() -> None:
    trainer = Trainer(replace(SMALL, k=2), InMemory(X), "resid_post.1")
    x = mx.array(X[:256]) * trainer.scale
    _, kept = trainer.objective(trainer.weights, x, mx.zeros(()), None)
    dead = ~np.asarray(kept["fired"]) | (np.arange(64) < 5)
    trainer.weights["b_enc"] = trainer.weights["b_enc"] - mx.array(dead) * 1e-3

    def slope(told: mx.array | None) -> np.ndarray:
        silenced = {**trainer.weights, "W_enc": trainer.weights["W_enc"] * mx.array(np.where(dead, 1e-2, 1.0))}
        gradients = mx.grad(lambda w: trainer.objective(w, x, mx.zeros(()), told)[0])(silenced)
        return np.abs(np.asarray(gradients["W_enc"])).max(0)

    assert not slope(None)[dead].any()
    assert (slope(mx.array(dead))[dead] > 0).mean() > 0.8


def test_resampled_features_point_at_what_is_reconstructed_badly_and_fire_again() -> None:
    trainer = Trainer(replace(SMALL, kind="relu", dead="resample", sparsity=0.01), InMemory(X), "resid_post.1")
    trainer.weights["b_enc"][:10] = mx.full((10,), -50.0)
    trainer.silent[:10] = 10**9
    x = mx.array(X[:256]) * trainer.scale
    sae = trainer.finished()
    error = X[:256] - np.asarray(sae(X[:256]))
    error /= np.linalg.norm(error, axis=-1, keepdims=True)
    before = np.asarray(trainer.objective(trainer.weights, x, mx.zeros(()), None)[1]["fired"])
    trainer._resample(x)
    after = np.asarray(trainer.objective(trainer.weights, x, mx.zeros(()), None)[1]["fired"])
    assert not before[:10].any()
    assert after[:10].mean() > 0.7
    assert np.abs((np.asarray(trainer.weights["W_dec"])[:10] @ error.T).max(-1) - 1).max() < 1e-3
    assert not trainer.silent[:10].any()


def test_a_nested_dictionary_s_first_features_reconstruct_better_than_those_of_a_plain_one() -> None:
    errors = {}
    for nested in ((), (0.25,)):
        sae = train(X, "resid_post.1", replace(SMALL, steps=300, nested=nested))
        f = np.array(sae.encode(X))
        f[:, 16:] = 0
        errors[nested] = float(np.mean((X - np.asarray(sae.decode(f))) ** 2))
    assert errors[(0.25,)] < errors[()]


def test_the_decoder_s_gradient_loses_its_part_along_each_feature() -> None:
    rows = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    unit = mx.array(rows / np.linalg.norm(rows, axis=-1, keepdims=True))
    left = without_parallel(mx.array(rows[::-1].copy()), unit)
    assert np.abs(np.asarray(mx.sum(left * unit, axis=-1))).max() < 1e-6


def test_the_gradient_of_a_threshold_is_that_of_the_ramp() -> None:
    """Two activations within the bandwidth of a threshold: dL0 = -2 / (n * bandwidth), by hand."""
    objective = Objective("jumprelu", 1, None, 0.2, 1, 0.0, ())
    weights = {"W_enc": mx.eye(1), "W_dec": mx.eye(1), "b_enc": mx.zeros(1), "b_dec": mx.zeros(1)}
    x = mx.array([[0.95], [1.05], [3.0], [0.1]])

    def penalty(log_threshold: mx.array) -> mx.array:
        kind = kind_of("jumprelu")
        z = kind.pre_activations(weights, x @ weights["W_enc"])
        return kind.trained({**weights, "log_threshold": log_threshold}, z, objective)[1]

    slope = mx.grad(penalty)(mx.zeros(1))
    assert float(slope[0]) == pytest.approx(-2 / (4 * 0.2))


def test_the_geometric_median_ignores_an_outlier() -> None:
    x = np.concatenate([np.random.default_rng(0).standard_normal((200, 4)), np.full((3, 4), 1e4)]).astype(np.float32)
    assert np.abs(np.asarray(geometric_median(mx.array(x)))).max() < 0.3


@pytest.mark.slow
def test_streaming_from_the_model_gives_its_activations_and_never_bos() -> None:
    model = load("tiny-gemma2")
    prompts = [model.prompt(f"The capital of {name} is") for name in ("Jania", "Drexia", "Vala", "Tor")]
    held = activations(model, prompts, "resid_post.2")
    streamed = np.concatenate(list(Streamed(model, prompts, buffer=24, per_run=2).batches("resid_post.2", 8, seed=1)))
    assert len(held) == sum(len(p) - 1 for p in prompts)
    order = [np.argsort(rows[:, 0]) for rows in (held, streamed)]
    assert np.abs(held[order[0]] - streamed[order[1]]).max() < 1e-4
    first = np.asarray(model.run(prompts[0], capture=["resid_post.2"])["resid_post.2"])[0]
    assert np.abs(held[: len(prompts[0]) - 1] - first[1:]).max() < 1e-4
    sae = train(Streamed(model, prompts, buffer=24), "resid_post.2", TrainConfig(d_sae=32, k=4, steps=5, batch_size=8))
    assert sae.d_model == model.d_model


def test_a_store_gives_the_same_autoencoder_as_its_rows_in_memory(tmp_path: Path) -> None:
    model = load("tiny-gemma2")
    prompts = [model.prompt(f"The capital of {name} is") for name in ("Jania", "Drexia", "Vala", "Tor")]
    store = collect(model, prompts, sites=["resid_post.2"], path=tmp_path / "store", positions="no_bos")
    assert len(store) == sum(len(p) - 1 for p in prompts)
    config = TrainConfig(d_sae=32, k=4, steps=6, batch_size=8)
    sae = train(store, "resid_post.2", config)
    assert reconstruction(sae, store).fve == pytest.approx(reconstruction(sae, np.asarray(store.array(sae.site))).fve)
    assert same(sae, train(store, "resid_post.2", config))
    with pytest.raises(MlxInterpError, match=r"resid_post\.3"):
        train(store, "resid_post.3", config)


def same(one: SAE, other: SAE) -> bool:
    return all(np.array_equal(np.asarray(one.weights[name]), np.asarray(other.weights[name])) for name in one.weights)


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu", "gated"])
def test_a_run_taken_up_from_a_checkpoint_ends_with_the_same_weights(tmp_path: Path, kind: Kind) -> None:
    config = replace(SMALL, kind=kind, sparsity=0.02, steps=30, dead_after=1000, checkpoint_every=13)

    class Stopped(Exception):
        pass

    def stop(step: int, steps: int, figures: dict[str, float]) -> None:
        if step == 20:
            raise Stopped

    with pytest.raises(Stopped):
        train(X, "resid_post.1", config, checkpoint=tmp_path / "c.safetensors", progress=stop)
    resumed = train(X, "resid_post.1", config, checkpoint=tmp_path / "c.safetensors")
    assert same(resumed, train(X, "resid_post.1", config))
    assert [row["step"] for row in resumed.meta["log"]] == list(range(1, 31))


KILLED = """
import sys
from tests.sae.test_training import SMALL, X
from dataclasses import replace
from mlx_interp.sae import save, train
config = replace(SMALL, steps=150, dead_after=2000, checkpoint_every=20)
save(train(X, "resid_post.1", config, checkpoint=sys.argv[1]), sys.argv[2])
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_nothing_in_the_result(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "state.safetensors")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    running = subprocess.Popen([*command, str(tmp_path / "never")], env=environment)
    limit = time.monotonic() + 60
    while not (tmp_path / "state.safetensors").exists() and time.monotonic() < limit:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "never").exists()
    subprocess.run([*command, str(tmp_path / "resumed")], env=environment, check=True)
    untouched = [*command[:3], str(tmp_path / "other.safetensors"), str(tmp_path / "whole")]
    subprocess.run(untouched, env=environment, check=True)
    files = [(tmp_path / name / "sae_weights.safetensors").read_bytes() for name in ("resumed", "whole")]
    assert files[0] == files[1]


def test_a_checkpoint_of_other_settings_or_data_is_refused_by_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    config = replace(SMALL, steps=4, checkpoint_every=2)
    train(X, "resid_post.1", config, checkpoint=path)
    with pytest.raises(SAEError, match=r"another run \(config differ"):
        train(X, "resid_post.1", replace(config, k=5), checkpoint=path)
    with pytest.raises(SAEError, match=r"another run \(scale differ"):
        train(2 * X, "resid_post.1", config, checkpoint=path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SAEError, match="no checkpoint of a training run"):
        train(X, "resid_post.1", config, checkpoint=path)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.full((300, 5), np.nan), {}, "not all finite"),
        (np.zeros((300, 5)), {}, "all zero"),
        (np.ones(300), {}, r"\(n_tokens, d_model\)"),
        (np.ones((100, 5)), {}, "fewer activations than one batch of 256"),
        (X, {"k": 65}, "65 active features of 64"),
        (X, {"kind": "spline"}, "no kind of autoencoder"),
        (X, {"nested": (1.5,)}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(data: np.ndarray, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SAEError, match=message):
        train(data, "resid_post.1", replace(SMALL, steps=2, **options))


def test_batches_in_memory_cover_every_token_once_in_an_order_of_the_seed() -> None:
    rows = np.arange(20, dtype=np.float32)[:, None]
    passes = [np.concatenate(list(InMemory(rows).batches("", 6, seed=seed)))[:, 0] for seed in (0, 0, 1)]
    assert sorted(passes[0]) == list(range(20))
    assert (passes[0] == passes[1]).all()
    assert (passes[0] != passes[2]).any()
