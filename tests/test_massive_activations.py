"""Massive activations at the first position: found where they are, and left out of what is fitted to many positions."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.lenses.tuned import positions_of
from mlx_interp.massive_activations import MASSIVE, _known, first_position, massive_at_first
from mlx_interp.sae import TrainConfig, activations, train
from tests.tiny import tiny_model


class Planted:
    """A model of four layers whose states have norm 1, but for the first position's at one layer."""

    d_vocab = 50

    def __init__(self, factor: float, bos: int | None = None) -> None:
        self.factor, self.tokenizer, self.asked = factor, SimpleNamespace(bos_token_id=bos), 0

    def run(self, tokens: list[list[int]], **_: object) -> Any:
        self.asked += 1
        assert all(row.count(self.tokenizer.bos_token_id) == 0 for row in tokens)
        states = np.ones((4, len(tokens), len(tokens[0]), 8)) / np.sqrt(8)
        states[2, :, 0] *= self.factor
        states[3, 1, 5] *= 1000  # one text, another position: no first token
        return SimpleNamespace(stack=lambda site: mx.array(states))


@pytest.mark.parametrize(
    ("factor", "massive"), [(1.0, False), (MASSIVE - 1, False), (MASSIVE + 1, True), (500.0, True)]
)
def test_a_first_position_is_massive_at_ten_times_the_usual_norm_of_any_layer(factor: float, massive: bool) -> None:
    model: Any = Planted(factor)
    assert massive_at_first(model) is massive_at_first(model) is massive
    assert model.asked == 1
    prompt: Any = SimpleNamespace(tokens=[7, 8, 9])
    assert first_position(model, prompt) == massive
    assert first_position(model, SimpleNamespace(tokens=[7])) == 0  # type: ignore[arg-type]


def test_bos_is_left_out_without_a_probe() -> None:
    model: Any = Planted(1.0, bos=3)
    assert first_position(model, SimpleNamespace(tokens=[3, 8])) == 1  # type: ignore[arg-type]
    assert model.asked == 0
    assert first_position(model, SimpleNamespace(tokens=[8, 3])) == 0  # type: ignore[arg-type]


def test_embedded_models_without_bos_have_no_massive_first_token() -> None:
    for name in ("tiny-qwen2", "tiny-gpt2"):
        model = mi.load(name)
        prompt = model.prompt("The capital of France is")
        assert not massive_at_first(model)
        assert len(activations(model, [prompt], "resid_post.3")) == len(prompt)


def test_what_is_fitted_leaves_a_massive_first_position_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    prompts = model.prompts([[5, 9, 2, 31], [7, 8, 3]])
    whole = [np.asarray(model.run(p, capture="resid_post.1")["resid_post.1"])[0] for p in prompts]
    assert len(activations(model, prompts, "resid_post.1")) == 7
    monkeypatch.setitem(_known, model, True)
    found = activations(model, prompts, "resid_post.1")
    assert np.allclose(found, np.concatenate([rows[1:] for rows in whole]), atol=1e-5)
    states = positions_of(model, prompts, massive=False)
    assert states.shape == (model.n_layers, 5, model.d_model)
    assert np.allclose(np.asarray(states[1]), found, atol=1e-5)
    assert positions_of(model, prompts).shape[1] == 7


def test_training_on_a_few_massive_rows_is_warned_of() -> None:
    rows = np.random.default_rng(0).normal(size=(512, 16)).astype(np.float32)
    config = TrainConfig(d_sae=32, k=4, steps=2, batch_size=64, warm_up=1, sparsity_warm_up=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(rows, "resid_post.1", config)
    rows[::20] *= 100
    with pytest.warns(RuntimeWarning, match=r"resid_post\.1: 5\.\d% of the activations have 10 times the usual norm"):
        train(rows, "resid_post.1", config)
