"""Figures of fidelity, against sums written out, and the gate that they feed."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Model, load
from mlx_interp.embedded import load_world
from mlx_interp.errors import SAEError
from mlx_interp.prompts import Prompt
from mlx_interp.sae import SAE, Gate, InMemory, activations, baselines, fidelity, loss, reconstruction
from mlx_interp.sae.files import with_meta
from tests.sae.examples import random_sae

X = np.random.default_rng(3).standard_normal((101, 30)).astype(np.float32) + 2


def test_figures_are_those_of_the_whole_sample_and_do_not_depend_on_the_batch() -> None:
    sae = random_sae("topk", 30, "resid_post.1")
    out, f = np.asarray(sae(X), dtype=np.float64), np.asarray(sae.encode(X))
    found = reconstruction(sae, X, size=7)
    assert found.fve == pytest.approx(1 - (X - out).var(0).sum() / X.astype(np.float64).var(0).sum(), abs=1e-6)
    assert found.l0 == pytest.approx((f > 0).sum(1).mean())
    cosine = (X * out).sum(1) / np.linalg.norm(X, axis=1) / np.linalg.norm(out, axis=1)
    assert found.cosine == pytest.approx(cosine.mean(), abs=1e-5)
    assert found.norm_ratio == pytest.approx((np.linalg.norm(out, axis=1) / np.linalg.norm(X, axis=1)).mean(), abs=1e-5)
    assert found.relative_bias == pytest.approx((out**2).sum() / (X * out).sum(), abs=1e-5)
    assert found.dead == np.mean((f > 0).sum(0) == 0)
    assert found.dense == np.mean((f > 0).mean(0) > 0.1)
    whole = reconstruction(sae, X, size=1000)
    assert whole.fve == pytest.approx(found.fve, abs=1e-7)  # float32 products of batches of 7 and of 1000
    with pytest.raises(SAEError, match="two tokens or more"):
        reconstruction(sae, InMemory(X[:1]))


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny-llama")


@pytest.fixture(scope="module")
def texts(model: Model) -> tuple[list[Prompt], list[int]]:
    """Facts with their answers, and where the answers begin."""
    facts = load_world().facts[:24]
    whole = [model.prompt(f"{fact.prompt} {fact.answer}.") for fact in facts]
    return whole, [len(model.prompt(fact.prompt)) - 1 for fact in facts]


def perfect(model: Model, site: str = "resid_post.3") -> SAE:
    """Both signs of every dimension as a feature: reconstructs anything."""
    d = model.d_model
    both = mx.concatenate([mx.eye(d), -mx.eye(d)])
    weights = {"W_enc": both.T, "W_dec": both, "b_enc": mx.zeros(2 * d), "b_dec": mx.zeros(d)}
    return SAE("relu", site, weights)


def test_a_perfect_autoencoder_costs_nothing(model: Model, texts: tuple[list[Prompt], list[int]]) -> None:
    found = fidelity(model, perfect(model), texts[0], starts=texts[1])
    assert found.reconstruction.fve > 0.99999
    assert abs(found.loss.delta) < 1e-4
    assert found.loss.recovered() == pytest.approx(1, abs=1e-4)
    assert found.loss.total("kl") < 1e-4
    assert found.loss.total("zero") > found.loss.total("clean") + 0.5
    Gate().check(perfect(model), found)


def test_one_that_writes_the_mean_recovers_what_mean_ablation_does(
    model: Model, texts: tuple[list[Prompt], list[int]]
) -> None:
    prompts, starts = texts
    x = activations(model, prompts, "resid_post.3")
    silent = {**perfect(model).weights, "b_enc": mx.full((2 * model.d_model,), -1e6), "b_dec": mx.array(x.mean(0))}
    found = fidelity(model, SAE("relu", "resid_post.3", silent), prompts, starts=starts)
    assert found.loss.recovered("mean") == pytest.approx(0, abs=1e-3)
    assert found.loss.total("spliced") == pytest.approx(found.loss.total("mean"), abs=1e-4)
    assert found.reconstruction.fve == pytest.approx(0, abs=1e-5)


def test_losses_are_those_of_each_prompt_alone_from_its_start_on(
    model: Model, texts: tuple[list[Prompt], list[int]]
) -> None:
    prompts, starts = texts
    sae = random_sae("relu", model.d_model, "resid_post.3")
    found = loss(model, sae, prompts, np.zeros(model.d_model), starts=starts)
    for i in (0, 7, 23):
        edit = sae.splice(positions=slice(1, None))
        logits = np.asarray(model.run(prompts[i], interventions=[edit], logits="all").logits, dtype=np.float64)[0]
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        rows = range(starts[i], len(prompts[i]) - 1)
        by_hand = -np.mean([logs[row, prompts[i].tokens[row + 1]] for row in rows])
        assert found.spliced[i] == pytest.approx(by_hand, abs=1e-4)
        assert found.n_tokens[i] == len(rows)
    assert found.zero == pytest.approx(found.mean, abs=1e-6)
    known = baselines(model, "resid_post.3", prompts, np.zeros(model.d_model), starts=starts)
    again = loss(model, sae, prompts, np.zeros(model.d_model), starts=starts, known=known)
    for arm in ("n_tokens", "clean", "spliced", "zero", "mean", "kl"):
        assert getattr(again, arm) == pytest.approx(getattr(found, arm), abs=1e-5)
    with pytest.raises(
        SAEError, match=r"baselines of resid_post\.3 on 24 texts, an autoencoder of resid_post\.4 on 24"
    ):
        loss(model, replace(sae, site="resid_post.4"), prompts, np.zeros(model.d_model), starts=starts, known=known)
    with pytest.raises(SAEError, match="of other texts"):
        loss(model, sae, prompts[::-1], np.zeros(model.d_model), starts=starts[::-1], known=known)
    assert found.delta == pytest.approx(found.total("spliced") - found.total("clean"))


def test_at_heads_and_without_bos_too(texts: tuple[list[Prompt], list[int]]) -> None:
    model = load("tiny-qwen2")
    prompts = [model.prompt(prompt.text) for prompt in texts[0]]
    found = fidelity(model, replace(perfect(model), site="z.2"), prompts)
    assert abs(found.loss.delta) < 1e-4
    assert found.reconstruction.n_tokens == sum(map(len, prompts))


@pytest.mark.parametrize(
    ("site", "scale", "meta", "message"),
    [
        ("resid_post.7", 1.0, {"mean_norm": "own"}, "long, it was trained on"),
        ("resid_post.3", 3.0, {}, "FVE -"),
        ("resid_post.3", 1.0, {"l0": 500.0}, "released with 500"),
    ],
)
def test_the_gate_refuses_another_site_scale_or_l0_with_the_figures(
    model: Model, texts: tuple[list[Prompt], list[int]], site: str, scale: float, meta: dict[str, object], message: str
) -> None:
    sae = perfect(model)
    if meta.get("mean_norm"):
        x = activations(model, texts[0], "resid_post.3")
        meta = {"mean_norm": float(np.sqrt((x**2).sum(-1).mean()))}
    sae = SAE("relu", site, {**sae.weights, "W_dec": sae.weights["W_dec"] * scale}, meta=meta)
    with pytest.raises(SAEError, match=message) as refused:
        Gate(l0_factor=2.0).check(sae, fidelity(model, sae, texts[0], starts=texts[1]))
    assert "Measured on tiny-llama (4-bit" in str(refused.value)
    assert "delta CE" in str(refused.value)


def test_an_autoencoder_of_another_model_or_layer_is_named_before_anything_runs(model: Model) -> None:
    with pytest.raises(SAEError, match=r"width 30; resid_post\.1 of tiny-llama is 128 wide"):
        fidelity(model, random_sae("relu", 30, "resid_post.1"), [model.prompt("Dallas")])
    with pytest.raises(SAEError, match="a site that tiny-llama does not have"):
        fidelity(model, random_sae("relu", 128, "resid_post.40"), [model.prompt("Dallas")])
    with pytest.raises(SAEError, match="none to score"):
        loss(model, perfect(model), model.prompts([[2, 700]]), np.zeros(128))


def test_what_a_release_says_is_kept_beside_the_weights(model: Model) -> None:
    assert with_meta(perfect(model), l0=71.0).meta["l0"] == 71.0
