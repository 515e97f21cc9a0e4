"""Texts of this project for trained models: facts, in-context prompts, requests, questions and opinions.

What autoencoders, transcoders and lenses of trained models are trained and measured on unless a file is given: short
sentences of known meaning, about 150,000 tokens in all languages. Too few for a dictionary of a large model, enough to
see at home what a method costs and whether it finds what is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from experiments.data.function_answers import TASKS, read_pairs
from experiments.data.single_facts import real_queries
from experiments.data.written import LANGUAGES, read
from mlx_interp.in_context.demonstrations import QUESTIONS
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt

IN_CONTEXT = (
    *("antonym", "comparative", "superlative", "present-past", "present-gerund", "plural", "english-french"),
    *("english-spanish", "english-german", "country-capital", "country-language", "next_item", "prev_item"),
    *("alphabetically_first_3", "uppercase", "first_letter"),
)
"""Function tasks that in-context prompts are drawn from."""
SHOTS = 4


@dataclass(frozen=True)
class ProjectText:
    """One text; `answer` is what follows its prompt, where anything is known to."""

    kind: str
    prompt: str
    answer: str = ""
    label: str = ""
    """What it is of its kind: the bridge of a fact, the task, harmful or harmless."""
    subject: str = ""
    """What must not be in two halves of the texts: the subject of a fact, the word asked of a task."""
    language: str = "en"
    chat: bool = False
    """Whether it is something that a user says."""
    split: str = ""
    """train, choose or test, for those that are written in splits."""

    @property
    def text(self) -> str:
        """The whole of it."""
        return f"{self.prompt} {self.answer}".strip()


@cache
def facts() -> tuple[ProjectText, ...]:
    """Single facts, each once, e.g. "The capital of Texas is Austin."."""
    found = {
        query.second_hop: ProjectText("facts", query.second_hop, f"{query.answer}.", query.answer, query.bridge)
        for query in real_queries()
    }
    return tuple(found.values())


@cache
def two_hops() -> tuple[ProjectText, ...]:
    """Two-hop facts with their bridge as label, e.g. "The capital of the state containing Dallas is Austin."."""
    return tuple(
        ProjectText("two hops", query.two_hop, f"{query.answer}.", query.bridge, query.subject)
        for query in real_queries()
    )


@cache
def requests(language: str | None = None) -> tuple[ProjectText, ...]:
    """Harmful and harmless requests in one language, or in all of them; both of a pair have its topic as subject."""
    return tuple(
        ProjectText("requests", text, "", label, pair.topic, each, chat=True, split=pair.split)
        for each in LANGUAGES
        if language in (None, each)
        for pair in read(each).requests
        for label, text in (("harmful", pair.harmful), ("harmless", pair.harmless))
    )


@cache
def questions(language: str = "en") -> tuple[ProjectText, ...]:
    """Questions that can be answered, and ones that cannot."""
    return tuple(
        ProjectText("questions", text, "", label, str(pair.n), language, chat=True, split=pair.split)
        for pair in read(language).questions
        for label, text in (("certain", pair.certain), ("unsure", pair.unsure))
    )


@cache
def opinions(language: str = "en", frame: str = "stated") -> tuple[ProjectText, ...]:
    """Things that people like or dislike: stated or asked, or with the user's likes or dislikes."""
    written = read(language)
    return tuple(
        ProjectText("opinions", written.frames.around(frame, one), "", one.topic, one.topic, language, True, one.split)
        for one in written.opinions
    )


def said(model: Model, text: str) -> Prompt:
    """What a user says, in the model's chat template if it has one."""
    return model.prompt(text, chat=bool(getattr(model.tokenizer, "chat_template", None)))


def prompt_of(model: Model, one: ProjectText) -> Prompt:
    """A whole text as a model reads it."""
    return said(model, one.text) if one.chat else model.prompt(one.text)


def in_context(n: int, seed: int, *, shots: int = SHOTS, tasks: Sequence[str] = IN_CONTEXT) -> list[ProjectText]:
    """In-context prompts, tasks taking turns, examples and query drawn by the seed."""
    rng = np.random.default_rng([seed, n])
    pairs = {name: read_pairs(TASKS / f"{name}.json") for name in tasks}
    found = []
    for number in range(n):
        name = tasks[number % len(tasks)]
        chosen = [pairs[name][i] for i in rng.permutation(len(pairs[name]))[: shots + 1]]
        *examples, (word, image) = chosen
        found.append(ProjectText("in context", QUESTIONS.prompt(examples, word), image, name, word))
    return found


def english(n_in_context: int = 400, seed: int = 0) -> list[ProjectText]:
    """All texts in English, kind after kind."""
    return [*two_hops(), *in_context(n_in_context, seed), *sentences()]


def sentences() -> list[ProjectText]:
    """Facts, requests, questions and opinions in English: what is one sentence."""
    return [*facts(), *requests("en"), *questions(), *opinions()]
