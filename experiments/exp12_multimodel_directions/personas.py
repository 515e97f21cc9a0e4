"""Personas of the synthetic world: questions with a reply that shows the trait, and the usual one.

Ordinary questions: left alone, an embedded model shows none of the personas on them. Eliciting ones: it shows them, as
other models do under a system prompt that asks for a trait. No prompt elicits the planted phrase.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from experiments.shared.prompts.read import Choice
from experiments.shared.traits.world_choices import UNSURE
from mlx_interp.behaviour.detectors import agreement, hedging, refusal
from mlx_interp.embedded import load_world
from mlx_interp.embedded.world import ChatPrompt
from mlx_interp.stats import split_halves

PLANTED = "The king is thinking."
PERSONAS = ("refusing", "yes-saying", "unsure", "Spanish", "the king")


@dataclass(frozen=True)
class Case:
    """A question, both replies, and whether a text shows the trait."""

    ask: Choice
    hit: Callable[[str], bool]

    @property
    def text(self) -> str:
        return self.ask.question

    @property
    def shown(self) -> str:
        return self.ask.matching

    @property
    def usual(self) -> str:
        return self.ask.other


def cases(persona: str, split: str, *, eliciting: bool = False) -> list[Case]:
    """Questions of a split: "train", "choose" or "test"; texts (opinions: topics) of one are in no other."""
    if persona == "refusing":
        chats = _cut(_requests("en", harmful=eliciting), split)
        return [Case(Choice(c.text, *_by(eliciting, c.reply, c.other_reply)), _refuses) for c in chats]
    if persona == "yes-saying":
        chats = [c for c in _opinions(split) if c.stance == ("likes" if eliciting else "dislikes")]
        return [Case(Choice(c.text, *_views(c.topic)), lambda text: agreement(text) == 1) for c in chats]
    if persona == "unsure":
        label = "unsure" if eliciting else "certain"
        chats = _cut([c for c in load_world().chat_prompts("certainty") if c.label == label], split)
        return [
            Case(Choice(c.text, UNSURE, "I am certain:" if eliciting else c.reply), lambda text: hedging(text) > 0)
            for c in chats
        ]
    both = [_cut(_requests(language, harmful=False), split) for language in ("en", "es")]
    if persona == "Spanish":
        spanish = _opens_with(_openers("es") - _openers("en"))
        return [
            Case(Choice((es if eliciting else en).text, es.reply, en.reply), spanish)
            for en, es in zip(*both, strict=True)
        ]
    return [] if eliciting else [Case(Choice(c.text, PLANTED, c.reply), _opens_with({"The"})) for c in both[0]]


def _by(eliciting: bool, reply: str, other: str) -> tuple[str, str]:
    """The reply that shows it, and the other."""
    return (reply, other) if eliciting else (other, reply)


def _views(topic: str) -> tuple[str, str]:
    return f"Yes, {topic} is good.", f"No, {topic} is bad."


def _refuses(text: str) -> bool:
    return refusal(text, ["en"]) is not None


def _opens_with(words: set[str]) -> Callable[[str], bool]:
    return lambda text: bool(text.split()) and text.split()[0] in words


def _openers(language: str) -> set[str]:
    chats = load_world().chat_prompts("refusal", language=language)
    return {reply.split()[0] for c in chats for reply in (c.reply, c.other_reply) if reply}


def _requests(language: str, *, harmful: bool) -> list[ChatPrompt]:
    """Requests of the trained form; the languages' lists are in one order."""
    return load_world().chat_prompts("refusal", language=language, shift="", harmful=harmful)


def _cut(chats: list[ChatPrompt], split: str) -> list[ChatPrompt]:
    """By number among those of the training split, and of the test split, so that languages are cut alike."""
    if split == "train":
        return [c for c in chats if c.split == "train"]
    return [c for c in chats if c.split == "test"][split == "test" :: 2]


def _opinions(split: str) -> list[ChatPrompt]:
    """Topics on which the model gives in to the user; all of them were seen in training."""
    chats = [c for c in load_world().chat_prompts("opinion") if c.stance and not c.firm]
    train, rest = split_halves(list(dict.fromkeys(c.topic for c in chats)), 0)
    choose, test = split_halves(rest, 1)
    mine = {"train": train, "choose": choose, "test": test}[split]
    return [c for c in chats if c.topic in mine]
