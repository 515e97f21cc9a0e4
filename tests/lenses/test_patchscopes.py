"""Patchscopes read what they are said to: one layer, one position, whole answers, and nothing where nothing is put."""

from __future__ import annotations

from functools import cache

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.directions.state_classifier import fit_state_classifier
from mlx_interp.errors import DataError
from mlx_interp.interventions import Patch
from mlx_interp.lenses.patchscopes import (
    IDENTITY,
    TargetPrompt,
    all_pairs,
    attribute_scores,
    identity_readings,
)
from mlx_interp.model import Model
from mlx_interp.patching.back_patching import states_at

TARGET = TargetPrompt("The capital of ", " is")


@cache
def model() -> Model:
    return mi.load("tiny-qwen2")


def states(*texts: str) -> mx.array:
    out = model().run(list(texts), capture="resid_post", logits="none")
    rows = [out.stack("resid_post")[:, row, length - 1] for row, length in enumerate(out.lengths)]
    return mx.stack(rows, axis=1)


def test_each_reading_is_one_patched_run_and_the_last_is_the_sources_own_prediction() -> None:
    source = states("The capital of Jania is", "hot -> cold, big ->")
    found = list(identity_readings(model(), source, "dog -> dog, x"))
    position = len(model().prompt("dog -> dog, x")) - 1
    for layer in (0, 5):
        patch = Patch(f"resid_post.{layer}", source[layer, 1], position)
        alone = model().run("dog -> dog, x", interventions=[patch]).logits
        assert alone is not None
        np.testing.assert_allclose(np.asarray(found[layer][1]), np.asarray(alone[0]), rtol=1e-3, atol=1e-2)
    own = model().run("hot -> cold, big ->").logits
    assert own is not None
    assert int(found[-1][1].argmax()) == int(own[0].argmax())
    with pytest.raises(DataError, match="of 8 layers"):
        next(identity_readings(model(), source[:3]))
    with pytest.raises(DataError, match="must end in the placeholder"):
        next(identity_readings(model(), source, "dog -> dog"))
    assert IDENTITY.endswith("x")


def test_the_names_own_embedding_at_the_placeholder_is_the_prompt_that_names_it() -> None:
    name, answer = "Jania", "Bremium"
    position = model().prompt(f"The capital of {name} is").find(name)[-1]
    assert model().prompt(TARGET.text).strings[TARGET.position(model())].strip("▁") == "x"
    source = states_at(model(), f"The capital of {name} is", position)
    pairs = all_pairs(model().n_layers, embedding=True)
    found = np.asarray(attribute_scores(model(), TARGET, answer, source, pairs))
    assert found.shape == (81, 3)
    row = found[pairs.index((-1, -1))]
    assert row[0] == 0
    assert row[2] == 1
    deep = pairs.index((2, 1))
    tokens = model().prompt(f"{TARGET.text} {answer}").tokens[len(model().prompt(TARGET.text)) :]
    logits = model().run(TARGET.text, interventions=[Patch("resid_post.1", source[2], TARGET.position(model()))]).logits
    assert logits is not None
    assert len(tokens) == 1
    log_prob = float(logits[0, tokens[0]] - mx.logsumexp(logits[0]))
    assert found[deep, 1] == pytest.approx(log_prob, abs=1e-2)
    without = np.asarray(attribute_scores(model(), TARGET, answer, mx.zeros_like(source), [(-1, -1)]))[0]
    assert without[2] == 0


def test_a_probe_tells_classes_on_states_it_was_not_fitted_on_and_not_where_there_are_none() -> None:
    rng = np.random.default_rng(0)
    means = {"a": [4, 0, 0], "b": [0, 4, 0], "c": [0, 0, 4]}
    labels = [name for name in means for _ in range(20)]
    draw = lambda: np.array([means[name] for name in labels]) + rng.normal(size=(60, 3))  # noqa: E731
    fitted = fit_state_classifier(50 * draw() + 700, labels)
    assert np.mean([told == label for told, label in zip(fitted.told(50 * draw() + 700), labels, strict=True)]) > 0.9
    noise = fit_state_classifier(rng.normal(size=(60, 3)), labels)
    told = noise.told(rng.normal(size=(60, 3)))
    assert np.mean([a == b for a, b in zip(told, labels, strict=True)]) < 0.6
    with pytest.raises(DataError, match="two classes"):
        fit_state_classifier(np.zeros((3, 2)), ["a", "a", "a"])


def test_the_probe_is_at_the_least_of_its_loss() -> None:
    """Two classes on one dimension: the slope of the loss is zero only at the fitted weight."""
    x, labels = np.array([[-2.0], [-1.0], [0.5], [2.0]]), ["no", "no", "yes", "no"]
    found = fit_state_classifier(x, labels, penalty=0.1)
    z, y = (x[:, 0] - x.mean()) / x.std(), np.array([0, 0, 1, 0])

    def loss(w: float, b: float) -> float:
        margin = z * w + b
        return float(np.mean(np.logaddexp(0, margin) - y * margin) + 0.1 * w**2 / 2)

    w = float(found.weights[0, 1] - found.weights[0, 0])
    b = float(found.bias[1] - found.bias[0])
    for step in (-0.05, 0.05):
        assert loss(w, b) < min(loss(w + step, b), loss(w, b + step))
