"""What exp17's texts are made of, whichever model they are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_interp.model import Model
from mlx_interp.prompts import Prompt

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


Token: TypeAlias = tuple[Prompt, int, str, str, bool]
"""A prompt, a position, what the token there stands for, within what, and whether it is held out."""


@dataclass(frozen=True)
class Request:
    """Something a user asks for; its last token is the one before the reply."""

    prompt: Prompt
    harmful: bool
    language: str
    topic: str
    held_out: bool


class Source(Protocol):
    """Where texts come from: the embedded world, or what is written in this project."""

    def training(self, model: Model, seed: int, n_tasks: int) -> dict[str, list[Prompt]]:
        """Texts to train on, by group: two_hop, facts, task, chat."""
        ...

    def measured(self, model: Model, seed: int, n: int) -> tuple[list[Text], ...]:
        """Texts to measure on, by group, none of them trained on."""
        ...

    def entities(self, model: Model, seed: int) -> list[Token]:
        """Which state or country a subject belongs to, at its last token: where models resolve it."""
        ...

    def tasks(self, model: Model, seed: int) -> list[Token]:
        """Which task a prompt shows, at its last token; held-out prompts ask for other words."""
        ...

    def requests(self, model: Model) -> list[Request]:
        """Harmful and harmless requests of all languages."""
        ...
