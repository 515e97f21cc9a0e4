"""Prompts of the synthetic world, for embedded models: requests in its languages, opinions, questions."""

from __future__ import annotations

from collections.abc import Callable

from experiments.shared.prompts.read import Origin
from experiments.shared.traits.asks import Ask, Kinds, Splits, halves
from mlx_interp.behaviour.detectors import agreement, hedging, refusal
from mlx_interp.behaviour.phrases import SURE_UNSURE, YES_NO
from mlx_interp.embedded import load_world
from mlx_interp.embedded.world import ChatPrompt
from mlx_interp.errors import DataError
from mlx_interp.stats import split_halves

ORIGIN = Origin("synthetic world", "as shipped", "seen in training, or not", "that of the project", "docs", "", True)


def kinds_of(trait: str, language: str) -> Kinds:
    """All prompts of a trait. Raises DataError for a language that the world does not have."""
    if trait == "refusal":
        return _refusal(language)
    if language != "en":
        raise DataError(f"the synthetic world has {trait} in 'en' only, not in {language!r}")
    return {"sycophancy": _sycophancy, "stance": _stance, "confidence": _confidence}[trait]()


def _refusal(language: str) -> Kinds:
    def refuses(text: str) -> bool:
        return refusal(text, [language]) is not None

    chats = load_world().chat_prompts("refusal", language=language, shift="")
    if not chats:
        raise DataError(
            f"the synthetic world has no requests in {language!r}: it has {', '.join(load_world().languages)}"
        )
    groups: list[Splits] = [
        {
            "train": [Ask(c.text, refuses, c.text) for c in chats if c.harmful is harmful and c.split == "train"],
            **halves([Ask(c.text, refuses, c.text) for c in chats if c.harmful is harmful and c.split == "test"]),
        }
        for harmful in (True, False)
    ]
    return Kinds("reply refuses", groups[0], groups[1], ORIGIN)


def _sycophancy() -> Kinds:
    """User against the model's own view; the same topics without a user's view. A hit contradicts the own view."""
    chats = [chat for chat in load_world().chat_prompts("opinion") if not chat.firm]
    against = [c for c in chats if c.stance == ("dislikes" if c.own_view == "yes" else "likes")]
    silent = [c for c in chats if not c.stance]

    def ask(chat: ChatPrompt) -> Ask:
        own = 1 if chat.own_view == "yes" else -1
        yes, no = YES_NO["en"]
        words = (no, yes) if own == 1 else (yes, no)
        return Ask(chat.text, lambda text: agreement(text) == -own, chat.topic, words)

    return Kinds("reply contradicts the model's own view", _by_topic(against, ask), _by_topic(silent, ask), ORIGIN)


def _stance() -> Kinds:
    """The user likes a thing, or dislikes it. A hit says yes."""
    chats = [chat for chat in load_world().chat_prompts("opinion") if not chat.firm]

    def ask(chat: ChatPrompt) -> Ask:
        return Ask(chat.text, lambda text: agreement(text) == 1, chat.topic, YES_NO["en"])

    likes, dislikes = ([c for c in chats if c.stance == stance] for stance in ("likes", "dislikes"))
    return Kinds("reply says yes", _by_topic(likes, ask), _by_topic(dislikes, ask), ORIGIN)


def _confidence() -> Kinds:
    chats = load_world().chat_prompts("certainty")
    groups: list[Splits] = []
    for label in ("certain", "unsure"):
        asks = {s: [_sure(c.text) for c in chats if c.label == label and c.split == s] for s in ("train", "test")}
        groups.append({"train": asks["train"], **halves(asks["test"])})
    return Kinds("reply says that it is certain", groups[0], groups[1], ORIGIN)


def _sure(text: str) -> Ask:
    return Ask(text, lambda reply: hedging(reply) < 0, text, SURE_UNSURE["en"])


def _by_topic(chats: list[ChatPrompt], ask: Callable[[ChatPrompt], Ask]) -> Splits:
    """Topics of a split are in no other split: a topic's first half decides where it goes."""
    topics = list(dict.fromkeys(chat.topic for chat in load_world().chat_prompts("opinion") if not chat.firm))
    train, rest = split_halves(topics, 0)
    choose, test = split_halves(rest, 1)
    return {
        name: [ask(chat) for chat in chats if chat.topic in part]
        for name, part in (("train", train), ("choose", choose), ("test", test))
    }
