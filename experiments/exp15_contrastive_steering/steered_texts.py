"""What steering with a difference of data-set means writes: each prompt under every cell (layer, scale, vector, rule),
decoded as one batch of its own; greedy or sampled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

from experiments.exp15_contrastive_steering.chats import Chat
from experiments.exp15_contrastive_steering.request_sources import WORLD, Subset, subset
from experiments.exp15_contrastive_steering.settings import ContrastiveConfig, Setting, setting
from experiments.exp15_contrastive_steering.vectors import (
    at_length,
    difference,
    halves,
    length_removed,
    random_vector,
    rendered,
    states,
    warned,
)
from experiments.harness.experiment import Records
from experiments.harness.state import Run, of_run
from mlx_interp.behaviour.detectors import log_prob_per_token, refusal, repetition
from mlx_interp.behaviour.text_classifier import TextClassifier, fit_text_classifier
from mlx_interp.deferred import mx
from mlx_interp.directions.state_sets import RULES, SITE, Rule
from mlx_interp.interventions import Add, Intervention
from mlx_interp.model import Completion, Model
from mlx_interp.prompts import Prompt
from mlx_interp.reporting import finite

TEXTS = "texts"
CONTRAST, PLAIN = "difference", "none"
NULL, NULL_LONG, RANDOM, OTHER, NO_LENGTH = (
    "halves of the baseline",
    "halves, same length",
    "random",
    "other pair",
    "prompt length projected out",
)
CONTROLS = (NULL, NULL_LONG, RANDOM, OTHER, NO_LENGTH)
SWEEP, TARGETS, RULED = "sweep", "targets", "rules"
ALL_OTHERS = "all others"
RULED_SCALES = (1.0, 2.0)
REPLIES = 32
"""Replies of the model itself that are written as one batch."""
REPEATS = 0.5
"""Share of repeated trigrams from which a text counts as degenerate."""
BUILT_IN = (
    "Tell me about your favourite season.",
    "How do I cook rice?",
    "What is 17 times 23?",
    "Write a short note to a friend who is moving away.",
    "Why is the sky blue?",
)
WORLD_BUILT_IN = (("0", 8), ("13", 8), ("14", 6), ("15", 6), ("4", 4))
"""Subsets of the world whose held-out prompts are the built-in ones there, and how many of each."""


@dataclass(frozen=True)
class Asked:
    """One prompt that is steered."""

    key: str
    chat: Chat
    subset: str
    shown: str
    """What results show: the prompt, or its id where the subset is not to be repeated."""
    vectors: str
    """A digest of all rows behind the vectors: part of what makes this run this run."""


@dataclass(frozen=True)
class Cell:
    """One setting under which each prompt is continued."""

    part: str
    arm: str
    target: str
    baseline: str
    layer: int | None
    scale: float
    rule: Rule


def prompts(run: Run[ContrastiveConfig], earlier: Records) -> list[Asked]:
    """The prompts that are steered; none of them is behind a mean."""
    of = setting(run)
    behind = {(chat.system, chat.prompt) for one in of.subsets for chat in one.fit}
    digest = hashlib.sha256(repr([(one.name, one.fit, one.held) for one in of.subsets]).encode()).hexdigest()[:16]
    found = []
    for own, chats in _asked_of(of, run.config):
        for number, chat in enumerate(chats):
            name = own.name if own else "built-in"
            if (chat.system, chat.prompt) not in behind:
                shown = chat.id if own and own.sensitive else chat.prompt
                found.append(Asked(f"{name} {number}", chat, own.key if own else "", shown, digest))
    return found


def _asked_of(of: Setting, config: ContrastiveConfig) -> list[tuple[Subset | None, Sequence[Chat]]]:
    if of.inference is not None:
        n = None if config.inference_n_samples < 0 else config.inference_n_samples
        return [(of.inference, of.inference.held[:n])]
    if of.source.data == WORLD:
        chosen = [(subset(of.source, key), n) for key, n in WORLD_BUILT_IN]
        return [(own, own.held[:n]) for own, n in chosen]
    return [(None, [Chat(text, text) for text in BUILT_IN])]


@of_run(4)
def cells(run: Run[ContrastiveConfig]) -> tuple[Cell, ...]:
    """All settings; the first is the plain model."""
    config = run.config
    of = setting(run)
    pair = (of.target.key, of.baseline.key)
    found = [Cell(SWEEP, PLAIN, *pair, None, 0.0, config.rule)]
    found += [
        Cell(SWEEP, CONTRAST, *pair, layer, scale, config.rule)
        for layer in of.layers
        for scale in of.scales
        if scale != 0
    ]
    controls = [arm for arm in CONTROLS if arm != OTHER or of.other]
    found += [Cell(SWEEP, arm, *pair, of.layer, s, config.rule) for arm in controls for s in of.scales if s != 0]
    if of.grid:
        others = [one.key for one in of.subsets if one.key != of.baseline.key]
        found += [Cell(TARGETS, CONTRAST, key, of.baseline.key, of.layer, config.scale, config.rule) for key in others]
        found += [Cell(TARGETS, CONTRAST, key, ALL_OTHERS, of.layer, config.scale, config.rule) for key in others]
        rules = [
            rule for rule in RULES if rule != "reply mean" or all(_replies(one) for one in (of.target, of.baseline))
        ]
        found += [Cell(RULED, CONTRAST, *pair, of.layer, s, rule) for rule in rules for s in RULED_SCALES]
    return tuple(found)


def _replies(own: Subset) -> bool:
    return all(chat.reply for chat in (*own.fit, *own.held))


@of_run(64)
def replies(run: Run[ContrastiveConfig], key: str, part: Literal["fit", "held"]) -> tuple[str, ...]:
    """Replies to a subset's rows: the data's, or the model's own where the data have none at all."""
    own = setting(run).subset(key)
    chats: tuple[Chat, ...] = getattr(own, part)
    if any(chat.reply for chat in (*own.fit, *own.held)):
        return tuple(chat.reply for chat in chats if chat.reply)
    asked = [rendered(run.model, chat) for chat in chats]
    texts: dict[int, str] = {}
    for start in range(0, len(asked), REPLIES):
        some = sorted(range(len(asked)), key=lambda i: len(asked[i]))[start : start + REPLIES]
        found = run.model.generate([asked[i] for i in some], max_tokens=setting(run).max_tokens)
        texts |= {i: one.text for i, one in zip(some, found, strict=True)}
    return tuple(texts[i] for i in range(len(asked)) if texts[i].strip())


@of_run(256)
def vector(run: Run[ContrastiveConfig], cell: Cell) -> np.ndarray:
    """(d_model,): what a cell adds, before its scale."""
    config = run.config
    of = setting(run)
    assert cell.layer is not None
    others = [one.key for one in of.subsets if one.key != cell.target]
    away = others if cell.baseline == ALL_OTHERS else [cell.baseline]
    own = difference(run, cell.target, away, cell.rule)[cell.layer]
    if cell.arm in (NULL, NULL_LONG):
        rows = states(run, cell.baseline, config.rule, "fit")
        null = halves(rows, config.seed, 1)[0, cell.layer]
        return null if cell.arm == NULL else at_length(null, own)
    if cell.arm == RANDOM:
        return random_vector(config, cell.layer, own)
    if cell.arm == OTHER:
        return at_length(difference(run, of.other[0].key, [of.other[1].key], config.rule)[cell.layer], own)
    return length_removed(run, own, cell.layer) if cell.arm == NO_LENGTH else own


@of_run(4)
def classifier(run: Run[ContrastiveConfig]) -> TextClassifier | None:
    """Of the replies of all loaded subsets, fitted to the rows behind the means; None where there are no replies."""
    of = setting(run)
    pairs = [(text, one.key) for one in of.subsets for text in replies(run, one.key, "fit")]
    if not {of.target.key, of.baseline.key} <= {key for _, key in pairs}:
        return None
    return fit_text_classifier([text for text, _ in pairs], [key for _, key in pairs])


class ReadAs(TypedDict):
    """What the classifier of the subsets' replies makes of a text; None where there is none."""

    p_target: float | None
    """Probability of the cell's target."""
    p_baseline: float | None
    """Of its baseline; of the likeliest other subset where all others are the baseline."""
    told: str | None
    """The subset that it reads like most."""


class Steered(ReadAs):
    """A prompt continued under one cell."""

    part: str
    """sweep, targets or rules."""
    arm: str
    target: str
    baseline: str
    layer: int | None
    scale: float
    """Multiple of the difference."""
    rule: str
    """Over which tokens means are taken."""
    draw: int
    prompt: str
    unit: str
    text: str
    length: int
    """Tokens."""
    kl: float | None
    """KL(steered || plain) of the first token, nats; None where it is not finite."""
    log_prob: float | None
    """Of the text under the plain model, mean over its tokens, nats."""
    repetition: float
    """Share of repeated trigrams."""
    refused: bool
    degenerate: str | None
    """not finite, empty or repeats; None for a text."""


def measure_texts(run: Run[ContrastiveConfig], asked: Asked) -> Iterator[Steered]:
    """One prompt under every cell and draw, as one batch: texts, how they read, and how far the first token moves."""
    warned(run)
    model, config = run.model, run.config
    of, all_cells, prompt = setting(run), cells(run), rendered(model, asked.chat)
    edits = [edit(run, cell) for cell in all_cells]
    kls, whole = moved(model, prompt, edits)
    texts = model.sweep_generate(
        prompt,
        [one for one in edits for _ in range(config.draws)],
        max_tokens=of.max_tokens,
        temperature=of.temperature,
        seed=config.seed,
    )
    likely = log_prob_per_token(model, [prompt.tokens] * len(texts), [text.tokens for text in texts])
    told = classifier(run)
    reads = told.probabilities([text.text for text in texts]) if told else None
    for number, (text, log_prob) in enumerate(zip(texts, likely, strict=True)):
        cell = all_cells[number // config.draws]
        usable = whole[number // config.draws] and _fits(run, cell)
        yield {
            "part": cell.part,
            "arm": cell.arm,
            "target": cell.target,
            "baseline": cell.baseline,
            "layer": cell.layer,
            "scale": cell.scale,
            "rule": cell.rule,
            "draw": number % config.draws,
            "prompt": asked.shown,
            "unit": asked.key,
            "text": text.text,
            "length": len(text.tokens),
            "kl": kls[number // config.draws],
            "log_prob": finite(log_prob),
            "repetition": repetition(text.tokens),
            "refused": refusal(text.text) is not None,
            "degenerate": fault_of(text, usable=usable),
            **_read_as(told, reads[number] if reads is not None else None, cell),
        }


def edit(run: Run[ContrastiveConfig], cell: Cell) -> list[Intervention]:
    """Added at resid_post, at all positions of the prompt and of what is written."""
    if cell.layer is None:
        return []
    return [Add(f"{SITE}.{cell.layer}", mx.array(vector(run, cell)), cell.scale)]


def moved(model: Model, prompt: Prompt, edits: Sequence[list[Intervention]]) -> tuple[list[float | None], list[bool]]:
    """KL(steered || plain) of the first token, in nats, and whether the logits are finite, for every edit."""

    def metric(logits: mx.array) -> mx.array:
        log_probs = logits.astype(mx.float32)
        return log_probs - mx.logsumexp(log_probs, axis=-1, keepdims=True)

    log_probs = np.asarray(model.sweep(prompt, edits, metric=metric), np.float64)
    whole = [bool(np.isfinite(row).all()) for row in log_probs]
    with np.errstate(invalid="ignore"):
        kl = np.sum(np.exp(log_probs) * (log_probs - log_probs[:1]), axis=1)
    return [finite(max(0.0, float(x))) if ok else None for x, ok in zip(kl, whole, strict=True)], whole


def fault_of(text: Completion, *, usable: bool) -> str | None:
    """What makes a text degenerate: not finite, empty, or repeats; None for a text."""
    if not usable:
        return "not finite"
    if not text.text.strip():
        return "empty"
    return "repeats" if repetition(text.tokens) >= REPEATS else None


def _fits(run: Run[ContrastiveConfig], cell: Cell) -> bool:
    """Whether the norm of what is added can be squared in float32, and its parts be held by the model's numbers.

    A stream whose squares overflow is normed to zeros: finite logits that say nothing.
    """
    if cell.layer is None:
        return True
    added = abs(cell.scale) * np.abs(vector(run, cell).astype(np.float64))
    held = float(mx.finfo(run.model.network.dtype).max)
    return bool(added.max(initial=0.0) < held and float((added**2).sum()) < float(np.finfo(np.float32).max))


def _read_as(told: TextClassifier | None, reads: np.ndarray | None, cell: Cell) -> ReadAs:
    """How much a text reads like the cell's target and baseline, and which subset it reads like most."""
    if told is None or reads is None:
        return {"p_target": None, "p_baseline": None, "told": None}
    by_key = dict(zip(told.classes, map(float, reads), strict=True))
    rest = [p for key, p in by_key.items() if key != cell.target]
    away = max(rest) if cell.baseline == ALL_OTHERS else by_key.get(cell.baseline)
    return {"p_target": by_key.get(cell.target), "p_baseline": away, "told": max(by_key, key=lambda key: by_key[key])}
