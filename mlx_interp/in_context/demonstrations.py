"""In-context prompts: a task's pairs, how they are written, and what each token of a prompt is there for.

1. A task is pairs of words. What would make its figures misleading is counted, not hidden: pairs given twice, inputs
   with two answers, answers that begin with the same token, one answer for most inputs.
2. A template writes examples and the query; `pieces` says which stretch of the text is input, cue, label or separator.
3. Tokens get their roles from character offsets of the whole prompt (Todd et al. 2024 count tokens of the parts, which
   fails where a tokenizer merges across their borders); such merged tokens are reported.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mlx_interp.behaviour.answers import question
from mlx_interp.errors import DataError
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt

Pair = tuple[str, str]
Corruption = Literal["shuffled", "foreign"]
Role = Literal["bos", "prefix", "input", "cue", "label", "separator", "query", "query cue"]
ROLES: tuple[Role, ...] = ("bos", "prefix", "input", "cue", "label", "separator", "query", "query cue")


@dataclass(frozen=True)
class Piece:
    """A stretch of a prompt; the query's own pieces have the number -1, examples count from 0."""

    role: Role
    text: str
    example: int


@dataclass(frozen=True)
class Template:
    """Template of examples and query; the query ends where the answer begins."""

    example: str = "Q: {input}\nA: {output}\n\n"
    query: str = "Q: {input}\nA:"

    def prompt(self, shots: Sequence[Pair], query: str) -> str:
        """The whole prompt, without a space at its end."""
        return "".join(piece.text for piece in self.pieces(shots, query))

    def pieces(self, shots: Sequence[Pair], query: str) -> Iterator[Piece]:
        """The prompt, cut by what each part is for."""
        prefix, rest = self.example.split("{input}")
        cue, separator = rest.split("{output}")
        for number, (x, y) in enumerate(shots):
            yield Piece("prefix", prefix, number)
            yield Piece("input", x, number)
            yield Piece("cue", cue, number)
            yield Piece("label", y, number)
            yield Piece("separator", separator, number)
        before, after = self.query.split("{input}")
        yield Piece("prefix", before, -1)
        yield Piece("query", query, -1)
        yield Piece("query cue", after, -1)


QUESTIONS = Template()
ARROW = Template("{input} -> {output}, ", "{input} ->")


@dataclass(frozen=True)
class FunctionTask:
    """A mapping of words to words, by examples.

    Raises DataError for fewer than four pairs, an input with two answers, or an empty word; pairs given twice count
    once.
    """

    name: str
    pairs: tuple[Pair, ...]
    conflicts: int = 0
    """Pairs that were left out, as their input has another answer already (`consistent`)."""
    repeats: int = 0
    """Pairs that were given again."""

    def __post_init__(self) -> None:
        answers: dict[str, str] = {}
        for number, (x, y) in enumerate(self.pairs, 1):
            if not x.strip() or not y.strip():
                raise DataError(f"task {self.name!r}: pair {number} has an empty word: {x!r}, {y!r}")
            if answers.setdefault(x, y) != y:
                raise DataError(
                    f"task {self.name!r}: {x!r} has two answers, {answers[x]!r} and {y!r}; keep one "
                    "(FunctionTask.consistent keeps the first)"
                )
        if len(answers) < 4:
            raise DataError(f"task {self.name!r} has {len(answers)} different pairs; four or more are needed")
        if len(answers) < len(self.pairs):
            object.__setattr__(self, "repeats", self.repeats + len(self.pairs) - len(answers))
            object.__setattr__(self, "pairs", tuple(answers.items()))

    @classmethod
    def consistent(cls, name: str, pairs: Sequence[Pair]) -> FunctionTask:
        """A task from pairs that may contradict each other, as published files do: the first answer of an input stays,
        the others are counted in `conflicts`."""
        first: dict[str, str] = {}
        for x, y in pairs:
            first.setdefault(x, y)
        kept = tuple((x, y) for x, y in pairs if first[x] == y)
        return cls(name, kept, conflicts=len(pairs) - len(kept))

    def split(self, seed: int) -> tuple[FunctionTask, FunctionTask]:
        """Two halves of the pairs: heads and means come from the first, figures from the second."""
        order = np.random.default_rng(seed).permutation(len(self.pairs))
        halves = [tuple(self.pairs[i] for i in sorted(part)) for part in np.array_split(order, 2)]
        return replace(self, pairs=halves[0]), replace(self, pairs=halves[1])


@dataclass(frozen=True)
class Examples:
    """An in-context prompt with its right answer."""

    task: str
    text: str
    query: str
    answer: str
    pieces: tuple[Piece, ...] = ()


def in_context(
    task: FunctionTask, query: Pair, shots: Sequence[Pair], n_shots: int, template: Template, rng: np.random.Generator
) -> Examples:
    """A query behind `n_shots` examples of the task, drawn without replacement; never the query's own pair.

    Raises DataError where there are too few.
    """
    return _examples(task, query, _chosen(task, query, shots, n_shots, rng), template)


def corrupted(
    task: FunctionTask,
    query: Pair,
    shots: Sequence[Pair],
    n_shots: int,
    template: Template,
    rng: np.random.Generator,
    how: Corruption = "shuffled",
    foreign: Sequence[str] = (),
) -> Examples:
    """The same with labels that do not belong to their inputs.

    how: "shuffled" permutes the examples' own labels (the paper's way); "foreign" draws them from `foreign`, labels of
    other tasks, for models that recognise a task by its labels alone. Raises DataError where there are none of those,
    or too few examples.
    """
    if how == "foreign" and not foreign:
        raise DataError(f"task {task.name!r}: labels of other tasks are asked for, and there is no other task")
    chosen = _chosen(task, query, shots, n_shots, rng)
    if how == "shuffled":
        labels = [chosen[i][1] for i in rng.permutation(len(chosen))]
    else:
        labels = [foreign[i] for i in rng.integers(0, len(foreign), len(chosen))]
    return _examples(task, query, [(x, label) for (x, _), label in zip(chosen, labels, strict=True)], template)


def _chosen(
    task: FunctionTask, query: Pair, shots: Sequence[Pair], n_shots: int, rng: np.random.Generator
) -> list[Pair]:
    others = [pair for pair in shots if pair[0] != query[0]]
    if len(others) < n_shots:
        raise DataError(f"task {task.name!r}: {n_shots} examples are asked for, {len(others)} other pairs are there")
    return [others[i] for i in rng.permutation(len(others))[:n_shots]]


def _examples(task: FunctionTask, query: Pair, shots: Sequence[Pair], template: Template) -> Examples:
    pieces = tuple(template.pieces(shots, query[0]))
    return Examples(task.name, "".join(piece.text for piece in pieces), *query, pieces)


@dataclass(frozen=True)
class Token:
    """Role of one token of an in-context prompt."""

    role: Role
    example: int
    merged: bool
    """It reaches over a border of two pieces, by more than the space before a word."""


def token_roles(prompt: Prompt, pieces: Sequence[Piece]) -> list[Token]:
    """Each token's role: that of the piece its last visible character is in, by offsets in the whole text.

    Raises DataError for pieces that are not the prompt's text.
    """
    if "".join(piece.text for piece in pieces) != prompt.text:
        raise DataError(f"the pieces do not make up the prompt {prompt.text!r}")
    at = [piece for piece in pieces for _ in piece.text]
    owner = [number for number, piece in enumerate(pieces) for _ in piece.text]
    found = []
    for low, high in prompt.spans:
        if low == high:
            found.append(Token("bos", -1, False))
            continue
        visible = [i for i in range(low, high) if not prompt.text[i].isspace()]
        piece = at[visible[-1] if visible else low]
        start = low + (prompt.text[low] == " " and high > low + 1)
        found.append(Token(piece.role, piece.example, len(set(owner[start:high])) > 1))
    return found


def positions(roles: Sequence[Token], role: Role, example: int | None = None) -> list[int]:
    """Positions of a role's tokens, of one example (negative: from the last one back), or of all."""
    n = 1 + max((token.example for token in roles), default=-1)
    wanted = None if example is None or role.startswith("query") else example % n if n else -2
    return [i for i, t in enumerate(roles) if t.role == role and wanted in (None, t.example)]


@dataclass(frozen=True)
class Separators:
    """Tokenisation of the separator between an answer and the next example."""

    tokens: tuple[str, ...]
    """The most frequent cut."""
    forms: int
    """How many different cuts there are."""
    merged: float
    """Share of answers whose last token takes a part of the separator along."""

    @property
    def warning(self) -> str:
        """What a reader should know; empty where the separator is one token of its own everywhere."""
        cut = " ".join(repr(token) for token in self.tokens)
        if self.merged:
            return (
                f"the tokenizer merges the separator with {self.merged:.0%} of the answers (else: {cut or 'no token'})"
            )
        if len(self.tokens) != 1 or self.forms > 1:
            ways = f", one of {self.forms} ways" if self.forms > 1 else ""
            return f"the tokenizer cuts the separator into {len(self.tokens)} tokens ({cut}){ways}"
        return ""


def separators(model: Model, task: FunctionTask, template: Template, most: int = 20) -> Separators:
    """How the separator is tokenised behind a task's answers, the first `most` of them."""
    cuts: Counter[tuple[str, ...]] = Counter()
    merged = 0
    chosen = task.pairs[:most]
    for n, pair in enumerate(chosen):
        pieces = tuple(template.pieces([pair], task.pairs[n - 1][0]))
        prompt = model.prompt("".join(piece.text for piece in pieces))
        roles = token_roles(prompt, pieces)
        cuts[tuple(prompt.strings[i] for i in positions(roles, "separator"))] += 1
        merged += any(t.merged and t.role in ("label", "separator") for t in roles)
    return Separators(cuts.most_common(1)[0][0], len(cuts), merged / len(chosen))


def first_tokens_shared(model: Model, task: FunctionTask, template: Template) -> float:
    """Share of a task's answers whose first token is that of another answer: scoring by first token cannot tell them
    apart. Answers are tokenised as they follow a query."""
    firsts = [question(model, template.query.format(input=x), [y]).first_tokens[0] for x, y in task.pairs]
    answers = {y: first for (_, y), first in zip(task.pairs, firsts, strict=True)}
    return 1 - len(set(answers.values())) / len(answers)


def most_frequent_answer(task: FunctionTask) -> float:
    """Share of pairs with the commonest answer: what always giving it would score."""
    return Counter(y for _, y in task.pairs).most_common(1)[0][1] / len(task.pairs)


def warn_of(model: Model, task: FunctionTask, template: Template) -> None:
    """UserWarning for what makes a task's figures by first token misleading with this tokenizer."""
    if found := separators(model, task, template).warning:
        warnings.warn(f"task {task.name!r}: {found}", stacklevel=3)
    if (shared := first_tokens_shared(model, task, template)) > 0.3:
        warnings.warn(
            f"task {task.name!r}: {shared:.0%} of the answers begin with the token of another one: first tokens cannot "
            "tell them apart; score whole answers",
            stacklevel=3,
        )
