"""Texts for trained models: this project's facts, in-context prompts and requests.

Every token of a held-out text is scored, as is usual where no answer was trained: from the second one on, in requests
from the user's first one on.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.exp17_train_saes.text_kinds import Request, Text, Token
from experiments.shared import project_texts
from experiments.shared.project_texts import IN_CONTEXT, ProjectText, prompt_of
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.stats import stable_draw

PROMPTS_OF_A_TASK = 40
REQUESTS = 800
"""Requests to train on, at most; languages take turns."""


def training(model: Model, seed: int, n_tasks: int) -> dict[str, list[Prompt]]:
    asked = [one for one in project_texts.requests() if one.split != "test"]
    return {
        "two_hop": [prompt_of(model, one) for one in project_texts.two_hops() if not _is_held_out(one, seed)],
        "facts": [prompt_of(model, one) for one in project_texts.facts()],
        "task": [prompt_of(model, one) for one in project_texts.in_context(n_tasks, seed)],
        "chat": [prompt_of(model, one) for one in _in_turns(asked, REQUESTS)],
    }


def measured(model: Model, seed: int, n: int) -> tuple[list[Text], ...]:
    queries = [one for one in project_texts.two_hops() if _is_held_out(one, seed)]
    asked = [one for one in project_texts.requests() if one.split == "test"]
    return (
        [Text(prompt_of(model, one), 1, "two_hop") for one in queries],
        [Text(prompt_of(model, one), 1, "task") for one in project_texts.in_context(n, seed + 1)],
        [_after_template(model, one) for one in asked],
    )


def entities(model: Model, seed: int) -> list[Token]:
    """Which state or country a subject belongs to: of places, people, works and dishes."""
    found: dict[tuple[str, str], Token] = {}
    for one in project_texts.two_hops():
        if (one.subject, one.label) not in found:
            prompt = model.prompt(one.prompt)
            where = prompt.find(one.subject)[-1]
            found[one.subject, one.label] = (prompt, where, one.label, "", _is_held_out(one, seed))
    return list(found.values())


def tasks(model: Model, seed: int) -> list[Token]:
    found = []
    for one in project_texts.in_context(PROMPTS_OF_A_TASK * len(IN_CONTEXT), seed + 2):
        prompt = model.prompt(one.prompt)
        found.append((prompt, len(prompt) - 1, one.label, "", _is_held_out(one, seed)))
    return found


def requests(model: Model) -> list[Request]:
    return [
        Request(prompt_of(model, one), one.label == "harmful", one.language, one.subject, one.split == "test")
        for one in project_texts.requests()
    ]


def _after_template(model: Model, one: ProjectText) -> Text:
    """A request, scored from its second token on: no template's token is."""
    prompt = prompt_of(model, one)
    return Text(prompt, max(1, prompt.find(one.text)[0]), "chat")


def _is_held_out(one: ProjectText, seed: int) -> bool:
    return stable_draw(seed, one.subject, 2) == 1


def _in_turns(found: Sequence[ProjectText], most: int) -> list[ProjectText]:
    """The first of each language, then the second, and so on."""
    seen: dict[str, int] = {}
    turns = []
    for number, one in enumerate(found):
        turns.append((seen.get(one.language, 0), number))
        seen[one.language] = turns[-1][0] + 1
    return [found[number] for _, number in sorted(turns)[:most]]
