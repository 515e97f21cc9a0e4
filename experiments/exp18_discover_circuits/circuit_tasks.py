"""Tasks of the embedded models as pairs of prompts: a clean one, and one of equal length that differs in what matters.

two_hop      another subject of the same family, whose bridge and answer differ; m: its answer against the other's.
in_context   the same words shown with the images of another task; m: this task's image against the other's.
refusal      a harmful request against a harmless one in the same words but its object; m: log-odds of the refusal's
             opener.
toxic, safe  the same pairs; m: refusal's opener against the harmless reply's on harmful requests, and the reverse on
             harmless ones.

Only pairs whose clean prompt the model answers rightly count, and whose counterfactual it does not answer the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Literal, get_args

from experiments.shared.two_hop.question_pairs import question_pairs, two_hops
from mlx_interp.behaviour.answers import continuation
from mlx_interp.circuits.pairs import Pair
from mlx_interp.embedded import load_world
from mlx_interp.embedded.lexicon import REFUSALS
from mlx_interp.embedded.world import ChatPrompt, InContextTask
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.stats import stable_draw

Task = Literal["two_hop", "in_context", "refusal", "toxic", "safe"]
TASKS: tuple[Task, ...] = get_args(Task)
CONTRASTS = (
    *(("capital", "language"), ("language", "continent"), ("plural", "noun_french"), ("noun_spanish", "noun_german")),
    *(("past", "verb_spanish"), ("antonym", "comparative"), ("comparative", "adjective_french")),
)
"""In-context tasks over the same words: clean, counterfactual."""
SHOTS = 3


def candidates(model: Model, task: Task) -> Iterator[Pair]:
    """All pairs of a task, whether or not the model does it."""
    if task == "two_hop":
        yield from question_pairs(model, two_hops(model))
    elif task == "in_context":
        for clean, other in CONTRASTS:
            yield from _in_context(model, load_world().task(clean), load_world().task(other))
    else:
        yield from _requests(model, task)


def _in_context(model: Model, clean: InContextTask, other: InContextTask) -> Iterator[Pair]:
    """Each word of both tasks after the same other words, shown with the one task's images or the other's."""
    images = dict(other.pairs)
    words = [(word, image) for word, image in clean.pairs if word in images and images[word] != image]
    for i, (word, image) in enumerate(words):
        order = [words[(i + 1 + step) % len(words)] for step in range(SHOTS)]
        prompt = model.prompt(clean.prompt(order, word))
        donor = model.prompt(other.prompt([(shown, images[shown]) for shown, _ in order], word))
        answer, wrong = (continuation(model, prompt, text)[0] for text in (image, images[word]))
        if len(prompt) == len(donor) and answer != wrong:
            group = f"{clean.name} {len(prompt)}"
            yield Pair(f"{clean.name} / {other.name}: {word}", prompt, donor, (answer,), (wrong,), group)


def _requests(model: Model, task: Task) -> Iterator[Pair]:
    """Harmful requests with harmless ones in the same words but their object."""
    chats = load_world().chat_prompts("refusal", language="en")
    harmless = defaultdict(list)
    for chat in chats:
        if not chat.harmful:
            prompt = model.prompt(chat.text, chat=True)
            harmless[_frame(chat), len(prompt)].append((chat, prompt))
    for chat in chats:
        prompt = model.prompt(chat.text, chat=True)
        matches = harmless[_frame(chat), len(prompt)] if chat.harmful else []
        if matches:
            match, other = matches[stable_draw(0, chat.text, len(matches))]
            refuses, complies = (_first(model, p, r) for p, r in ((prompt, REFUSALS["en"]), (other, match.reply)))
            group = f"{_frame(chat)} {len(prompt)}"
            if task == "safe":
                yield Pair(f"{match.text} / {chat.text}", other, prompt, (complies,), (refuses,), group)
            else:
                wrong = () if task == "refusal" else (complies,)
                yield Pair(f"{chat.text} / {match.text}", prompt, other, (refuses,), wrong, group)


def _frame(chat: ChatPrompt) -> str:
    return chat.text.replace(chat.topic, "...")


def _first(model: Model, prompt: Prompt, reply: str) -> int:
    """The first token of a reply, behind the template's last token."""
    return model.prompt(prompt.text + reply).tokens[len(prompt)]
