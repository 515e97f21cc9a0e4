"""Prompts on real tokenizers: one BOS, spans that find a phrase, errors that help."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tokenizers import processors

import mlx_interp as mi
from mlx_interp.datasets import read_two_hop
from mlx_interp.embedded.world import FOLDER
from mlx_interp.errors import PromptError
from mlx_interp.prompts import Prompt, make_prompt

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


@pytest.mark.parametrize("given", [b"abc", None, 3.5, {"a": 1}, [3.0, 4.0], [[3, 2.5]], [True, False], [None], [["a"]]])
def test_what_is_no_prompt_is_refused(given: Any) -> None:
    with pytest.raises(PromptError, match=r"a prompt is a string|a token id is a whole number"):
        loaded("tiny-llama").prompts(given)


def test_ids_are_read_from_any_kind_of_array() -> None:
    model = loaded("tiny-llama")
    for given in ([5, 6], (5, 6), np.array([5, 6]), mx.array([5, 6]), [np.int64(5), 6], np.array([[5, 6]])):
        assert [prompt.tokens for prompt in model.prompts(given)] == [[5, 6]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text", ["The capital of France is the city", "東京 is the capital", "he at the heat", "a .  b\nc"]
)
def test_a_prompt_from_ids_has_the_text_and_the_places_of_one_from_text(name: str, text: str) -> None:
    model = loaded(name)
    written = model.prompt(text)
    (read,) = model.prompts(written.tokens)
    assert read.text == model.tokenizer.decode(written.tokens)
    assert read.text.endswith(text)
    for word in text.split():
        assert read.find(word, occurrence=-1)[-1] == written.find(word, occurrence=-1)[-1]
    assert all(low <= high for low, high in read.spans)
    assert read.spans[-1][1] == len(read.text)


def test_a_token_without_a_row_in_the_embedding_is_refused_however_it_comes() -> None:
    model = loaded("tiny-llama")
    high = Prompt("a <extra>", [1, model.d_vocab], [(0, 1), (1, 9)], model.tokenizer)
    for call in (model.run, model.generate, lambda prompt: model.sweep(prompt, [[]])):
        with pytest.raises(PromptError, match=f"outside the vocabulary of {model.d_vocab}"):
            call(high)


class Templated:
    """The embedded tokenizer with another chat template."""

    def __init__(self, template: str) -> None:
        self.inner = loaded("tiny-llama").tokenizer._tokenizer
        self.chat_template = template

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, text: str, **options: Any) -> Any:
        return self.inner(text, **options)

    def apply_chat_template(self, said: Any, **options: Any) -> Any:
        return self.inner.apply_chat_template(said, chat_template=self.chat_template, **options)


TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "system", "message"),
    [
        ("{{ raise_exception('System role not supported') }}", "kind", "System role not supported.*leave `system` out"),
        ("{{ nothing.here }}", None, "chat template fails .*use chat=False"),
        ("{% if tools|length > 0 %}X{% endif %}" + TURNS, None, "chat template fails"),
        (
            "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}",
            "b",
            "leaves out",
        ),
        (
            "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}",
            None,
            "leaves out",
        ),
        (
            "{% for m in messages %}{{ '<u>' if m['role'] == 'user' else '<a>' }}{{ m['content'] }}{% endfor %}",
            "kind",
            "knows no",
        ),
    ],
)
def test_a_template_that_fails_or_leaves_out_a_turn_is_an_error(
    template: str, system: str | None, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        make_prompt(Templated(template), "The capital b", chat=True, system=system)


def test_a_rendered_chat_is_taken_as_it_is_and_a_plain_text_keeps_no_closing_token() -> None:
    inner = loaded("tiny-llama").tokenizer._tokenizer
    closing = copy.deepcopy(inner)
    bos, end = closing.bos_token, closing.eos_token
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {end}", special_tokens=[(bos, closing.bos_token_id), (end, closing.eos_token_id)]
    )
    assert closing("The capital")["input_ids"][-1] == closing.eos_token_id
    assert make_prompt(closing, "The capital").tokens == make_prompt(inner, "The capital").tokens
    assert make_prompt(closing, "Hello", chat=True).tokens == make_prompt(inner, "Hello", chat=True).tokens


@pytest.mark.parametrize("name", NAMES)
def test_pieces_of_a_prompt_are_its_text_cut_up(name: str) -> None:
    prompt = loaded(name).prompt("the city of Nariel, and 日")
    ends = [max([0, *(high for _, high in prompt.spans[:i])]) for i in range(len(prompt))]
    own = [high > end for (_, high), end in zip(prompt.spans, ends, strict=True)]
    assert "".join(piece for piece, text in zip(prompt.pieces, own, strict=True) if text) == prompt.text
    named = [i for i, text in enumerate(own) if not text]
    assert len(named) >= 2  # the further bytes of a sign, and BOS where there is one
    assert all(prompt.pieces[i] == prompt.strings[i] for i in named)
