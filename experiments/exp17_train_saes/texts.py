"""The texts of exp17: what autoencoders are trained on, what they are measured on, and tokens whose meaning is known.

Nothing that is measured was trained on: subjects of two-hop facts are split in halves, requests as the world splits
them, and in-context prompts are drawn anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experiments.harness.experiment import ExperimentConfig
from experiments.harness.state import Run, of_run
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.embedded import load_world
from mlx_interp.embedded.world import ChatPrompt, InContextTask
from mlx_interp.errors import DataError
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.sae import activations
from mlx_interp.stats import stable_draw

SHOTS = 4
GROUPS = ("entity", "task", "harmful", "language")


@dataclass(frozen=True)
class Text:
    """A text with the first position whose next token is scored."""

    prompt: Prompt
    start: int
    group: str


@dataclass(frozen=True)
class Labelled:
    """Tokens of known meaning: each is one position of a prompt."""

    group: str
    prompts: list[Prompt]
    positions: list[int]
    labels: list[str]
    within: list[str]
    """What is told apart within what: harmful from harmless within a language; "" elsewhere."""
    held_out: npt.NDArray[np.bool_]

    def concepts(self, rows: npt.NDArray[np.bool_]) -> list[str]:
        """Labels that both halves of some rows show."""
        halves = [set(np.array(self.labels)[rows & half]) for half in (self.held_out, ~self.held_out)]
        return sorted((halves[0] & halves[1]) - {"harmless"})


def check_embedded(model: Model) -> None:
    """Raises DataError for a model whose world is not known."""
    if model.name not in EMBEDDED:
        raise DataError(f"exp17 has texts of known meaning for embedded models ({', '.join(EMBEDDED)}) only so far")


def is_held_out(query: TwoHopQuery, seed: int) -> bool:
    return stable_draw(seed, query.subject, 2) == 1


def task_prompts(model: Model, tasks: Sequence[InContextTask], n: int, seed: int) -> list[tuple[Text, str]]:
    """In-context prompts with their answer, and the task of each."""
    rng = np.random.default_rng([seed, n])
    found = []
    for number in range(n):
        task = tasks[number % len(tasks)]
        *shots, (word, image) = (task.pairs[i] for i in rng.permutation(len(task.pairs))[: SHOTS + 1])
        asked = task.prompt(shots, word)
        whole = model.prompt(f"{asked} {image}")
        found.append((Text(whole, len(model.prompt(asked)) - 1, "task"), task.name))
    return found


def queries(model: Model, *, held_out: bool, seed: int) -> list[Text]:
    """Two-hop sentences with their answers; for measuring, those that the model was trained to complete."""
    found = []
    for query in load_world().queries:
        if is_held_out(query, seed) != held_out or (held_out and query.split != "trained"):
            continue
        whole = model.prompt(f"{query.two_hop} {query.answer}.")
        found.append(Text(whole, len(model.prompt(query.two_hop)) - 1, "two_hop"))
    return found


def chats(model: Model, *, split: str) -> list[Text]:
    """Chat prompts followed by the reply that the model was trained to give."""
    found = []
    for chat in load_world().chats:
        if chat.split == split:
            asked = model.prompt(chat.text, chat=True)
            reply = model.tokenizer.encode(chat.reply, add_special_tokens=False)
            whole = model.prompts([[*asked.tokens, *reply]])[0]
            found.append(Text(whole, len(asked) - 1, "chat"))
    return found


@of_run(4)
def training_prompts(run: Run[ExperimentConfig], seed: int, n_tasks: int, only: str = "") -> tuple[Prompt, ...]:
    """Texts to train on; only: those of one group."""
    model = run.model
    check_embedded(model)
    world = load_world()
    groups = {
        "two_hop": [text.prompt for text in queries(model, held_out=False, seed=seed)],
        "facts": [model.prompt(f"{f.prompt} {f.answer}.") for f in (*world.facts, *world.everyday_facts)],
        "task": [text.prompt for text, _ in task_prompts(model, world.tasks, n_tasks, seed)],
        "chat": [text.prompt for text in chats(model, split="train")],
    }
    return tuple(prompt for name, prompts in groups.items() if only in ("", name) for prompt in prompts)


@of_run(4)
def measured_texts(run: Run[ExperimentConfig], seed: int, n: int) -> tuple[Text, ...]:
    """Texts to measure on, evenly from all groups, none of them trained on."""
    model = run.model
    check_embedded(model)
    tasks = [text for text, _ in task_prompts(model, load_world().tasks, n, seed + 1)]
    groups = (queries(model, held_out=True, seed=seed), tasks, chats(model, split="test"))
    rng = np.random.default_rng(seed)
    each = -(-n // len(groups))
    return tuple(group[i] for group in groups for i in sorted(rng.permutation(len(group))[:each]))


def labelled(run: Run[ExperimentConfig], group: str, most: int) -> Labelled:
    """Tokens of a group with their labels; at most `most` of each label."""
    found = {"entity": _entities, "task": _tasks, "harmful": _harmful, "language": _languages}[group](run)
    seen: dict[tuple[str, str, bool], int] = {}
    kept = []
    for token in found:
        cell = token[2:]
        seen[cell] = seen.get(cell, 0) + 1
        if seen[cell] <= most:
            kept.append(token)
    prompts, positions, labels, within, out = (list(column) for column in zip(*kept, strict=True))
    return Labelled(group, prompts, positions, labels, within, np.array(out))


Token = tuple[Prompt, int, str, str, bool]


def _entities(run: Run[ExperimentConfig]) -> list[Token]:
    """Which state a city lies in, at the city's last token: that is where these models resolve it."""
    found = []
    for query in load_world().queries:
        if query.family.startswith("state") and not query.family.endswith("_short"):
            prompt = run.model.prompt(query.two_hop)
            found.append(
                (prompt, prompt.find(query.subject)[-1], query.bridge, "", is_held_out(query, run.config.seed))
            )
    return found


def _tasks(run: Run[ExperimentConfig]) -> list[Token]:
    """Which task a prompt shows, at its last arrow; held-out prompts ask for other words."""
    tasks = load_world().tasks
    found = task_prompts(run.model, tasks, 40 * len(tasks), run.config.seed + 2)
    return [
        (text.prompt, text.start, name, "", stable_draw(run.config.seed, text.prompt.tokens[text.start - 1], 2) == 1)
        for text, name in found
    ]


def _harmful(run: Run[ExperimentConfig]) -> list[Token]:
    """Whether a request is harmful, within each language, at the last token before the reply."""
    return [
        (prompt, len(prompt) - 1, "harmful" if chat.harmful else "harmless", chat.language, chat.split == "test")
        for prompt, chat in _requests(run.model)
    ]


def _languages(run: Run[ExperimentConfig]) -> list[Token]:
    """The language of a request, at the same token."""
    return [(prompt, len(prompt) - 1, chat.language, "", chat.split == "test") for prompt, chat in _requests(run.model)]


def _requests(model: Model) -> list[tuple[Prompt, ChatPrompt]]:
    chosen = load_world().chat_prompts("refusal", shift="")
    return [(model.prompt(chat.text, chat=True), chat) for chat in chosen]


def rows_of(model: Model, chosen: Labelled, site: str) -> npt.NDArray[np.float32]:
    """The activation of every labelled token, (n, width)."""
    order = sorted(range(len(chosen.prompts)), key=lambda i: len(chosen.prompts[i]))
    found: dict[int, npt.NDArray[np.float32]] = {}
    for start in range(0, len(order), 64):
        some = order[start : start + 64]
        out = np.asarray(model.run([chosen.prompts[i] for i in some], capture=[site], logits="none")[site])
        for row, i in enumerate(some):
            found[i] = out[row, chosen.positions[i]].reshape(-1).astype(np.float32)
    return np.stack([found[i] for i in range(len(order))])


@of_run(4)
def training_rows(
    run: Run[ExperimentConfig], site: str, seed: int, n_tasks: int, only: str = ""
) -> npt.NDArray[np.float32]:
    """Activations to train on, (n_tokens, width)."""
    return activations(run.model, training_prompts(run, seed, n_tasks, only), site)


@of_run(4)
def measured_rows(run: Run[ExperimentConfig], site: str, seed: int, n: int) -> npt.NDArray[np.float32]:
    """Activations to measure on, (n_tokens, width)."""
    return activations(run.model, [text.prompt for text in measured_texts(run, seed, n)], site)
