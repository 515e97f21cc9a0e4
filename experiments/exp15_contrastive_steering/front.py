"""ActAdd on the embedded world: one pair of texts, added at the front of each prompt (Turner et al. 2023).

1. front: topic (a Spanish question minus its English counterpart, on English requests: is the reply Spanish?) and
   sentiment ("I hate" minus "I like", on plain questions: does the reply say no?), at every layer; random blocks of
   the same length; a share of the dimensions alone.
2. relevance: perplexity of replies with the sentiment's block: those that say no to such a question, those that say
   yes, and replies about other things.
3. knowledge: facts that have nothing to do with it; is the answer still the first, and among the first ten?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from experiments.exp15_contrastive_steering.chats import Chat
from experiments.exp15_contrastive_steering.request_sources import WORLD, subset
from experiments.exp15_contrastive_steering.settings import ContrastiveConfig, setting
from experiments.exp15_contrastive_steering.steered_texts import classifier
from experiments.exp15_contrastive_steering.vectors import rendered
from experiments.harness.experiment import ExperimentConfig, Records
from experiments.harness.state import Run, of_run
from mlx_interp.behaviour.answers import question
from mlx_interp.behaviour.detectors import agreement, repetition
from mlx_interp.deferred import mx
from mlx_interp.directions.prompt_addition import PromptDifference, prompt_difference, random_block, some_dimensions
from mlx_interp.embedded import load_world
from mlx_interp.interventions import Intervention
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.prompts import Prompt
from mlx_interp.stats import stable_draw

FRONT, RELEVANCE, KNOWLEDGE = "front", "relevance", "knowledge"
TOPIC, SENTIMENT = "topic", "sentiment"
TEXTS = {
    TOPIC: ("¿Cómo puedo vender una silla?", "How do I sell a chair?"),
    SENTIMENT: ("I hate", "I like"),
}
COEFFICIENTS = (1.0, 2.0, 4.0)
SHARES = (0.25, 0.5, 0.75)
DOSE = 2.0
"""Coefficient of the rows that are not about it."""
SPANISH = ("2", "3")
"""Subsets of the world whose replies are the topic."""
ON, AGAINST, OFF = "on topic: says no", "the opposite: says yes", "off topic"
OFF_TOPIC = ("0", "2", "13")
"""Subsets of the world that have nothing to do with likes and dislikes."""
N_PROMPTS, N_TEXTS, N_FACTS = 24, 8, 48


@dataclass(frozen=True)
class Item:
    """A prompt of one task, a reply of one subset, or a fact."""

    key: str
    task: str
    chat: Chat
    near: str = ""


def applies(run: Run[ContrastiveConfig]) -> bool:
    """Whether the study is one of the embedded world in whole, where topics and facts are known."""
    of = setting(run)
    return of.grid and of.source.data == WORLD and run.model.name in EMBEDDED


@of_run(8)
def block(run: Run[ExperimentConfig], task: str) -> PromptDifference:
    return prompt_difference(run.model, *TEXTS[task], chat=True)


def prompts(run: Run[ContrastiveConfig], earlier: Records) -> list[Item]:
    """English requests, and questions about opinions with no view stated."""
    if not applies(run):
        return []
    of = setting(run)
    found = []
    for task, key in ((TOPIC, "0"), (SENTIMENT, "14")):
        own = subset(of.source, key)
        chats = (*own.held, *own.fit)[:N_PROMPTS]
        found += [Item(f"{task}: {chat.prompt}", task, chat) for chat in chats]
    return found


class OfEdit(TypedDict):
    """Which block is added, and how."""

    arm: str
    """none, difference, random or some dimensions."""
    coefficient: float
    share: float
    """Of the dimensions that are added."""


class AtLayer(TypedDict):
    """Where the sentiment's block, or a random one, is added."""

    layer: int | None
    arm: str


class Fronted(OfEdit):
    """The reply to one prompt with a block of states added at its front."""

    layer: int | None
    task: str
    unit: str
    half: str
    """choose or test."""
    hit: bool
    """Topic: whether the reply is Spanish; sentiment: whether it says no."""
    degenerate: str | None
    text: str


def measure_front(run: Run[ContrastiveConfig], item: Item) -> Iterator[Fronted]:
    """One prompt under every layer, coefficient and control, as one batch."""
    model = run.model
    prompt = rendered(model, item.chat)
    labels: list[tuple[int | None, OfEdit]] = [(None, {"arm": "none", "coefficient": 0.0, "share": 1.0})]
    edits: list[list[Intervention]] = [[]]
    for layer in range(model.n_layers):
        for label, values in arms(run, item.task, layer):
            of_layer = block(run, item.task)
            edits.append([of_layer.added(model, prompt, layer, label["coefficient"], values)])
            labels.append((layer, label))
    texts = model.sweep_generate(prompt, edits, max_tokens=setting(run).max_tokens)
    hit = hits(run)[item.task]
    for (at, label), text in zip(labels, texts, strict=True):
        yield {
            "layer": at,
            **label,
            "task": item.task,
            "unit": item.key,
            "half": "choose" if stable_draw(run.config.seed, item.key, 2) else "test",
            "hit": hit(text.text),
            "degenerate": "repeats" if repetition(text.tokens) >= 0.5 or not text.text.strip() else None,
            "text": text.text,
        }


def arms(run: Run[ContrastiveConfig], task: str, layer: int) -> Iterator[tuple[OfEdit, np.ndarray]]:
    """Labels and block of every edit of a layer."""
    own = block(run, task).vectors[layer]
    draw = stable_draw(run.seed, (task, layer), 2**31)
    for coefficient in COEFFICIENTS:
        yield {"arm": "difference", "coefficient": coefficient, "share": 1.0}, own
        yield {"arm": "random", "coefficient": coefficient, "share": 1.0}, random_block(own, draw)
    for share in SHARES:
        yield {"arm": "some dimensions", "coefficient": DOSE, "share": share}, some_dimensions(own, share, draw)


def hits(run: Run[ContrastiveConfig]) -> dict[str, Callable[[str], bool]]:
    """What counts in each task: a reply that reads as Spanish, one that says no."""
    told = classifier(run)

    def spanish(text: str) -> bool:
        assert told is not None
        return told.classes[int(told.probabilities([text])[0].argmax())] in SPANISH

    return {TOPIC: spanish, SENTIMENT: lambda text: agreement(text) == -1}


def replies(run: Run[ContrastiveConfig], earlier: Records) -> list[Item]:
    """Questions about opinions with both replies, and held-out prompts of other subsets with their own."""
    if not applies(run):
        return []
    of = setting(run)
    asked = subset(of.source, "14")
    found = []
    for chat in (*asked.held, *asked.fit)[:N_PROMPTS]:
        thing = chat.reply.removesuffix(" is good.").removesuffix(" is bad.").partition(", ")[2]
        for near, reply in ((ON, f"No, {thing} is bad."), (AGAINST, f"Yes, {thing} is good.")):
            found.append(Item(f"{near}: {chat.prompt}", SENTIMENT, replace(chat, reply=reply), near))
    for key in OFF_TOPIC:
        for chat in subset(of.source, key).held[:N_TEXTS]:
            found.append(Item(f"{OFF}: {chat.prompt}", SENTIMENT, chat, OFF))
    return found


class Relevant(AtLayer):
    """How likely a given reply is with the sentiment's block at one layer."""

    unit: str
    near: str
    """Whether the reply is about it: on topic, the opposite, or off topic."""
    log_prob: float
    """Mean over the reply's tokens, nats."""
    plain: float
    """The same without a block."""


def measure_relevance(run: Run[ContrastiveConfig], item: Item) -> Iterator[Relevant]:
    """Log-probability of the reply, per token, without and with the sentiment's block at every layer."""
    prompt = rendered(run.model, item.chat)
    reply = [int(t) for t in run.model.tokenizer.encode(item.chat.reply, add_special_tokens=False)]
    labels, edits = _by_layer(run, prompt)

    def metric(logits: mx.array) -> mx.array:
        at = logits[:, : len(reply)].astype(mx.float32)
        at = at - mx.logsumexp(at, axis=-1, keepdims=True)
        return mx.mean(mx.take_along_axis(at, mx.array(reply)[None, :, None], axis=2)[..., 0], axis=1)

    found = np.asarray(run.model.sweep(prompt.tokens + reply, edits, logits=len(reply) + 1, metric=metric), np.float64)
    for label, value in zip(labels, found, strict=True):
        yield {**label, "unit": item.key, "near": item.near, "log_prob": float(value), "plain": float(found[0])}


def facts(run: Run[ContrastiveConfig], earlier: Records) -> list[Item]:
    """Facts of the world, spread evenly over it, as sentences."""
    if not applies(run):
        return []
    known = [fact for fact in load_world().facts if fact.kind != "danger"]
    chosen = [known[index * len(known) // N_FACTS] for index in range(N_FACTS)]
    return [Item(fact.prompt, SENTIMENT, Chat(fact.kind, fact.prompt, fact.answer)) for fact in chosen]


class Known(AtLayer):
    """Whether a fact is still known with the sentiment's block at one layer."""

    unit: str
    first: bool
    """Whether the answer's first token comes first."""
    first_ten: bool


def measure_knowledge(run: Run[ContrastiveConfig], item: Item) -> Iterator[Known]:
    """Rank of the answer's first token, without and with the sentiment's block at every layer."""
    asked = question(run.model, item.chat.prompt, [item.chat.reply])
    labels, edits = _by_layer(run, asked.prompt)
    right = mx.array(asked.first_tokens)

    def metric(logits: mx.array) -> mx.array:
        best = mx.max(logits[:, right].astype(mx.float32), axis=1, keepdims=True)
        return mx.sum(logits.astype(mx.float32) > best, axis=1)

    ranks = np.asarray(run.model.sweep(asked.prompt, edits, metric=metric))
    for label, rank in zip(labels, ranks, strict=True):
        yield {**label, "unit": item.key, "first": int(rank) == 0, "first_ten": int(rank) < 10}


def _by_layer(run: Run[ContrastiveConfig], prompt: Prompt) -> tuple[list[AtLayer], list[list[Intervention]]]:
    """The plain model, then the sentiment's block and a random one at every layer."""
    labels: list[AtLayer] = [{"layer": None, "arm": "none"}]
    edits: list[list[Intervention]] = [[]]
    own = block(run, SENTIMENT)
    for layer in range(run.model.n_layers):
        control = random_block(own.vectors[layer], stable_draw(run.config.seed, (SENTIMENT, layer), 2**31))
        for arm, values in (("difference", own.vectors[layer]), ("random", control)):
            labels.append({"layer": layer, "arm": arm})
            edits.append([own.added(run.model, prompt, layer, DOSE, values)])
    return labels, edits
