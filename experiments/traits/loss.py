"""What a direction costs on text that has nothing to do with it: cross-entropy, ablation against subtraction.

1. Texts: answers to everyday facts, and the model's own plain replies to held-out harmless requests.
2. Taken out: everywhere (directional ablation). Subtracted: the difference of means, once, at the direction's layer, at
   every position; both also with a random direction of the same length.
3. Loss in nats a token; beside it the refusals that are left on held-out harmful requests, which is what it buys.

Arditi et al. (2024) find ablation nearly free and subtraction costly: it moves every state by the same step, those that
had nothing of the direction as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from experiments.experiment import Records
from experiments.traits import selection, stages
from experiments.traits.report import of, rate
from experiments.traits.stages import Item, TraitConfig
from mlx_interp.embedded import load_world
from mlx_interp.interventions import Add, Intervention
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Record, Table
from mlx_interp.stats import difference_interval, stable_draw

LOSS = "loss"
EDITS = ("plain", "taken out", "random taken out", "subtracted", "random subtracted")
TEXTS = ("fact answers", "own replies")
REFUSED = "harmful refused"
REPORTED = {
    "gemma-2b": (3.506, 3.503, 3.753, 0.291, 0.341, 0.806),
    "qwen-1.8b": (2.921, 2.933, 3.292, 0.477, 0.485, 0.804),
    "yi-6b": (2.019, 2.018, 2.209, 0.297, 0.324, 0.712),
    "llama-2-7b": (2.220, 2.214, 2.340, 0.185, 0.191, 0.521),
    "llama-3-8b": (2.348, 2.363, 2.477, 0.332, 0.349, 0.596),
}
"""Loss (nats) of Arditi et al. (2024), general text (the Pile) and own replies: plain, ablated, subtracted."""


def items(model: Model, config: TraitConfig, earlier: Records) -> list[Item]:
    """The selected direction under each edit; nothing where no candidate passed."""
    return [
        Item(f"{edit}, {what}", "refusal", what, edit, number=position, layer=layer)
        for layer, position in selection.ranked(earlier)[:1]
        for edit in EDITS
        for what in (*TEXTS, REFUSED)
    ]


def measure(model: Model, item: Item, config: TraitConfig) -> Iterator[Record]:
    edits = edits_of(model, item, config)
    labels = {"trait": item.trait, "what": item.kind, "edit": item.split, "layer": item.layer}
    if item.kind == REFUSED:
        asks = stages.sets(model, config, item.trait).positive["test"]
        prompts = [model.prompt(ask.text, chat=True) for ask in asks]
        texts = model.generate(prompts, interventions=edits, max_tokens=config.new_tokens)
        for ask, text in zip(asks, texts, strict=True):
            yield {**labels, "unit": ask.unit, "value": float(ask.hit(text.text)), "text": text.text}
        return
    for unit, before, after in texts_of(model, config, item.kind):
        yield {**labels, "unit": unit, "value": cross_entropy(model, before, after, edits)}


def edits_of(model: Model, item: Item, config: TraitConfig) -> list[Intervention]:
    """The interventions of one edit."""
    if item.split == "plain":
        return []
    direction = selection.candidates(model, config).direction(item.layer, item.number)
    vector = direction.vector
    if item.split.startswith("random"):
        draw = np.random.default_rng(stable_draw(config.seed, ("loss", item.layer), 2**31)).normal(size=model.d_model)
        vector = mx.array((draw * (direction.norm / np.linalg.norm(draw))).astype(np.float32))
    if item.split.endswith("taken out"):
        return replace(direction, vector=vector).ablated_everywhere()
    return [Add(direction.site, vector, -1.0)]


def texts_of(model: Model, config: TraitConfig, what: str) -> list[tuple[str, list[int], list[int]]]:
    """A name, the tokens before what counts, and the tokens that count, of every text."""
    if what == "fact answers":
        # Only answers: embedded models were never trained to predict the prompts.
        asked = [
            (model.prompt(fact.prompt), model.prompt(f"{fact.prompt} {fact.answer}"))
            for fact in load_world().everyday_facts
        ]
        return [(prompt.text, whole.tokens[: len(prompt)], whole.tokens[len(prompt) :]) for prompt, whole in asked]
    asks = stages.sets(model, config, "refusal").negative["test"]
    chats = [model.prompt(ask.text, chat=True) for ask in asks]
    replies = model.generate(chats, max_tokens=config.new_tokens)
    return [
        (ask.unit, chat.tokens, reply.tokens)
        for ask, chat, reply in zip(asks, chats, replies, strict=True)
        if reply.tokens
    ]


def cross_entropy(
    model: Model, before: Sequence[int], after: Sequence[int], interventions: Sequence[Intervention]
) -> float:
    """Mean loss, in nats a token, of the tokens `after` behind the tokens `before`."""
    logits = model.run([*before, *after], interventions=interventions, logits="all").logits
    assert logits is not None
    at = logits[0, len(before) - 1 : -1].astype(mx.float32)
    picked = mx.take_along_axis(at, mx.array(list(after))[:, None], axis=1)[:, 0]
    return float((mx.logsumexp(at, axis=-1) - picked).mean())


def table(records: Records, config: TraitConfig) -> Table | None:
    """Loss under each edit, its change from the plain model, and the refusals left."""
    measured = of(records, LOSS)
    if not measured:
        return None
    rows: list[list[Cell]] = []
    for edit in EDITS:
        cells: list[Cell] = [edit]
        for what in TEXTS:
            own, plain = (of(records, LOSS, edit=name, what=what) for name in (edit, "plain"))
            change = None
            if edit != "plain":
                values = ([r["value"] for r in arm] for arm in (own, plain))
                change = difference_interval(*values, unit=[r["unit"] for r in own], seed=config.seed)
            cells += [len(own), float(np.mean([r["value"] for r in own])), change]
        cells.append(rate(of(records, LOSS, edit=edit, what=REFUSED), config.seed, "value"))
        rows.append(cells)
    columns = [
        column
        for what in TEXTS
        for column in (f"n, {what}", Column(f"loss, {what}", "nats"), Column(f"change, {what}", "nats"))
    ]
    return Table(
        "What it costs: loss on other text, ablation against subtraction",
        ["selected direction", *columns, Column(REFUSED, "%")],
        rows,
        [
            "Own replies: what the plain model writes after held-out harmless requests. Subtracted: the difference of "
            "means at every position. Random directions have the same length.",
        ],
    )


def reported(records: Records, config: TraitConfig) -> Table:
    """The paper's losses."""
    rows: list[list[Cell]] = [[name, *figures] for name, figures in REPORTED.items()]
    edits = ("plain", "taken out", "subtracted")
    heads = [Column(f"{text}, {edit}", "nats", digits=3) for text in ("general", "own replies") for edit in edits]
    return Table("Loss reported by Arditi et al. (2024), not measured here", ["model", *heads], rows)
