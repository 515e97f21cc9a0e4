"""Tokens as people ask for them: the likeliest ones of logits, a word's id behind a prompt, a lens as text."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp import Model
from mlx_interp.errors import DataError, PositionError, ShapeError

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def world_model() -> Model:
    return mi.load("tiny-llama")


def test_the_top_tokens_of_a_run_are_texts_and_probabilities(world_model: Model) -> None:
    out = world_model.run([PROMPT, "The capital of Spain is"])
    assert out.logits is not None
    found = world_model.top_tokens(out, 3)
    assert [row[0][0].strip() for row in found] == ["Paris", "Madrid"]
    probs = np.asarray(mx.softmax(out.logits, axis=-1))
    for row, top in enumerate(found):
        assert [prob for _, prob in top] == pytest.approx(np.sort(probs[row])[::-1][:3].tolist())
    assert world_model.top_tokens(out.logits, 3) == found
    assert world_model.top_tokens(out.logits[0], 3) == found[:1]
    assert mi.lenses.top_tokens(world_model, out.logits, 3) == found


def test_logits_of_another_shape_have_no_top_tokens(world_model: Model) -> None:
    with pytest.raises(ShapeError, match=r"top tokens of logits \(1, 6, 1973\): give \(n, 1973\) or \(1973,\)"):
        world_model.top_tokens(world_model.run(PROMPT, logits="all"))
    with pytest.raises(ShapeError, match="logits none"):
        world_model.top_tokens(world_model.run(PROMPT, logits="none"))
    with pytest.raises(DataError, match="the top 0 of 1973 tokens"):
        world_model.top_tokens(world_model.run(PROMPT), 0)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_the_id_of_a_word_is_the_token_that_the_model_writes(name: str) -> None:
    model = mi.load(name)
    prompt = model.prompt(PROMPT)
    (text,) = model.generate(prompt, max_tokens=1)
    assert model.token_id("Paris", after=prompt) == model.token_id(" Paris", after=PROMPT) == text.tokens[0]
    assert model.text_of_token(text.tokens[0]).strip() == "Paris"


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2", "tiny-qwen2"])
def test_a_reply_follows_the_mark_of_its_turn_bare(name: str) -> None:
    model = mi.load(name)
    prompt = model.prompt("I hate tea. Is tea good?", chat=True)
    (reply,) = model.generate(prompt, max_tokens=1)
    assert reply.text == "No"
    assert model.continuation(prompt, "No") == reply.tokens  # "▁", "▁No" behind a space, which no reply begins with
    assert len(model.continuation(prompt, "Yes")) == 1


def test_a_word_of_several_tokens_has_no_single_id(world_model: Model) -> None:
    tokens = world_model.continuation(PROMPT, "Washington")
    assert len(tokens) > 1
    with pytest.raises(DataError, match=rf"'Washington' is {len(tokens)} tokens .*model.continuation\(prompt, 'Wash"):
        world_model.token_id("Washington", after=PROMPT)
    with pytest.raises(DataError, match="is empty: it has no token"):
        world_model.token_id(" ", after=PROMPT)


def test_a_decoded_lens_reads_what_the_logit_lens_does(world_model: Model) -> None:
    found = mi.lenses.decoded_lens(world_model, PROMPT, k=2)
    assert found.layers == tuple(range(8))
    assert found.positions == tuple(range(6))
    for position in (-1, 4):
        logits = mi.lenses.logit_lens(world_model, PROMPT, position)
        tops = world_model.top_tokens(logits, 2)
        for layer in range(8):
            read = found.at(layer, position)
            assert [token for token, _ in read] == [token for token, _ in tops[layer]]
            assert [prob for _, prob in read] == pytest.approx([prob for _, prob in tops[layer]], abs=1e-5)


def test_a_decoded_lens_prints_as_a_table_with_the_last_layer_on_top(world_model: Model) -> None:
    found = mi.lenses.decoded_lens(world_model, PROMPT, positions=[-2, -1], site="resid_post.4-7")
    lines = repr(found).splitlines()
    assert lines[0].split() == ["layer", "▁France", "▁is"]
    assert [line.split()[0] for line in lines[1:]] == ["7", "6", "5", "4"]
    assert "'Paris' 98" in lines[1]
    assert found.at(-1)[0][0].strip() == "Paris"
    with pytest.raises(PositionError, match="layer 3 was not read: layers are 4, 5, 6, 7"):
        found.at(3)
    with pytest.raises(PositionError, match="position 0 was not read: positions are 4, 5"):
        found.at(7, 0)


def test_a_decoded_lens_takes_a_tuned_lens(world_model: Model) -> None:
    lens = mi.lenses.train_tuned_lens(world_model, [PROMPT, "The capital of Spain is"], steps=3)
    found = mi.lenses.decoded_lens(world_model, PROMPT, positions=-1, lens=lens, k=1)
    tops = world_model.top_tokens(mi.lenses.tuned_lens(world_model, PROMPT, lens), 1)
    assert [found.at(layer)[0][0] for layer in range(8)] == [top[0][0] for top in tops]
