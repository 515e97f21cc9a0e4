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

from experiments.exp18_discover_circuits.contrasted_words import contrasted
from experiments.shared.two_hop.question_pairs import question_pairs, two_hops
from mlx_interp.circuits.pairs import Pair
from mlx_interp.embedded import load_world
from mlx_interp.embedded.lexicon import REFUSALS
from mlx_interp.embedded.world import ChatPrompt
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
        for names in CONTRASTS:
            clean, other = (load_world().task(name) for name in names)
            images = dict(clean.pairs), dict(other.pairs)
            yield from contrasted(model, names, images, clean.prompt, shots=SHOTS)
    else:
        yield from _requests(model, task)


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
