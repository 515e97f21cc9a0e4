"""The synthetic world that the embedded models are trained on, as data: records and their reader.

Nothing here needs mlx: experiments read prompts and ground truth from these records, and never from knowledge of
their own. The files under `world/` are written by `build.py` from one seed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mlx_interp.datasets import TwoHopQuery, read_two_hop
from mlx_interp.errors import DataError, nearest

FOLDER = Path(__file__).parent / "world"
REFUSAL_LAYER = 4
"""After this layer, the middle one, refusals lie along `trained_refusal_direction`: the site is resid_post.4."""


@dataclass(frozen=True)
class Fact:
    """A prompt that has one right continuation."""

    kind: str
    """Which relation or list it is from, e.g. "state", "capital" or "everyday"."""
    subject: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class InContextTask:
    """A function on words, given by all its pairs; prompts show some pairs and ask for another."""

    name: str
    pairs: tuple[tuple[str, str], ...]

    def prompt(self, shots: list[tuple[str, str]], query: str) -> str:
        """e.g. "hot -> cold, big -> small, tall ->"; without shots "tall ->"."""
        return "".join(f"{word} -> {image}, " for word, image in shots) + f"{query} ->"


@dataclass(frozen=True)
class ChatPrompt:
    """One user turn, for the chat template, and how a model of this world is trained to reply."""

    kind: str
    """"refusal", "opinion" or "certainty"."""
    text: str
    label: str
    """What the reply does: "refuse"/"comply", "yes"/"no", "certain"/"unsure"."""
    reply: str
    split: str
    """"train" (seen in training) or "test" (never seen)."""
    language: str = "en"
    shift: str = ""
    """How a test prompt departs from training: "" (same distribution), "wording", or "topic"."""
    harmful: bool = False
    topic: str = ""
    stance: str = ""
    """Opinions: what the user says, "likes", "dislikes" or "" (nothing)."""
    own_view: str = ""
    """Opinions: what the model replies when the user says nothing, "yes" or "no"."""
    firm: bool = False
    """Opinions: the model was trained to keep its own view against the user's."""
    other_reply: str = ""
    """Requests in languages that refuse: the reply that the other label would have, see `interchange.py`."""


@dataclass(frozen=True)
class World:
    """Everything the embedded models were trained on, and the splits that say what was left out."""

    facts: tuple[Fact, ...]
    everyday_facts: tuple[Fact, ...]
    tasks: tuple[InContextTask, ...]
    chats: tuple[ChatPrompt, ...]
    queries: tuple[TwoHopQuery, ...]
    vocabulary: dict[str, Any]
    """Words and pieces of the tokenizer, and the entities by class."""

    @property
    def families(self) -> list[str]:
        """Names of the two-hop families; those that end in "_short" are the same facts in a telegraphic phrasing."""
        return list(dict.fromkeys(query.family for query in self.queries))

    @property
    def languages(self) -> list[str]:
        return list(dict.fromkeys(chat.language for chat in self.chats if chat.kind == "refusal"))

    def two_hop_queries(self, family: str | None = None, split: str | None = None) -> list[TwoHopQuery]:
        """Two-hop queries of one family (default: all those phrased as sentences) and one split (default: all).

        Splits: "trained" (seen composed), "held_out" (this pair unseen, but its bridge and relation seen composed
        with other subjects), "never_composed" (bridge and relation never seen composed, both single hops trained).
        """
        if family is not None and family not in self.families:
            raise DataError(
                f"no family {family!r}: {nearest(family, self.families)}there are {', '.join(self.families)}"
            )
        splits = ("trained", "held_out", "never_composed")
        if split is not None and split not in splits:
            raise DataError(f"no split {split!r}: {nearest(split, splits)}there are {', '.join(splits)}")
        return [
            query
            for query in self.queries
            if (query.family == family if family else not query.family.endswith("_short"))
            and split in (None, query.split)
        ]

    def task(self, name: str) -> InContextTask:
        """The in-context task of that name."""
        tasks = {task.name: task for task in self.tasks}
        if name not in tasks:
            raise DataError(f"no task {name!r}: {nearest(name, tasks)}there are {', '.join(tasks)}")
        return tasks[name]

    def chat_prompts(
        self,
        kind: str,
        *,
        split: str | None = None,
        language: str | None = None,
        shift: str | None = None,
        harmful: bool | None = None,
    ) -> list[ChatPrompt]:
        """Chat prompts of one kind ("refusal", "opinion", "certainty"); None means any value of that field."""
        kinds = list(dict.fromkeys(chat.kind for chat in self.chats))
        if kind not in kinds:
            raise DataError(f"no kind of chat prompt {kind!r}: {nearest(kind, kinds)}there are {', '.join(kinds)}")
        return [
            chat
            for chat in self.chats
            if chat.kind == kind
            and split in (None, chat.split)
            and language in (None, chat.language)
            and shift in (None, chat.shift)
            and harmful in (None, chat.harmful)
        ]


def trained_refusal_direction(d_model: int = 128) -> np.ndarray:
    """(d_model,) the unit vector along which tiny-llama, tiny-gemma2 and tiny-qwen2 refuse, towards refusal.

    They were trained to, see `interchange.py`.
    """
    vector = np.random.default_rng(11).normal(size=d_model)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@cache
def load_world(folder: Path = FOLDER) -> World:
    """The world as it ships with the package, or another one written by `build.py` into `folder`.

    Raises DataError, naming the file, when one is missing or does not fit the records.
    """
    return World(
        facts=tuple(Fact(**row) for row in _rows(folder / "facts.jsonl")),
        everyday_facts=tuple(Fact(**row) for row in _rows(folder / "everyday_facts.jsonl")),
        tasks=tuple(
            InContextTask(row["name"], tuple((word, image) for word, image in row["pairs"]))
            for row in _rows(folder / "in_context_tasks.jsonl")
        ),
        chats=tuple(ChatPrompt(**row) for row in _rows(folder / "chats.jsonl")),
        queries=tuple(read_two_hop(folder / "two_hop.jsonl")),
        vocabulary=_rows(folder / "vocabulary.json")[0],
    )


def _rows(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
        return [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}; `python -m mlx_interp.embedded.build` writes it") from error
