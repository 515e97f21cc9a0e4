"""Prompts on real tokenizers: one BOS, spans that find a phrase, errors that help."""

from __future__ import annotations

from functools import cache

import pytest

import mlx_interp as mi
from mlx_interp.datasets import read_two_hop
from mlx_interp.embedded.world import FOLDER
from mlx_interp.errors import PromptError

NAMES = ["tiny-llama", "tiny-gemma2", "tiny-qwen2"]


@cache
def loaded(name: str) -> mi.Model:
    return mi.load(name)


@pytest.mark.parametrize("name", NAMES)
def test_bos_comes_exactly_once_where_the_tokenizer_writes_it(name: str) -> None:
    model = loaded(name)
    bos, text = model.tokenizer.bos_token_id, "The capital of France is"
    expected = 0 if name == "tiny-qwen2" else 1
    assert model.prompt(text).tokens.count(bos) == expected
    assert model.prompt(text, chat=True).tokens.count(bos) == expected
    if expected:
        assert model.prompt(model.tokenizer.bos_token + text).tokens == model.prompt(text).tokens


@pytest.mark.parametrize("name", NAMES)
def test_a_phrase_is_found_by_the_tokens_that_cover_it(name: str) -> None:
    model = loaded(name)
    query = read_two_hop(FOLDER / "two_hop.jsonl")[0]
    prompt = model.prompt(query.two_hop)
    covered = prompt.find(query.mention)
    assert covered == list(range(covered[0], covered[-1] + 1))
    text = model.tokenizer.decode([prompt.tokens[i] for i in covered]).strip()
    assert text == query.mention
    assert covered[-1] == len(prompt) - 2  # "... containing X is"
    assert len(prompt.strings) == len(prompt.tokens) == len(prompt)


def test_a_phrase_that_is_missing_or_ambiguous_is_an_error() -> None:
    prompt = loaded("tiny-llama").prompt("The capital of France is the capital")
    with pytest.raises(PromptError, match="'Spain' does not occur"):
        prompt.find("Spain")
    with pytest.raises(PromptError, match="occurs 2 times"):
        prompt.find("capital")
    assert prompt.find("capital", occurrence=-1)[-1] == len(prompt) - 1
    assert prompt.find("capital", occurrence=0)[0] < prompt.find("capital", occurrence=1)[0]


def test_a_chat_needs_a_template() -> None:
    from tests.tiny import tiny_model

    with pytest.raises(PromptError, match="needs a chat template"):
        tiny_model("llama").prompt("3 5", chat=True)
