"""Texts of the embedded world: two hops, single facts, in-context prompts, and chats with their replies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.exp17_train_saes.text_kinds import Request, Text, Token
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.embedded import load_world
from mlx_interp.embedded.world import InContextTask
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.stats import stable_draw

SHOTS = 4


def training(model: Model, seed: int, n_tasks: int) -> dict[str, list[Prompt]]:
    world = load_world()
    return {
        "two_hop": [text.prompt for text in _queries(model, held_out=False, seed=seed)],
        "facts": [model.prompt(f"{f.prompt} {f.answer}.") for f in (*world.facts, *world.everyday_facts)],
        "task": [text.prompt for text, _ in _task_prompts(model, world.tasks, n_tasks, seed)],
        "chat": [text.prompt for text in _chats(model, split="train")],
    }


def measured(model: Model, seed: int, n: int) -> tuple[list[Text], ...]:
    shown = [text for text, _ in _task_prompts(model, load_world().tasks, n, seed + 1)]
    return _queries(model, held_out=True, seed=seed), shown, _chats(model, split="test")


def entities(model: Model, seed: int) -> list[Token]:
    found = []
    for query in load_world().queries:
        if query.family.startswith("state") and not query.family.endswith("_short"):
            prompt = model.prompt(query.two_hop)
            found.append((prompt, prompt.find(query.subject)[-1], query.bridge, "", _is_held_out(query, seed)))
    return found


def tasks(model: Model, seed: int) -> list[Token]:
    known = load_world().tasks
    return [
        (text.prompt, text.start, name, "", stable_draw(seed, text.prompt.tokens[text.start - 1], 2) == 1)
        for text, name in _task_prompts(model, known, 40 * len(known), seed + 2)
    ]


def requests(model: Model) -> list[Request]:
    return [
        Request(model.prompt(chat.text, chat=True), bool(chat.harmful), chat.language, chat.topic, chat.split == "test")
        for chat in load_world().chat_prompts("refusal", shift="")
    ]


def _is_held_out(query: TwoHopQuery, seed: int) -> bool:
    return stable_draw(seed, query.subject, 2) == 1


def _task_prompts(model: Model, known: Sequence[InContextTask], n: int, seed: int) -> list[tuple[Text, str]]:
    """In-context prompts with their answer, and the task of each."""
    rng = np.random.default_rng([seed, n])
    found = []
    for number in range(n):
        task = known[number % len(known)]
        *shots, (word, image) = (task.pairs[i] for i in rng.permutation(len(task.pairs))[: SHOTS + 1])
        asked = task.prompt(shots, word)
        whole = model.prompt(f"{asked} {image}")
        found.append((Text(whole, len(model.prompt(asked)) - 1, "task"), task.name))
    return found


def _queries(model: Model, *, held_out: bool, seed: int) -> list[Text]:
    """Two-hop sentences with their answers; for measuring, those that the model was trained to complete."""
    found = []
    for query in load_world().queries:
        if _is_held_out(query, seed) != held_out or (held_out and query.split != "trained"):
            continue
        whole = model.prompt(f"{query.two_hop} {query.answer}.")
        found.append(Text(whole, len(model.prompt(query.two_hop)) - 1, "two_hop"))
    return found


def _chats(model: Model, *, split: str) -> list[Text]:
    """Chat prompts followed by the reply that the model was trained to give."""
    found = []
    for chat in load_world().chats:
        if chat.split == split:
            asked = model.prompt(chat.text, chat=True)
            reply = model.tokenizer.encode(chat.reply, add_special_tokens=False)
            whole = model.prompts([[*asked.tokens, *reply]])[0]
            found.append(Text(whole, len(asked) - 1, "chat"))
    return found
