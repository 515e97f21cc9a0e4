"""Answers of a model: by the first token of an accepted name, and by the whole name, decoded greedily.

1. An accepted name is tokenised as the prompt's continuation, so that its first token is the one the model would write
   (behind a space only where the writing has one: not behind a quote or a newline, not in Chinese).
2. First-token criterion: the best of the accepted first tokens has the highest logit.
3. Whole-name criterion: with prompt and name in one pass, every token of the name is the arg-max at its place, which is
   to say that greedy decoding writes the name.
4. Text criterion: what was generated contains an accepted name, as whole words; `contains` is the looser rule of the
   two-hop paper, which also counts names inside words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_interp.deferred import mx
from mlx_interp.errors import DataError
from mlx_interp.interventions import Interventions, Variants
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt, Prompt


@dataclass(frozen=True)
class Question:
    """A prompt and the names that answer it."""

    prompt: Prompt
    names: tuple[tuple[int, ...], ...]
    """Token ids of each accepted name, as they continue the prompt."""

    @property
    def first_tokens(self) -> list[int]:
        return sorted({name[0] for name in self.names})


def question(model: Model, text: str, names: Sequence[str]) -> Question:
    """A prompt with its accepted answers. Raises DataError for a name that adds no token, or none at all."""
    if not names:
        raise DataError(f"{text!r} has no accepted answer")
    prompt = model.prompt(text)
    return Question(prompt, tuple(dict.fromkeys(continuation(model, prompt, name) for name in names)))


def continuation(model: Model, prompt: Prompt, name: str) -> tuple[int, ...]:
    """Token ids with which `name` continues a prompt: `model.continuation`, as a tuple."""
    return tuple(model.continuation(prompt, name))


@dataclass(frozen=True)
class Verdict:
    """A model's answer to one question: right or not, rank, log-probability."""

    first_token: bool
    """The arg-max is the first token of an accepted name."""
    whole_name: bool
    """Greedy decoding writes an accepted name, and then anything."""
    rank: int
    """Of the best accepted first token; 0 is the arg-max."""
    log_prob: float
    """Of that token, in nats."""
    predicted: str
    """The arg-max token, as text."""


def verdicts(model: Model, questions: Sequence[Question]) -> list[Verdict]:
    """Verdicts on a model's answers, all questions and names in one padded batch."""
    rows = [(i, name) for i, asked in enumerate(questions) for name in asked.names]
    tokens = [questions[i].prompt.tokens + list(name[:-1]) for i, name in rows]
    logits = model.run(tokens, logits="all").logits
    assert logits is not None
    found: dict[int, list[bool]] = {i: [] for i in range(len(questions))}
    last: dict[int, mx.array] = {}
    for row, (i, name) in enumerate(rows):
        start = len(questions[i].prompt) - 1
        last[i] = logits[row, start]
        predicted = mx.argmax(logits[row, start : start + len(name)], axis=-1)
        found[i].append(predicted.tolist() == list(name))
    stacked = mx.stack([last[i] for i in range(len(questions))])
    scores = [_score(stacked[i : i + 1], asked.first_tokens)[0] for i, asked in enumerate(questions)]
    tops = mx.argmax(stacked, axis=-1)
    mx.eval(scores, tops)
    return [
        Verdict(
            first_token=int(score[0]) == 0,
            whole_name=any(found[i]),
            rank=int(score[0]),
            log_prob=float(score[1]),
            predicted=model.tokenizer.decode([int(top)]),
        )
        for i, (score, top) in enumerate(zip(scores, tops, strict=True))
    ]


def last_logits(model: Model, prompts: Sequence[AnyPrompt], interventions: Interventions = ()) -> list[mx.array]:
    """Logits at each prompt's last token, (d_vocab,) each, under interventions; prompts are read in batches."""
    return [
        row
        for out in model.batches(prompts, interventions=interventions, logits="last")
        if out.logits is not None
        for row in out.logits
    ]


def answer_scores(tokens: Sequence[int]) -> Callable[[mx.array], mx.array]:
    """A metric for sweeps: logits (n, d_vocab) -> (n, 2), rank and log-probability of the best accepted first token."""
    return lambda logits: _score(logits, tokens)


def name_scores(model: Model, asked: Question, variants: Variants) -> mx.array:
    """Scores of the whole answer under interventions at a prompt's positions: (n_variants, 3), one sweep a name.

    Columns: rank of the first token, log-probability of the whole name in nats, and whether greedy decoding writes it;
    each of the best of the accepted names. The name's own tokens follow the prompt, so that positions must count from
    its start: -1 would be the name's last. Raises DataError for a question without an accepted name.
    """
    if not asked.names:
        raise DataError(f"{asked.prompt.text!r} has no accepted answer to score")
    found = mx.stack([_scores_of(model, asked.prompt, name, variants) for name in asked.names])  # (name, variant, 3)
    return mx.stack([found[..., 0].min(axis=0), found[..., 1].max(axis=0), found[..., 2].max(axis=0)], axis=-1)


def _scores_of(model: Model, prompt: Prompt, name: tuple[int, ...], variants: Variants) -> mx.array:
    def measured(logits: mx.array) -> mx.array:
        logits = logits.astype(mx.float32)  # (variant, token of the name, d_vocab)
        chosen = mx.take_along_axis(logits, mx.array(name)[None, :, None], axis=-1)
        rank = mx.sum(logits[:, 0] > chosen[:, 0], axis=-1).astype(mx.float32)
        log_prob = (chosen[..., 0] - mx.logsumexp(logits, axis=-1)).sum(axis=-1)
        greedy = mx.all(mx.argmax(logits, axis=-1) == mx.array(name), axis=-1).astype(mx.float32)
        return mx.stack([rank, log_prob, greedy], axis=-1)

    return model.sweep(prompt.tokens + list(name[:-1]), variants, logits=len(name), metric=measured)


def _score(logits: mx.array, tokens: Sequence[int]) -> mx.array:
    logits = logits.astype(mx.float32)
    best = mx.max(logits[..., mx.array(list(tokens))], axis=-1, keepdims=True)
    rank = mx.sum(logits > best, axis=-1).astype(mx.float32)
    log_prob = best[..., 0] - mx.logsumexp(logits, axis=-1)
    return mx.stack([rank, log_prob], axis=-1)


def contains(text: str, names: Sequence[str]) -> bool:
    """Whether a text contains a name of more than one character, whatever the case, even inside a word."""
    return any(len(name) > 1 and name.lower() in text.lower() for name in names)


def mentions(text: str, names: Sequence[str]) -> bool:
    """Whether a text contains a name as whole words, whatever the case."""
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None for name in names if name)
