"""Probes find what was planted, separate prompts they never saw, and refuse positions that carry nothing."""

from __future__ import annotations

import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.directions import probes
from mlx_interp.directions.direction import diff_of_means
from mlx_interp.directions.probes import METHODS, probe
from mlx_interp.directions.states import states_of
from mlx_interp.embedded import load_world
from mlx_interp.errors import ConfigError, DataError, DirectionError
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt

SITE = "resid_post.5"


@pytest.fixture(scope="module")
def model() -> Model:
    return mi.load("tiny-llama")


def chats(model: Model, split: str, harmful: bool) -> list[Prompt]:
    chosen = load_world().chat_prompts("refusal", split=split, language="en", shift="", harmful=harmful)
    return [model.prompt(chat.text, chat=True) for chat in chosen[:24]]


def planted(n: int = 400, width: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two classes that differ along one axis, in noise that is 20 times as wide along another, which both share."""
    rng = np.random.default_rng(1)
    axis, nuisance = np.eye(width)[0], np.eye(width)[1]
    shared = rng.normal(size=(n, 1)) * 20 * nuisance
    noise = rng.normal(size=(2, n, width))
    return shared + noise[0] + 6 * axis, shared + noise[1], axis


def test_paired_differences_cancel_what_the_pairs_share() -> None:
    above, below, axis = planted()
    found = METHODS["pca"](above, below)
    assert abs(found @ axis) / np.linalg.norm(found) > 0.99


@pytest.mark.parametrize("method", ["logistic", "mass_mean"])
def test_a_noisy_axis_that_both_classes_share_is_left_out(method: str) -> None:
    above, below, axis = planted()
    below = below[::-1].copy()  # no pairs any more
    above = above + 3 * np.eye(12)[1]  # and by chance the means differ there as well
    plain, found = METHODS["difference"](above, below), METHODS[method](above, below)
    assert plain @ axis / np.linalg.norm(plain) < 0.95
    assert found @ axis / np.linalg.norm(found) > 0.97


def test_the_logistic_regression_is_at_its_optimum() -> None:
    """Rows at +1 and -1: the loss log(1 + exp(-w)) + penalty w^2 / 2 has its least where its slope, by hand, is 0."""
    above, below = np.array([[1.0, 0.0]] * 5), np.array([[-1.0, 0.0]] * 5)
    weight = METHODS["logistic"](above, below)
    assert weight[1] == pytest.approx(0, abs=1e-6)
    slope = -1 / (1 + np.exp(weight[0])) + probes.PENALTY * weight[0]  # rows are +-1 after scaling
    assert slope == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_separates_prompts_it_never_saw(model: Model, method: str) -> None:
    found = probe(model, chats(model, "train", True), chats(model, "train", False), SITE, method=method)  # type: ignore[arg-type]
    unseen = [states_of(model, chats(model, "test", harmful), SITE) for harmful in (True, False)]
    assert found.accuracy(*unseen) > 0.9
    assert found.accuracy(*reversed(unseen)) < 0.1
    assert method in found.direction.method


@pytest.mark.parametrize("method", METHODS)
def test_a_direction_points_to_the_positive_class_and_reaches_its_mean(model: Model, method: str) -> None:
    classes = [chats(model, "train", harmful) for harmful in (True, False)]
    found = probe(model, *classes, SITE, method=method).direction  # type: ignore[arg-type]
    above, below = (states_of(model, prompts, SITE).mean(axis=0) for prompts in classes)
    unit = np.asarray(found.unit, np.float64)
    assert found.norm == pytest.approx((above - below) @ unit, rel=1e-4)
    assert found.norm > 0


def test_the_plain_method_is_the_difference_of_means_with_its_length(model: Model) -> None:
    classes = [chats(model, "train", harmful) for harmful in (True, False)]
    found = probe(model, *classes, SITE, method="difference").direction
    np.testing.assert_allclose(found.vector, diff_of_means(model, *classes, SITE).vector, rtol=1e-4, atol=1e-4)


def test_a_mean_over_responses_is_that_of_their_tokens_alone(model: Model) -> None:
    prompts = [model.prompt("The capital of France is Paris"), model.prompt("No")]
    rows = states_of(model, prompts, SITE, responses_from=(3, 1))
    for row, prompt, begin in zip(rows, prompts, (3, 1), strict=True):
        alone = np.asarray(model.run(prompt, capture=SITE)[SITE][0])[begin:].mean(axis=0)
        np.testing.assert_allclose(row, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_position_before_the_texts_diverge_is_refused(model: Model, method: str) -> None:
    shared = model.prompt("The capital of France is").tokens
    rows = [[*shared, token] for token in range(100, 116)]
    with pytest.raises(DirectionError, match="does not carry the contrast"):
        probe(model, rows[:8], rows[8:], SITE, method=method, position=-2)  # type: ignore[arg-type]


def test_mistakes_are_named(model: Model) -> None:
    harmful, harmless = (chats(model, "train", kind) for kind in (True, False))
    with pytest.raises(ConfigError, match=r"no method 'logistics': did you mean 'logistic'"):
        probe(model, harmful, harmless, SITE, method="logistics")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="needs pairs: 24 positive and 23"):
        probe(model, harmful, harmless[1:], SITE, method="pca")
    with pytest.raises(DataError, match="found 3 and 24"):
        probe(model, harmful[:3], harmless, SITE, method="pca")
    with pytest.raises(DataError, match="position -99 does not exist"):
        probe(model, harmful, harmless, SITE, method="pca", position=-99)
    with pytest.raises(DataError, match="1 beginnings of responses for 24"):
        states_of(model, harmful, SITE, responses_from=[1])
