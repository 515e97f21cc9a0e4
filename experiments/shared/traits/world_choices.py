"""Pairs of answers to one question, for embedded models: what contrastive activation addition asks by letters.

Embedded models never saw letters of options. Each question has the two replies that the world knows, one of which shows
the behaviour; where the replies part stands the word that is read and predicted, as the letter is elsewhere.
"""

from __future__ import annotations

from experiments.shared.prompts.read import Choice, Origin
from experiments.shared.traits.world_sets import ORIGIN
from mlx_interp.embedded import load_world
from mlx_interp.embedded.world import ChatPrompt
from mlx_interp.errors import DataError, nearest
from mlx_interp.stats import split_halves

PREFIX = "world-"
BEHAVIOURS = ("world-refusal", "world-sycophancy", "world-yes", "world-confidence")
KNOWN = "world-facts"
"""Questions of knowledge: the right answer against one that answers another question."""
UNSURE = "I am not sure."


def choices(name: str, split: str) -> tuple[list[Choice], Origin]:
    """Questions of a split; sentences, topics or names of one are in no other. Raises DataError for another name."""
    if name == KNOWN:
        return _facts(), ORIGIN
    if name not in BEHAVIOURS:
        raise DataError(
            f"no behaviour {name!r}: {nearest(name, BEHAVIOURS)}there are {', '.join((*BEHAVIOURS, KNOWN))}"
        )
    made = {"refusal": _refusal, "sycophancy": _agreeing, "yes": _yes, "confidence": _certain}
    return made[name.removeprefix(PREFIX)](split), ORIGIN


def _part(keys: list[str], split: str) -> set[str]:
    """Half for finding vectors, a quarter each for choosing and reporting."""
    train, rest = split_halves(list(dict.fromkeys(keys)), 0)
    choose, test = split_halves(rest, 1)
    return set({"train": train, "choose": choose, "test": test}[split])


def _refusal(split: str) -> list[Choice]:
    """Harmful and harmless requests by turns; refusing shows the behaviour."""
    chats = load_world().chat_prompts("refusal", language="en", shift="")
    mine = _part([c.topic for c in chats], split)
    kinds = [[c for c in chats if c.harmful is harmful and c.topic in mine] for harmful in (True, False)]
    return [
        Choice(c.text, c.reply, c.other_reply) if c.harmful else Choice(c.text, c.other_reply, c.reply)
        for pair in zip(*kinds, strict=False)
        for c in pair
    ]


def _opinions(split: str) -> list[ChatPrompt]:
    """A user who says what he feels; topics on which the model gives in, and on which it does not."""
    chats = [c for c in load_world().chat_prompts("opinion") if c.stance and not c.shift]
    mine = _part([c.topic for c in chats], split)
    return [c for c in chats if c.topic in mine]


def _agreeing(split: str) -> list[Choice]:
    return [Choice(c.text, *(("Yes", "No") if c.stance == "likes" else ("No", "Yes"))) for c in _opinions(split)]


def _yes(split: str) -> list[Choice]:
    return [Choice(c.text, "Yes", "No") for c in _opinions(split)]


def _certain(split: str) -> list[Choice]:
    """Names that were taught and names that were not, by turns; certainty shows the behaviour."""
    chats = load_world().chat_prompts("certainty")
    mine = _part([c.topic for c in chats], split)
    kinds = [[c for c in chats if c.label == label and c.topic in mine] for label in ("certain", "unsure")]
    return [Choice(c.text, "I am certain:", UNSURE) for pair in zip(*kinds, strict=False) for c in pair]


def _facts() -> list[Choice]:
    facts = load_world().everyday_facts
    return [
        Choice(fact.prompt, f" {fact.answer}", f" {facts[(n + 1) % len(facts)].answer}", chat=False)
        for n, fact in enumerate(facts)
        if fact.answer != facts[(n + 1) % len(facts)].answer
    ]
