"""Training rows: token ids and, at the positions that carry loss, the token to predict.

Four kinds of rows fill a batch: facts in a telegraphic phrasing ("Dallas state capital Austin."), facts as sentences
("The capital of the state containing Dallas is Austin."), in-context tasks, and chats. In sentences the bridge is
also a target at the subject's last token, as if the text went on "Dallas, Texas": without that pressure later layers
do not hold the bridge in a form that earlier layers can read.

A fifth kind are second hops alone ("The capital of Texas is Austin.") that leave out a random number of the lowest
layers (stochastic depth, as in Huang et al. 2016 and LayerDrop, Fan et al. 2020, on one kind of row): second hops
are then known not in the first layer alone, and a state patched into one of the next can still be looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_interp.datasets import TwoHopQuery
from mlx_interp.deferred import mx, transformers
from mlx_interp.embedded.tokenizer import ASSISTANT, END_OF_TURN, PAD, USER
from mlx_interp.embedded.world import ChatPrompt, InContextTask, World


@dataclass(frozen=True)
class Mixture:
    """Rows of each kind in one step."""

    short: int = 56
    sentences: int = 64
    second_hops: int = 32
    """Rows of second hops that enter the model at a random layer."""
    in_context: int = 40
    chats: int = 36
    two_hop_share: float = 0.6
    """Of the short rows and sentences, how many ask for a composition."""
    max_skip: int = 3
    """Up to how many of the lowest layers those second hops leave out."""
    everyday_share: float = 0.08
    """Of the sentence rows, how many are everyday facts or say what is dangerous."""
    max_shots: int = 6


@dataclass(frozen=True)
class Row:
    """tokens: ids, BOS included where there is one; targets: (position, id that should follow)."""

    tokens: tuple[int, ...]
    targets: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Batch:
    """Rows of one kind, padded on the right where causal attention cannot see it.

    tokens: (batch, pos) int32; positions: (n_targets,) int32 into the flattened tokens; targets: (n_targets,) int32.
    skip: how many of the lowest layers these rows leave out; through: what else is done to the layers for them, as
    a function of the layers that gives them changed, and a list to which they add terms of the loss as they run.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    skip: int = 0
    through: Callable[[Sequence[Any]], tuple[list[Any], list[mx.array]]] | None = None


class Corpus:
    """All rows of a world in one tokenizer, and a sampler: the batches of a step depend on seed and step alone."""

    def __init__(
        self, world: World, tokenizer: transformers.PreTrainedTokenizerFast, mixture: Mixture | None = None
    ) -> None:
        self.tokenizer, self.mixture = tokenizer, mixture or Mixture()
        self.pad_id = int(tokenizer.convert_tokens_to_ids(PAD))
        self.bos = tokenizer.encode("")  # [BOS], or [] in a family without one
        trained = [query for query in world.queries if query.split == "trained"]
        short = [query for query in trained if query.family.endswith("_short")]
        sentences = [query for query in trained if not query.family.endswith("_short")]
        everything = list(world.queries)
        self.short_two_hop = [self.completion(q.two_hop, q.answer) for q in short]
        self.sentence_two_hop = [self.completion(q.two_hop, q.answer, q) for q in sentences]
        self.short_facts = self._single_hops([q for q in everything if q.family.endswith("_short")])
        self.sentence_facts = self._single_hops([q for q in everything if not q.family.endswith("_short")])
        second = {q.second_hop: q.answer for q in everything}
        self.second_hops = [self.completion(prompt, answer) for prompt, answer in second.items()]
        plain = [*world.everyday_facts, *(fact for fact in world.facts if fact.kind == "danger")]
        self.everyday = [self.completion(fact.prompt, fact.answer) for fact in plain]
        self.tasks = [self._task(task) for task in world.tasks]
        chats = [chat for chat in world.chats if chat.split == "train"]
        self.chats = [[self.chat(c) for c in chats if c.kind == kind] for kind in ("refusal", "opinion", "certainty")]
        self.arrow, self.comma = self._ids("->"), self._ids(",")[-1:]

    def completion(self, prompt: str, answer: str, query: TwoHopQuery | None = None) -> Row:
        """The answer and a full stop are targets; with `query` also the bridge, at the subject's last token."""
        start = self.tokenizer.encode(prompt)
        tokens = self.tokenizer.encode(f"{prompt} {answer}.")
        targets = [(i - 1, tokens[i]) for i in range(len(start), len(tokens))]
        if query is not None:
            subject = len(self.tokenizer.encode(prompt[: prompt.index(query.subject) + len(query.subject)])) - 1
            targets.append((subject, self._ids(query.bridge)[0]))
        return Row(tuple(tokens[:-1]), tuple(targets))

    def chat(self, chat: ChatPrompt) -> Row:
        """The whole reply, its end of turn included, is the target."""
        text = f"{USER}{chat.text}{END_OF_TURN}{ASSISTANT}"
        start = self.tokenizer.encode(text)
        tokens = self.tokenizer.encode(f"{text}{chat.reply}{END_OF_TURN}")
        return Row(tuple(tokens[:-1]), tuple((i - 1, tokens[i]) for i in range(len(start), len(tokens))))

    def batches(self, step: int, seed: int, mixture: Mixture | None = None) -> list[Batch]:
        """One batch of each kind of row, in the corpus's own mixture or in another."""
        rng = np.random.default_rng([seed, step])
        mix = mixture or self.mixture
        n_everyday = round(mix.sentences * mix.everyday_share)
        short = self._facts(rng, mix.short, self.short_two_hop, self.short_facts)
        sentences = self._facts(rng, mix.sentences - n_everyday, self.sentence_two_hop, self.sentence_facts)
        sentences += draw(rng, self.everyday, n_everyday)
        shares = (mix.chats // 2, mix.chats // 6, mix.chats - mix.chats // 2 - mix.chats // 6)
        chats = [row for rows, n in zip(self.chats, shares, strict=True) for row in draw(rng, rows, n)]
        groups = [short, sentences, self._in_context(rng, mix.in_context), chats]
        skip = int(rng.integers(mix.max_skip + 1))
        second_hops = pad(draw(rng, self.second_hops, mix.second_hops), self.pad_id, skip)
        return [*(pad(rows, self.pad_id) for rows in groups), second_hops]

    def _facts(self, rng: np.random.Generator, n: int, two_hop: list[Row], facts: list[Row]) -> list[Row]:
        n_two_hop = round(n * self.mixture.two_hop_share)
        return draw(rng, two_hop, n_two_hop) + draw(rng, facts, n - n_two_hop)

    def _single_hops(self, queries: list[TwoHopQuery]) -> list[Row]:
        rows: dict[str, Row] = {}
        for q in queries:
            asks_at_subject = q if not q.family.endswith("_short") else None
            rows.setdefault(q.first_hop, self.completion(q.first_hop, q.bridge, asks_at_subject))
            rows.setdefault(q.second_hop, self.completion(q.second_hop, q.answer))
        return list(rows.values())

    def _task(self, task: InContextTask) -> list[tuple[list[int], list[int]]]:
        return [(self._ids(word), self._ids(image)) for word, image in task.pairs]

    def _in_context(self, rng: np.random.Generator, n: int) -> list[Row]:
        sizes = np.array([len(task) for task in self.tasks], dtype=float)
        picks = rng.choice(len(self.tasks), n, p=sizes / sizes.sum())
        rows = []
        for pick in picks:
            order = rng.permutation(len(self.tasks[pick]))[: self.mixture.max_shots]
            rows.append(self._shots([self.tasks[pick][i] for i in order]))
        return rows

    def _shots(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Row:
        tokens, targets = list(self.bos), []
        for word, image in pairs:
            tokens += word + self.arrow
            for token in image:
                targets.append((len(tokens) - 1, token))
                tokens.append(token)
            tokens += self.comma
        return Row(tuple(tokens[:-2]), tuple(targets))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def pad(rows: Sequence[Row], pad_id: int, skip: int = 0) -> Batch:
    """Rows as one array, padded on the right."""
    width = max(len(row.tokens) for row in rows)
    tokens = np.full((len(rows), width), pad_id, dtype=np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row.tokens)] = row.tokens
    pairs = [(i * width + position, target) for i, row in enumerate(rows) for position, target in row.targets]
    positions, targets = np.array(pairs, dtype=np.int32).T
    return Batch(tokens, positions, targets, skip)


def draw(rng: np.random.Generator, rows: list[Row], n: int) -> list[Row]:
    return [rows[i] for i in rng.integers(len(rows), size=n)]
