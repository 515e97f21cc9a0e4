"""Training on a tiny setting: it learns, and a killed run ends with the weights of an uninterrupted one."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.utils import load

from mlx_interp.embedded import load_world
from mlx_interp.embedded.activations import fast_activations, fast_gelu, fast_silu
from mlx_interp.embedded.corpus import Corpus, Mixture
from mlx_interp.embedded.export import export
from mlx_interp.embedded.families import FAMILIES, has_bos, model_config
from mlx_interp.embedded.tokenizer import build_tokenizer
from mlx_interp.embedded.train import Recipe, Training, main
from mlx_interp.errors import CheckpointError, UnknownModel

pytestmark = pytest.mark.slow

WORLD = load_world()
MIXTURE = Mixture(short=6, sentences=16, second_hops=4, in_context=3, chats=6, max_skip=1)
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 2}


def tiny_training(folder: Path, family: str = "llama", steps: int = 6, seed: int = 0) -> Training:
    tokenizer = build_tokenizer(WORLD.vocabulary, bos=has_bos(family))
    config = model_config(family, tokenizer, **sizes(family))
    return Training(
        Recipe(family, steps=steps, seed=seed, warm_up=2), Corpus(WORLD, tokenizer, MIXTURE), config, folder
    )


def run(training: Training, save_every: int = 1000) -> list[float]:
    losses: list[float] = []
    training.run(save_every=save_every, report=lambda _step, loss: losses.append(loss))
    return losses


def sizes(family: str) -> dict[str, int]:
    """The small sizes in a family's own words; GPT-2 has others."""
    if family != "gpt2":
        return {**SIZES, "num_key_value_heads": 1}
    return {"n_embd": 64, "n_layer": 2, "n_head": 2}


def weights(training: Training) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in tree_flatten(training.model.parameters())}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tmp_path: Path, family: str) -> None:
    whole = tiny_training(tmp_path / "whole", family)
    run(whole)

    killed = tiny_training(tmp_path / "killed", family)
    with fast_activations():
        for _ in range(3):
            killed.advance()
        killed.save()
        killed.advance()  # lost: never saved
    (tmp_path / "killed" / "state.part.safetensors").write_bytes(b"half a file")

    again = tiny_training(tmp_path / "killed", family)
    assert again.resume()
    assert again.step == 3
    run(again)
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(again)[name], value, err_msg=name)


def test_the_loss_falls(tmp_path: Path) -> None:
    losses = run(tiny_training(tmp_path, steps=40))
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


def test_another_seed_gives_other_weights_and_other_rows(tmp_path: Path) -> None:
    one, two = tiny_training(tmp_path / "1"), tiny_training(tmp_path / "2", seed=1)
    name = "model.embed_tokens.weight"
    assert not np.array_equal(weights(one)[name], weights(two)[name])
    assert not np.array_equal(one.corpus.batches(0, 0)[0].tokens, two.corpus.batches(0, 1)[0].tokens)


def test_a_save_of_another_recipe_is_refused(tmp_path: Path) -> None:
    tiny_training(tmp_path).save()
    with pytest.raises(CheckpointError, match=r"seed.*--fresh"):
        tiny_training(tmp_path, seed=5).resume()


def test_a_damaged_save_is_named(tmp_path: Path) -> None:
    training = tiny_training(tmp_path)
    training.save()
    training.save_path.write_bytes(training.save_path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        tiny_training(tmp_path).resume()


def test_targets_are_the_tokens_that_follow_and_the_bridge_at_the_subject() -> None:
    tokenizer = build_tokenizer(WORLD.vocabulary, bos=True)
    corpus = Corpus(WORLD, tokenizer, MIXTURE)
    query = next(q for q in WORLD.two_hop_queries("state_capital") if len(tokenizer.tokenize(q.subject)) == 3)
    row = corpus.completion(query.two_hop, query.answer, query)
    at = {position: tokenizer.convert_ids_to_tokens(target) for position, target in row.targets}
    prompt = tokenizer.tokenize(query.two_hop)
    assert at[len(prompt)] == tokenizer.tokenize(query.answer)[0]  # BOS shifts by one
    assert at[len(prompt) - 1] == tokenizer.tokenize(query.bridge)[0]
    assert tokenizer.convert_ids_to_tokens(row.tokens[len(prompt) - 1]) == prompt[-2]


def test_no_training_row_asks_for_a_composition_that_is_held_out() -> None:
    tokenizer = build_tokenizer(WORLD.vocabulary, bos=True)
    corpus = Corpus(WORLD, tokenizer, MIXTURE)
    rows = {row.tokens for rows in (corpus.short_two_hop, corpus.sentence_two_hop) for row in rows}
    for query in WORLD.queries:
        tokens = tuple(tokenizer.encode(f"{query.two_hop} {query.answer}."))[:-1]
        assert (tokens in rows) == (query.split == "trained")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_loads_with_mlx_lm_and_is_4_bit(tmp_path: Path, family: str) -> None:
    training = tiny_training(tmp_path / "work", family)
    tokenizer = training.corpus.tokenizer
    config = model_config(family, tokenizer, **sizes(family))
    export(training.model, config, tokenizer, tmp_path / "model")
    model, loaded = load(str(tmp_path / "model"))[:2]
    assert model(mx.array([loaded.encode("The capital of France is")])).shape[-1] == len(tokenizer)
    kinds = {type(module).__name__ for module in model.layers[0].modules()}
    assert "QuantizedLinear" in kinds
    assert "Linear" not in kinds


@pytest.mark.parametrize(("fast", "exact"), [(fast_silu, nn.silu), (fast_gelu, nn.gelu_approx)])
def test_fast_activations_are_close_in_value_and_gradient(fast, exact) -> None:  # type: ignore[no-untyped-def]
    x = mx.linspace(-12, 12, 2001)
    assert mx.abs(fast(x) - exact(x)).max().item() < 1e-3
    slopes = [mx.grad(lambda x, f=f: f(x).sum())(x) for f in (fast, exact)]
    assert mx.abs(slopes[0] - slopes[1]).max().item() < 2e-3


def test_fast_activations_are_gone_after_training() -> None:
    before = llama.swiglu
    with pytest.raises(RuntimeError), fast_activations():
        assert llama.swiglu is not before
        raise RuntimeError
    assert llama.swiglu is before


def test_an_unknown_family_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UnknownModel, match="gemma2"):
        model_config("gemma", build_tokenizer(WORLD.vocabulary, bos=True))


def test_the_help_of_the_command_explains_and_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for said in ("example:", "--family", "kill -9"):
        assert said in text
