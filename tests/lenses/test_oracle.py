"""Activation oracles: what is injected is the published formula, one sweep is many forwards, a planted direction is
read, and oracles of another model, layer or width are refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.behaviour.finetuning import LoraRecipe
from mlx_interp.behaviour.injection import Injection
from mlx_interp.errors import ConfigError, DataError, PositionError, ShapeError, SiteError
from mlx_interp.lenses import ActivationOracle, OracleExample, OracleSettings, load_oracle, train_oracle
from mlx_interp.loading.adapter import write_adapter
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt

QUESTION = "Is tea good?"
LAYER = 4


@cache
def llama() -> Model:
    return mi.load("tiny-llama")


def activations(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, llama().d_model))


def by_hand(tokens: list[int], places: list[int], vectors: np.ndarray, injection: Injection) -> np.ndarray:
    """Log-probabilities (pos, d_vocab) of a forward pass written out: layers 0 and 1, the injection, all others."""
    network = llama().mlx_model
    state = network.model.embed_tokens(mx.array([tokens]))
    for number, layer in enumerate(network.model.layers):
        state = layer(state, "causal", None)
        if number == 1:
            changed = np.array(state)
            for place, vector in zip(places, vectors, strict=True):
                old = changed[0, place].astype(np.float64)
                size = injection.length or injection.scale * np.linalg.norm(old)
                new = vector / np.linalg.norm(vector) * size
                changed[0, place] = old + new if injection.how == "add" else new
            state = mx.array(changed)
    logits = np.asarray(network.model.embed_tokens.as_linear(network.model.norm(state))[0], dtype=np.float64)
    return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


def log_prob(prompt: Prompt, places: list[int], vectors: np.ndarray, injection: Injection, answer: str) -> float:
    ids = llama().continuation(prompt, answer)
    told = by_hand([*prompt.tokens, *ids[:-1]], places, vectors, injection)
    return sum(float(told[len(prompt) - 1 + n, token]) for n, token in enumerate(ids))


@pytest.mark.parametrize(
    "injection", [Injection(), Injection("replace"), Injection("add", 2.5), Injection("replace", length=7.0)]
)
@pytest.mark.parametrize("k", [1, 3])
def test_all_activations_in_one_sweep_are_what_forwards_by_hand_give(injection: Injection, k: int) -> None:
    settings = OracleSettings(injection=injection)
    oracle = ActivationOracle(llama(), settings)
    rows = activations(4 * k).reshape(4, k, -1)
    prompt, places = oracle.prompt(QUESTION, layer=LAYER, k=k)
    assert len(places) == k
    assert {prompt.pieces[i] for i in places} == {" ?"}
    words = ("Yes", "No")
    told = oracle.log_probs(rows, QUESTION, words, layer=LAYER)
    for row, found in zip(rows, told, strict=True):
        expected = [log_prob(prompt, places, row, injection, word) for word in words]
        assert found == pytest.approx(expected, abs=1e-4)
    one_token = "?"
    assert len(llama().continuation(prompt, one_token)) == 1
    alone = oracle.log_probs(rows, QUESTION, [one_token], layer=LAYER)[:, 0]
    expected = [log_prob(prompt, places, row, injection, one_token) for row in rows]
    assert alone == pytest.approx(expected, abs=1e-4)
    assert np.ptp(told[:, 0]) > 0.01  # activations matter
    assert oracle.log_odds(rows, QUESTION, layer=LAYER) == pytest.approx(told[:, 0] - told[:, 1])


def test_texts_of_many_activations_are_those_of_each_alone_and_without_one_the_prompts_own() -> None:
    oracle = ActivationOracle(llama())
    rows = activations(3)
    together = oracle.ask(rows, QUESTION, layer=LAYER, max_tokens=5)
    assert together == [oracle.ask(row[None], QUESTION, layer=LAYER, max_tokens=5)[0] for row in rows]
    prompt, _ = oracle.prompt(QUESTION, layer=LAYER)
    expected = [log_prob(prompt, [], rows[:0], Injection(), word) for word in ("Yes", "No")]
    assert oracle.unasked(QUESTION, layer=LAYER) == pytest.approx(expected, abs=1e-4)


def test_captured_activations_are_read_at_each_prompts_own_position() -> None:
    oracle = ActivationOracle(llama())
    texts = [QUESTION, "How do I make a cake?"]
    out = llama().run(texts, capture=f"resid_post.{LAYER}")
    last = np.stack(
        [np.asarray(llama().run(t, capture=f"resid_post.{LAYER}")[f"resid_post.{LAYER}"])[0, -1] for t in texts]
    )
    assert oracle.log_odds(out, QUESTION, layer=LAYER) == pytest.approx(
        oracle.log_odds(last, QUESTION, layer=LAYER), abs=1e-3
    )
    assert oracle.read(llama(), texts, LAYER) == pytest.approx(last, abs=1e-4)
    with pytest.raises(PositionError, match="position 50"):
        oracle.ask(out, QUESTION, layer=LAYER, positions=50)


@cache
def planted() -> tuple[np.ndarray, Path]:
    """A direction, and the adapter of an oracle trained to say on which side of it an activation is."""
    direction = activations(1, seed=9)[0] / np.linalg.norm(activations(1, seed=9)[0])
    rows = activations(240, seed=1)
    signs = np.random.default_rng(2).choice([-1, 1], size=len(rows))
    rows += np.outer(8 * signs - rows @ direction, direction)
    examples = [
        OracleExample(row, LAYER, QUESTION, "Yes" if s > 0 else "No") for row, s in zip(rows, signs, strict=True)
    ]
    found = train_oracle(llama(), examples, LoraRecipe(rank=4, steps=80, batch=16, learning_rate=5e-4))
    folder = write_adapter(Path(mkdtemp()) / "oracle", found.weights, found.config, base=llama().weights_hash)
    return direction, folder


def test_a_planted_direction_is_read_and_nothing_is_without_it() -> None:
    before = np.asarray(llama().run(QUESTION).logits)
    direction, folder = planted()
    assert (np.asarray(llama().run(QUESTION).logits) == before).all()
    oracle = load_oracle("tiny-llama", folder)
    assert oracle.settings.layers == (LAYER,)
    rows = activations(60, seed=3)
    rows -= np.outer(rows @ direction, direction)
    signs = np.where(np.arange(60) % 2, 1, -1)
    with_it = oracle.log_odds(rows + np.outer(8 * signs, direction), QUESTION, layer=LAYER)
    assert np.mean((with_it > 0) == (signs > 0)) >= 0.95
    without = oracle.log_odds(rows, QUESTION, layer=LAYER)
    assert abs(np.mean((without > np.median(without)) == (signs > 0)) - 0.5) < 0.2
    said = oracle.ask(rows[:4] + np.outer(8 * signs[:4], direction), QUESTION, layer=LAYER, max_tokens=4)
    assert [text.strip() for text in said] == ["No", "Yes", "No", "Yes"]
    untrained = ActivationOracle(llama()).log_odds(rows + np.outer(8 * signs, direction), QUESTION, layer=LAYER)
    assert np.mean((untrained > 0) == (signs > 0)) < 0.8


def test_oracles_of_another_model_layer_or_width_are_refused() -> None:
    oracle = load_oracle("tiny-llama", planted()[1])
    rows = activations(2)
    with pytest.raises(SiteError, match="trained on layers 4, not on layer 5"):
        oracle.ask(rows, QUESTION, layer=5)
    with pytest.raises(SiteError, match="no layer 40: tiny-llama"):
        oracle.ask(rows, QUESTION, layer=40)
    with pytest.raises(ShapeError, match=r"\(2, 1, 9\), the oracle's .* reads \(n, 128\)"):
        oracle.ask(rows[:, :9], QUESTION, layer=LAYER)
    with pytest.raises(DataError, match=r"activation 1, 0 of \(2, 1\) has length 0"):
        oracle.ask(rows * [[1], [0]], QUESTION, layer=LAYER)
    with pytest.raises(DataError, match=r"'qwen2', 8, 128\), the oracle's .*'llama', 8, 128\): it reads its own model"):
        oracle.read(mi.load("tiny-qwen2"), [QUESTION], LAYER)
    with pytest.raises(DataError, match="give the model without the adapter"):
        oracle.read(oracle.model, [QUESTION], LAYER)
    with pytest.raises(SiteError, match="not of the stream's width"):
        ActivationOracle(llama(), OracleSettings(site="z.1"))


def test_placeholders_that_cannot_be_found_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no place, or two, for \{placeholders\}"):
        OracleSettings(template="{question}")
    with pytest.raises(ConfigError, match="take a placeholder that is one token"):
        ActivationOracle(llama(), OracleSettings(placeholder=" placeholder")).ask(activations(1), QUESTION, layer=LAYER)
    with pytest.raises(ConfigError, match="'add' or 'replace', not 'mul'"):
        Injection("mul")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"scale 0\.0: the length"):
        Injection(scale=0.0)


def test_mistakes_in_training_are_named() -> None:
    with pytest.raises(DataError, match="no examples"):
        train_oracle(llama(), [], LoraRecipe())
    row = activations(1)[0]
    with pytest.raises(ShapeError, match=r"example 0: \(1, 5\), tiny-llama has \(k, 128\)"):
        train_oracle(llama(), [OracleExample(row[:5], 1, QUESTION, "Yes")], LoraRecipe())
    with pytest.raises(DataError, match="activation of example 0, row 0"):
        train_oracle(llama(), [OracleExample(row * 0, 1, QUESTION, "Yes")], LoraRecipe())
    with pytest.raises(SiteError, match="at the output of a layer"):
        train_oracle(
            llama(), [OracleExample(row, 1, QUESTION, "Yes")], LoraRecipe(), OracleSettings(site="resid_pre.0")
        )
