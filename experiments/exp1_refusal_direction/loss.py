"""What a direction costs on text that has nothing to do with it: cross-entropy, ablation against subtraction.

1. Texts: answers to everyday facts, the world's reference replies to held-out harmless requests, and the model's own.
2. Ablated: everywhere (directional ablation). Subtracted: the difference of means, once, at the direction's layer, at
   every position; both also with a random direction of the same length. Beside them, on embedded models, a low-rank
   fine-tune on harmful training requests with replies that comply.
3. Loss in nats a token; beside it the refusals that are left on held-out harmful requests, which is what it buys, and
   how far the states of harmless requests get from where they are left alone: standardised distance, after the
   direction's layer, to the harmless training requests (covariance shrunk towards its mean variance by a tenth).

Arditi et al. (2024) find ablation nearly free and subtraction costly: it moves every state by the same step, those that
had nothing of the direction as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NotRequired, TypedDict

import numpy as np

from experiments.exp1_refusal_direction import selection
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run, of_run
from experiments.shared.adapted import adapted
from experiments.shared.traits import stages
from experiments.shared.traits.stages import Item, TraitConfig
from experiments.shared.traits.trait_report import rate
from mlx_interp.behaviour.detectors import log_prob_per_token
from mlx_interp.behaviour.finetuning import LoraRecipe, finetune
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.directions.probes import SHRINKAGE
from mlx_interp.embedded import load_world
from mlx_interp.interventions import Add, Intervention
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.stats import difference_interval

LOSS = "loss"
TUNING_STEPS = 16
TUNED = "fine-tuned to comply"
EDITS = ("plain", "ablated", "random ablated", "subtracted", "random subtracted", TUNED)
TEXTS = ("fact answers", "reference replies", "own replies")
REFUSED, AWAY = "harmful refused", "distance"
REPORTED = {
    "gemma-2b": (3.506, 3.503, 3.753, 0.291, 0.341, 0.806),
    "qwen-1.8b": (2.921, 2.933, 3.292, 0.477, 0.485, 0.804),
    "yi-6b": (2.019, 2.018, 2.209, 0.297, 0.324, 0.712),
    "llama-2-7b": (2.220, 2.214, 2.340, 0.185, 0.191, 0.521),
    "llama-3-8b": (2.348, 2.363, 2.477, 0.332, 0.349, 0.596),
}
"""Loss (nats) of Arditi et al. (2024), general text (the Pile) and own replies: plain, ablated, subtracted."""


def items(run: Run[TraitConfig], earlier: Records) -> list[Item]:
    """The selected direction under each edit; nothing where no candidate passed."""
    return [
        Item(f"{edit}, {what}", "refusal", what, edit, number=position, layer=layer)
        for layer, position in selection.ranked(earlier)[:1]
        for edit in EDITS
        for what in (*TEXTS, REFUSED, AWAY)
        if run.model.name in EMBEDDED or (edit != TUNED and what != "reference replies")
    ]


class Cost(TypedDict):
    """What the selected direction costs on one text, under one edit."""

    trait: str
    what: str
    """The kind of text, "harmful refused", or "distance"."""
    edit: str
    layer: int
    unit: str
    """The text's prompt, which is resampled."""
    value: float
    """Loss in nats a token; 1 for a refusal and 0 for none; or the standardised distance."""
    text: NotRequired[str]
    """The reply that was judged a refusal or none."""


def measure(run: Run[TraitConfig], item: Item) -> Iterator[Cost]:
    """Loss of every text, or refusals that are left, or distances, under one edit."""
    edits, changed = edits_of(run, item), complying(run) if item.split == TUNED else run.model
    if item.kind == REFUSED:
        asks = stages.sets(run, item.trait).positive["test"]
        prompts = [run.model.prompt(ask.text, chat=True) for ask in asks]
        texts = changed.generate(prompts, interventions=edits, max_tokens=run.config.new_tokens)
        for ask, text in zip(asks, texts, strict=True):
            yield {**_cost(item, ask.unit, float(ask.hit(text.text))), "text": text.text}
    elif item.kind == AWAY:
        asks = stages.sets(run, item.trait).negative["test"]
        reference = harmless_states(run, run.model, "train", item.layer, [])
        states = harmless_states(run, changed, "test", item.layer, edits)
        for ask, value in zip(asks, standardised_distances(states, reference).tolist(), strict=True):
            yield _cost(item, ask.unit, value)
    else:
        read = texts_of(run, item.kind)
        log_probs = log_prob_per_token(changed, [one[1] for one in read], [one[2] for one in read], edits)
        for (unit, _, _), log_prob in zip(read, log_probs, strict=True):
            yield _cost(item, unit, -log_prob)


def _cost(item: Item, unit: str, value: float) -> Cost:
    return {
        "trait": item.trait,
        "what": item.kind,
        "edit": item.split,
        "layer": item.layer,
        "unit": unit,
        "value": value,
    }


@of_run(2)
def complying(run: Run[TraitConfig]) -> Model:
    """An embedded model fine-tuned on harmful training requests, each with the reply that complies."""
    replies = {chat.text: chat.other_reply for chat in load_world().chat_prompts("refusal", harmful=True)}
    texts = [ask.text for ask in stages.sets(run, "refusal").positive["train"]]
    recipe = LoraRecipe(steps=TUNING_STEPS, batch=16, seed=run.config.seed)
    found = finetune(run.model, [run.model.prompt(t, chat=True) for t in texts], [replies[t] for t in texts], recipe)
    return adapted(run.model, found, "complying")


def harmless_states(
    run: Run[TraitConfig], changed: Model, split: str, layer: int, edits: Sequence[Intervention]
) -> np.ndarray:
    """(n, d_model): harmless requests at their last token, after the direction's layer."""
    asks, site = stages.sets(run, "refusal").negative[split], f"resid_post.{layer}"
    rows: list[np.ndarray] = []
    for out in changed.batches([run.model.prompt(a.text, chat=True) for a in asks], capture=site, interventions=edits):
        held = np.asarray(out[site].astype(mx.float32), np.float64)
        rows += [held[row, length - 1] for row, length in enumerate(out.lengths)]
    return np.stack(rows)


def standardised_distances(states: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n,): standardised distance of states (n, d) to reference states (m, d): Mahalanobis over the root of d, so that
    1 is usual at any width. The distance of `lenses.trajectories` is not divided, and scales each dimension first."""
    centred = reference - reference.mean(axis=0)
    covariance = centred.T @ centred / len(centred)
    average = np.trace(covariance) / len(covariance)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * average * np.eye(len(covariance))
    apart = states - reference.mean(axis=0)
    squares = np.einsum("nd,nd->n", apart, np.linalg.solve(shrunk, apart.T).T)
    return np.asarray(np.sqrt(squares / states.shape[1]))


def edits_of(run: Run[TraitConfig], item: Item) -> list[Intervention]:
    """The interventions of one edit."""
    if item.split in ("plain", TUNED):
        return []
    direction = selection.candidates(run).direction(item.layer, item.number)
    vector = direction.vector
    if item.split.startswith("random"):
        draw = random_like(np.asarray(vector, np.float64), seed=run.seed, key=("loss", item.layer))
        vector = mx.array(draw.astype(np.float32))
    if item.split.endswith("ablated"):
        return replace(direction, vector=vector).ablated_everywhere()
    return [Add(direction.site, vector, -1.0)]


def texts_of(run: Run[TraitConfig], what: str) -> list[tuple[str, list[int], list[int]]]:
    """A name, the tokens before what counts, and the tokens that count, of every text."""
    model = run.model
    if what == "fact answers":
        # Only answers: embedded models were never trained to predict the prompts.
        asked = [
            (model.prompt(fact.prompt), model.prompt(f"{fact.prompt} {fact.answer}"))
            for fact in load_world().everyday_facts
        ]
        return [(prompt.text, whole.tokens[: len(prompt)], whole.tokens[len(prompt) :]) for prompt, whole in asked]
    asks = stages.sets(run, "refusal").negative["test"]
    chats = [model.prompt(ask.text, chat=True) for ask in asks]
    if what == "reference replies":
        known = {chat.text: chat.reply for chat in load_world().chat_prompts("refusal")}
        encode = model.tokenizer.encode
        return [
            (ask.unit, chat.tokens, encode(known[ask.text], add_special_tokens=False))
            for ask, chat in zip(asks, chats, strict=True)
        ]
    replies = model.generate(chats, max_tokens=run.config.new_tokens)
    return [
        (ask.unit, chat.tokens, reply.tokens)
        for ask, chat, reply in zip(asks, chats, replies, strict=True)
        if reply.tokens
    ]


def table(records: Records, config: TraitConfig) -> Table | None:
    """Loss under each edit, its change from the plain model, and the refusals left."""
    measured = of(records, LOSS)
    if not measured:
        return None
    rows: list[list[Cell]] = []
    texts = [what for what in TEXTS if of(records, LOSS, what=what)]
    for edit in dict.fromkeys(r["edit"] for r in measured):
        cells: list[Cell] = [edit]
        for what in texts:
            own, plain = (of(records, LOSS, edit=name, what=what) for name in (edit, "plain"))
            change = None
            if edit != "plain":
                values = ([r["value"] for r in arm] for arm in (own, plain))
                change = difference_interval(*values, unit=[r["unit"] for r in own], seed=config.seed)
            cells += [len(own), float(np.mean([r["value"] for r in own])), change]
        cells += [rate(of(records, LOSS, edit=edit, what=what), config.seed, "value") for what in (REFUSED, AWAY)]
        rows.append(cells)
    columns = [
        column
        for what in texts
        for column in (f"n, {what}", Column(f"loss, {what}", "nats"), Column(f"change, {what}", "nats"))
    ]
    return Table(
        "What it costs: loss on other text, ablation against subtraction",
        ["selected direction", *columns, Column(REFUSED, "%"), "distance of harmless states"],
        rows,
        [
            "Own replies: what the plain model writes after held-out harmless requests; reference replies: what it was "
            "taught to. Subtracted: the difference of means at every position. Random directions have the same length. "
            f"Fine-tuned: {TUNING_STEPS} steps on harmful training requests with replies that comply. Distance: of "
            "held-out harmless requests' last token, after the direction's layer, from harmless training requests left "
            "alone (standardised: Mahalanobis over the root of the width; about 1 where nothing is changed).",
        ],
    )


def reported(records: Records, config: TraitConfig) -> Table:
    """The paper's losses."""
    rows: list[list[Cell]] = [[name, *figures] for name, figures in REPORTED.items()]
    edits = ("plain", "ablated", "subtracted")
    heads = [Column(f"{text}, {edit}", "nats", digits=3) for text in ("general", "own replies") for edit in edits]
    return Table("Loss reported by Arditi et al. (2024), not measured here", ["model", *heads], rows)
