"""Detectors fire on what they are for, and on nothing else."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest

import mlx_interp as mi
from mlx_interp.behaviour.detectors import (
    agreement,
    hedging,
    log_odds,
    log_prob_per_token,
    opener_tokens,
    refusal,
    repetition,
)
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError

REFUSED = [
    ("en", "I cannot help with that."),
    ("en", "I’m sorry, but I can’t assist with that request."),
    ("en", "As an AI, I must decline."),
    ("es", "Lo siento, no puedo ayudarte con eso."),
    ("fr", "Je ne peux pas vous aider."),
    ("de", "Ich kann dir dabei nicht helfen."),
    ("zh", "抱歉，我无法提供帮助。"),
    ("it", "Non posso aiutarti."),
    ("ja", "申し訳ありませんが、お手伝いできません。"),
    ("ru", "Извините, я не могу помочь."),
]
NEUTRAL = [
    "The lid cannot be opened without a key, so turn it first.",
    "Start with a cake.",
    "Water boils at 100 degrees. You can't miss it.",
    "Paris is the capital of France.",
    "Empieza con una tarta.",
    "Commence par un gâteau.",
    "Beginne mit einem Kuchen.",
    "先准备蛋糕。",
    "She was sorry that the concert ended.",
    "Nopuedo is not a word.",
    "",
]


@pytest.mark.parametrize(("language", "text"), REFUSED)
def test_refusals_are_found_in_their_language_with_the_phrase(language: str, text: str) -> None:
    phrase = refusal(text, [language])
    assert phrase is not None
    assert phrase.split()[0].lower().replace("'", "’") in text.lower().replace("'", "’")


@pytest.mark.parametrize("text", NEUTRAL)
def test_neutral_text_is_no_refusal_in_any_language(text: str) -> None:
    assert refusal(text) is None


def test_a_refusal_far_into_a_text_is_none() -> None:
    assert refusal("Here is how to do it. " * 8 + "I cannot stress enough how simple it is.") is None


def test_the_embedded_worlds_replies_are_told_apart_without_an_error() -> None:
    for chat in load_world().chat_prompts("refusal"):
        assert (refusal(chat.reply) is not None) == (chat.harmful and chat.language != "it"), chat


def test_a_language_without_phrases_is_an_error() -> None:
    with pytest.raises(DataError, match="there are en, es"):
        refusal("x", ["xx"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Yes, tea is good.", 1), ("No, tea is bad.", -1), ("Tea is a plant. No doubt.", 0), ("Yesterday I had tea.", 0)],
)
def test_agreement_is_read_from_the_opening(text: str, expected: int) -> None:
    assert agreement(text) == expected


def test_hedges_and_assertions_are_counted_against_each_other() -> None:
    assert hedging("I think it might rain, perhaps.") == 3
    assert hedging("It will certainly rain. I am sure.") == -2
    assert hedging("It rains in mighty Perhapsville.") == 0


def test_repetition_is_the_share_of_repeated_trigrams() -> None:
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([1] * 12) == 0.9
    assert repetition([1, 2]) == 0


def test_log_odds_are_those_of_the_tokens_together() -> None:
    logits = mx.log(mx.array([[0.5, 0.25, 0.125, 0.125]]))
    assert log_odds([1, 2])(logits).item() == pytest.approx(math.log(0.375 / 0.625), abs=1e-5)


@pytest.mark.slow
def test_openers_are_what_refusals_begin_with_and_answers_do_not() -> None:
    model = mi.load("tiny-llama")
    world = load_world()
    harmful, harmless = (
        [
            model.prompt(chat.text, chat=True)
            for chat in world.chat_prompts("refusal", language="en", split="test", shift="", harmful=kind)
        ]
        for kind in (True, False)
    )
    assert [model.tokenizer.decode([token]).strip() for token in opener_tokens(model, harmful, harmless)] == ["I"]
    some_refused = [*harmless, *harmful[: len(harmful) // 5]]
    assert opener_tokens(model, harmful, some_refused) == opener_tokens(model, harmful, harmless)
    many_refused = [*harmless[: len(harmful) // 3], *harmful]  # as small chat models do: what opens nothing else stays
    assert opener_tokens(model, harmful, many_refused) == opener_tokens(model, harmful, harmless)
    assert opener_tokens(model, harmless, harmless) == []


def test_without_a_known_phrase_openers_are_what_the_other_prompts_replies_do_not_begin_with() -> None:
    model = mi.load("tiny-llama")
    chats = load_world().chat_prompts("opinion")
    likes, dislikes = (
        [model.prompt(chat.text, chat=True) for chat in chats if chat.stance == stance][:24]
        for stance in ("likes", "dislikes")
    )
    assert [model.tokenizer.decode([token]).strip() for token in opener_tokens(model, dislikes, likes)] == ["No"]
    assert opener_tokens(model, dislikes, dislikes) == []


def test_log_probabilities_of_a_text_are_those_of_its_tokens_one_by_one() -> None:
    model = mi.load("tiny-qwen2")
    prompt, text = model.prompt("The capital of France is").tokens, model.prompt("Paris").tokens
    total = 0.0
    for n, token in enumerate(text):
        logits = model.run(prompt + text[:n]).logits
        assert logits is not None
        total += float(logits[0, token] - mx.logsumexp(logits[0]))
    (found, empty) = log_prob_per_token(model, [prompt, prompt], [text, []])
    assert found == pytest.approx(total / len(text), abs=1e-4)
    assert math.isnan(empty)


@pytest.mark.parametrize(
    ("language", "text", "agrees"),
    [
        ("es", "Sí, tienes razón.", 1),
        ("es", "No, no es malo.", -1),
        ("fr", "Oui, c'est vrai.", 1),
        ("fr", "Non, je ne crois pas.", -1),
        ("de", "Das stimmt nicht.", -1),
        ("de", "Das stimmt.", 1),
        ("de", "Jahre später sagte er nein.", 0),
        ("zh", "是的，你说得对。", 1),
        ("zh", "不是，这很好。", -1),
        ("zh", "对不起，我不知道。", 0),
    ],
)
def test_agreement_is_read_in_five_languages(language: str, text: str, agrees: int) -> None:
    assert agreement(text, language) == agrees


@pytest.mark.parametrize(
    ("language", "sure", "unsure"),
    [
        ("es", "Estoy seguro: es París.", "No estoy seguro, quizás París."),
        ("fr", "Je suis certain que c'est Paris.", "Je ne suis pas certain, peut-être Paris."),
        ("de", "Ich bin mir sicher: Paris.", "Ich bin mir nicht sicher, vielleicht Paris."),
        ("zh", "我确定是巴黎。", "我不确定，可能是巴黎。"),
    ],
)
def test_hedging_is_told_from_asserting_in_other_languages(language: str, sure: str, unsure: str) -> None:
    assert hedging(sure, language) < 0 < hedging(unsure, language)


def test_a_language_without_hedges_or_agreement_is_an_error() -> None:
    with pytest.raises(DataError, match="no hedging phrases for language 'it'"):
        hedging("x", "it")
    with pytest.raises(DataError, match="no disagreeing phrases for language 'it'"):
        agreement("x", "it")
