"""A tuned lens starts as the logit lens, comes nearer to the model by training, and stays with its model."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError
from mlx_interp.lenses import tuned
from mlx_interp.lenses.logit import lens_at
from mlx_interp.lenses.tuned import (
    TunedLens,
    exchanged,
    identity_lens,
    kl_to_last,
    lens_slopes,
    load_lens,
    positions_of,
    train_tuned_lens,
)
from mlx_interp.model import Model


@cache
def model(name: str = "tiny-llama") -> Model:
    return mi.load(name)


@cache
def trained(name: str = "tiny-llama") -> TunedLens:
    texts = [query.two_hop for query in load_world().two_hop_queries("state_capital")]
    return train_tuned_lens(model(name), texts[:100], steps=60)


def held_out(name: str = "tiny-llama") -> mx.array:
    return positions_of(model(name), [q.two_hop for q in load_world().two_hop_queries("state_capital")][100:112])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2"])
def test_without_training_it_is_the_logit_lens_and_the_last_layer_is_the_model(name: str) -> None:
    of = model(name)
    states = held_out(name)[:, :5]
    found = identity_lens(of).logits(of, states)
    np.testing.assert_allclose(np.asarray(found), np.asarray(of.unembed(states)), rtol=1e-4, atol=1e-3)
    text = "The capital of France is"
    logits = of.run(text).logits
    assert logits is not None
    through = lens_at(of, text, [-1], lens=trained(name))[0]
    np.testing.assert_allclose(np.asarray(through[-1]), np.asarray(logits[0]), rtol=1e-2, atol=1e-2)
    assert not np.allclose(np.asarray(through[2]), np.asarray(lens_at(of, text, [-1])[0][2]), atol=0.1)


@pytest.mark.slow
def test_training_brings_every_layer_nearer_to_the_model_on_prompts_it_has_not_seen() -> None:
    of, states = model(), held_out()
    kl = {
        name: np.asarray(kl_to_last(lens.logits(of, states)).mean(axis=1))
        for name, lens in (("logit", identity_lens(of)), ("tuned", trained()), ("exchanged", exchanged(trained())))
    }
    assert (kl["tuned"] < kl["logit"]).all()
    assert (kl["tuned"] < kl["exchanged"]).all()


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2"])
@pytest.mark.parametrize("held", [1, tuned.LOGITS])
def test_the_slopes_are_those_of_the_divergence(name: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against automatic differentiation of the divergence itself, layers one at a time and together."""
    monkeypatch.setattr(tuned, "LOGITS", held)
    states = held_out(name)
    n, d = states.shape[0] - 1, model(name).d_model
    key = mx.random.key(0)
    at = {"weight": 0.02 * mx.random.normal((n, d, d), key=key), "bias": 0.1 * mx.random.normal((n, d), key=key)}

    def divergence(at: dict[str, mx.array]) -> mx.array:
        logits = model(name).unembed(states[:-1] + states[:-1] @ at["weight"] + at["bias"][:, None])
        every = mx.concatenate([logits, model(name).unembed(states[-1])[None]])
        return kl_to_last(every).mean(axis=1).sum()

    wanted = mx.grad(divergence)(at)
    found = lens_slopes(model(name), at, states[:-1], states[-1])
    for part in at:
        scale = mx.abs(wanted[part]).max().item()
        assert mx.abs(found[part] - wanted[part]).max().item() < 1e-5 * scale


def test_the_divergence_is_that_of_the_two_distributions() -> None:
    logits = mx.array([[[0.0, 1.0, 2.0]], [[1.0, 0.0, -1.0]]])
    p, q = (np.exp(x) / np.exp(x).sum() for x in (np.array([1.0, 0.0, -1.0]), np.array([0.0, 1.0, 2.0])))
    assert float(kl_to_last(logits)[0, 0]) == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-5)
    assert float(kl_to_last(mx.stack([logits[1], logits[1]]))[0, 0]) == pytest.approx(0, abs=1e-6)


def test_positions_are_those_of_the_prompts_without_padding() -> None:
    of = model()
    texts = ["The capital of France is", "hot ->"]
    together = positions_of(of, texts)
    alone = [positions_of(of, [text]) for text in texts]
    assert together.shape[1] == sum(part.shape[1] for part in alone)
    np.testing.assert_allclose(np.asarray(together), np.asarray(mx.concatenate(alone, axis=1)), atol=2e-2)


@pytest.mark.slow
def test_a_saved_lens_is_the_same_and_refuses_another_model(tmp_path: Path) -> None:
    path = tmp_path / "lens.safetensors"
    trained().save(path)
    found = load_lens(path)
    states = held_out()[:, :3]
    assert mx.array_equal(found.logits(model(), states), trained().logits(model(), states))
    with pytest.raises(DataError, match="trained on tiny-llama"):
        found.logits(model("tiny-gemma2"), held_out("tiny-gemma2"))
    path.write_bytes(b"no lens")
    with pytest.raises(DataError, match="is no tuned lens"):
        load_lens(path)


def test_streams_of_other_layers_and_training_on_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="give resid_post of all layers"):
        trained().translated(held_out()[:3])
    with pytest.raises(DataError, match="needs prompts and two layers"):
        train_tuned_lens(model(), [])
