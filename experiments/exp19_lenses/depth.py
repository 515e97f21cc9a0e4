"""Prediction depth against difficulty, and whether a lens fits a fine-tuned model.

The paper compares depth with the training step at which an example was learnt. The steps of the embedded models' own
training are not kept, and all their facts were trained equally often; two other measures stand in. How new a query is:
itself trained, or only its bridge and relation with other subjects, or these never together. And the step at which a
fine-tune on compositions that were never trained learns each, with depth in the fine-tuned model.

The fine-tuned model's states also go through the lens of the model that it comes from: the penalty, in bits, beyond a
lens trained on its own states, beside that of no translator at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

import numpy as np

from experiments.exp19_lenses.lens_texts import (
    Text,
    TextConfig,
    last_states,
    needs_world,
    place,
    read_states,
    split_texts,
    text_lens,
)
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame, of
from experiments.harness.schema import InBatch
from experiments.harness.state import Run, of_run
from experiments.shared.two_hop.tuned import LOGIT, TUNED
from mlx_interp.behaviour.answers import question, verdicts
from mlx_interp.behaviour.finetuning import LoraRecipe, finetune
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.deferred import mx
from mlx_interp.embedded import load_world
from mlx_interp.lenses.lens_measures import NATS_PER_BIT
from mlx_interp.lenses.trajectories import prediction_depth
from mlx_interp.lenses.tuned import TunedLens, identity_lens, kl_to_last, train_on_states
from mlx_interp.loading.adapter import write_adapter
from mlx_interp.loading.load import load
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import Estimate, spearman_interval, trend_test

STAGE, LEARNT, TRANSFER = "prediction depth", "fine-tuned queries", "fine-tuned lens"
BASE = "lens of the model before"
NOVELTY = {"trained": 0, "held_out": 1, "never_composed": 2}
EVERY = 3
"""Steps of the fine-tune from one look at what it has learnt to the next."""


@dataclass(frozen=True)
class DepthConfig(TextConfig):
    """Fields of prediction depth."""

    n_depth: int = 240
    """Two-hop queries whose prediction depth is measured, evenly of all families and splits."""
    tuning_steps: int = 60
    """Steps of the fine-tune on compositions that were never trained."""
    n_tuned: int = 100
    """Compositions that it is trained on."""


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A fine-tuned model, and the step at which each query was right and stayed so; None if never."""

    model: Model
    learnt: dict[str, int | None]
    lens: TunedLens


def _evenly(queries: Sequence[TwoHopQuery], n: int) -> list[TwoHopQuery]:
    turn: Counter[tuple[str, str]] = Counter()
    order = []
    for index, query in enumerate(queries):
        turn[query.family, query.split] += 1
        order.append((turn[query.family, query.split], index))
    return [queries[index] for index in sorted(index for _, index in sorted(order)[:n])]


def queries(run: Run[DepthConfig]) -> list[TwoHopQuery]:
    needs_world(run.model)
    return _evenly(load_world().two_hop_queries(), min(run.config.n_depth, run.config.limit or run.config.n_depth))


Depths = TypedDict("Depths", {"depth, tuned lens": int, "depth, logit lens": int})
"""Prediction depth through each lens: the layer from which on the top token is the last layer's."""


class Depth(Depths, InBatch):
    """A query's prediction depth, and how new it is."""

    split: str
    bridge: str
    """The unit that is resampled."""
    right: bool
    """Whether the answer's first token comes first."""


def measure(run: Run[DepthConfig], batch: Sequence[TwoHopQuery]) -> Iterator[Depth]:
    """Prediction depth through both lenses, and how new the query is."""
    model = run.model
    lenses = {TUNED: text_lens(run), LOGIT: identity_lens(model, embedding=True)}
    found = {name: depths(model, lens, batch) for name, lens in lenses.items()}
    right = verdicts(model, [question(model, query.two_hop, query.answers) for query in batch])
    for row, query in enumerate(batch):
        yield {
            "item": query.key,
            "split": query.split,
            "bridge": query.bridge,
            "right": right[row].first_token,
            "depth, tuned lens": found[TUNED][row],
            "depth, logit lens": found[LOGIT][row],
        }


def depths(model: Model, lens: TunedLens, batch: Sequence[TwoHopQuery]) -> list[int]:
    """Prediction depth of each query at its last position; 0: at the embedding."""
    states = last_states(model, [model.prompt(query.two_hop).tokens for query in batch])
    tops = np.asarray(mx.argmax(lens.logits(model, states), axis=-1)).T
    return [prediction_depth(row.tolist()) for row in tops]


@dataclass(frozen=True)
class Tuned:
    """The queries of the fine-tune, as one item."""

    key: str
    queries: tuple[TwoHopQuery, ...]


def tuned_queries(run: Run[DepthConfig]) -> list[Tuned]:
    needs_world(run.model)
    chosen = _evenly(load_world().two_hop_queries(split="never_composed"), run.config.n_tuned)
    return [Tuned("compositions never trained", tuple(chosen))]


@of_run(1)
def fine_tuned(run: Run[DepthConfig]) -> FineTuned:
    """The model fine-tuned on compositions that it was never trained on, with a lens of its own."""
    model, config = run.model, run.config
    chosen = tuned_queries(run)[0].queries
    asked = [question(model, query.two_hop, query.answers) for query in chosen]
    looks: list[tuple[int, list[bool]]] = []

    def watch(step: int) -> None:
        if step % EVERY == 0:
            looks.append((step, [one.whole_name for one in verdicts(model, asked)]))

    recipe = LoraRecipe(steps=config.tuning_steps, batch=16, seed=config.seed)
    prompts, replies = ([query.two_hop for query in chosen], [f"{query.answer}." for query in chosen])
    found = finetune(model, prompts, replies, recipe, watch=watch)
    with TemporaryDirectory() as folder:
        path = write_adapter(Path(folder) / "compositions", found.weights, found.config, base=model.weights_hash)
        tuned = load(model.path, adapter=path)
    states = read_states(tuned, split_texts(run)[0])
    lens = train_on_states(tuned, states, steps=config.lens_steps, batch=64, seed=config.seed)
    return FineTuned(tuned, {query.key: _from_when(looks, row) for row, query in enumerate(chosen)}, lens)


def _from_when(looks: Sequence[tuple[int, list[bool]]], row: int) -> int | None:
    """The first look from which an example is right in all that follow."""
    kept = [step for step, right in looks if right[row]]
    wrong = [step for step, right in looks if not right[row]]
    return next((step for step in kept if not wrong or step > wrong[-1]), None)


class Learnt(Depths):
    """A query that was fine-tuned on: when it was learnt, and its depth afterwards."""

    query: str
    bridge: str
    step: int | None
    """None where it never was."""


def measure_learnt(run: Run[DepthConfig], tuned: Tuned) -> Iterator[Learnt]:
    """By query: the step at which it was learnt, and its depth in the fine-tuned model."""
    after = fine_tuned(run)
    lenses = {TUNED: after.lens, LOGIT: identity_lens(after.model, embedding=True)}
    found = {name: depths(after.model, lens, tuned.queries) for name, lens in lenses.items()}
    for row, query in enumerate(tuned.queries):
        yield {
            "query": query.key,
            "bridge": query.bridge,
            "step": after.learnt[query.key],
            "depth, tuned lens": found[TUNED][row],
            "depth, logit lens": found[LOGIT][row],
        }


class After(TypedDict):
    """How far a lens is from the fine-tuned model on one text."""

    lens: str
    kl: list[float]
    """By layer, nats, mean over positions."""


def measure_transfer(run: Run[DepthConfig], text: Text) -> Iterator[After]:
    """KL from the fine-tuned model of its own lens, of that of the model before, and of none."""
    after = fine_tuned(run)
    states = read_states(after.model, [text])
    before = replace(text_lens(run), model="")  # meant: another model's states
    lenses = {TUNED: after.lens, BASE: before, LOGIT: identity_lens(after.model, embedding=True)}
    for name, lens in lenses.items():
        kl = kl_to_last(lens.logits(after.model, states)).mean(axis=-1)
        yield {"lens": name, "kl": np.asarray(kl).round(5).tolist()}


def depth_table(records: Records, config: DepthConfig) -> Table | None:
    """Depth by how a query was trained."""
    mine = of(records, STAGE)
    if not mine:
        return None
    rows: list[list[Cell]] = []
    for split in dict.fromkeys(r["split"] for r in mine):
        own = [r for r in mine if r["split"] == split]
        right = [r for r in own if r["right"]]
        rows.append(
            [
                split,
                len(own),
                _mean([float(r["right"]) for r in own], own, config),
                *(
                    _mean([float(r[f"depth, {lens}"]) for r in some], some, config)
                    for lens in (TUNED, LOGIT)
                    for some in (right, [r for r in own if not r["right"]])
                ),
            ]
        )
    return Table(
        "Prediction depth of two-hop queries",
        [
            *("query", "n"),
            Column("right", "%"),
            *(Column(f"depth, {lens}, {kind}", digits=1) for lens in (TUNED, LOGIT) for kind in ("right", "wrong")),
        ],
        rows,
        [
            "Depth: from which layer on the top token is the final one and stays it, counted from 0, the embedding. "
            "Intervals over bridges."
        ],
    )


def difficulty_table(records: Records, config: DepthConfig) -> Table | None:
    """Rank correlations of depth and difficulty."""
    asked, learnt = of(records, STAGE, right=True), of(records, LEARNT)
    learnt = learnt.measured("step")
    if not asked and not learnt:
        return None
    measures = [
        ("how new the query is", asked, [float(NOVELTY[r["split"]]) for r in asked]),
        ("step of the fine-tune that learnt it", learnt, [float(r["step"]) for r in learnt]),
    ]
    rows: list[list[Cell]] = []
    for name, own, hard in measures:
        for lens in (TUNED, LOGIT):
            depth = [float(r[f"depth, {lens}"]) for r in own]
            if len(own) < 3 or len(set(depth)) < 2 or len(set(hard)) < 2:
                rows.append([name, lens, len(own), None, None])
                continue
            p = trend_test(hard, depth, seed=config.seed)[1]
            rows.append([name, lens, len(own), spearman_interval(hard, depth, seed=config.seed), p])
    return Table(
        "Prediction depth against difficulty",
        ["difficulty", "lens", "n right answers", "rank correlation", Column("P of a permutation", digits=4)],
        rows,
        [
            "Of the model's own training no steps are kept. New: the query was trained (0), its bridge and relation "
            "were with other subjects (1), or never together (2). Step: of a fine-tune on such queries, all of them "
            "new to the model; depth is that in the fine-tuned model."
        ],
    )


def transfer_table(records: Records, config: DepthConfig) -> Table | None:
    """Penalty of the lens of the model before, on the fine-tuned one, by layer."""
    own = {name: of(records, TRANSFER, lens=name) for name in (TUNED, BASE, LOGIT)}
    if not own[TUNED]:
        return None
    kl = {name: np.array([r["kl"] for r in mine]) / NATS_PER_BIT for name, mine in own.items()}
    rows: list[list[Cell]] = []
    for row in range(kl[TUNED].shape[1]):
        columns = [kl[TUNED][:, row], *(kl[name][:, row] - kl[TUNED][:, row] for name in (BASE, LOGIT))]
        means = [Frame(own[TUNED]).mean(column.tolist(), seed=config.seed) for column in columns]
        rows.append([place(row), len(own[TUNED]), *means])
    return Table(
        "Transfer of the lens to a fine-tuned model",
        [
            *("layer", "n texts"),
            Column("KL, its own tuned lens", "bits"),
            *(Column(f"penalty, {name}", "bits") for name in (BASE, "no translator")),
        ],
        rows,
        [
            f"Fine-tuned for {config.tuning_steps} steps on {config.n_tuned} compositions never trained; the texts are "
            "held out from both lenses, and read by the fine-tuned model."
        ],
    )


def figure(records: Records, config: DepthConfig) -> Iterator[Plot]:
    """KL from the fine-tuned model by layer."""
    own = {name: of(records, TRANSFER, lens=name) for name in (TUNED, BASE, LOGIT)}
    if not own[TUNED]:
        return
    places = range(len(own[TUNED][0]["kl"]))
    labels = {TUNED: "its own tuned lens", BASE: BASE, LOGIT: "no translator"}
    series = [
        Series(
            labels[name],
            [Frame(mine).mean([r["kl"][row] for r in mine], seed=config.seed) for row in places],
        )
        for name, mine in own.items()
    ]
    yield line_with_band(
        [row - 1 for row in places],
        series,
        name="transfer_finetuned",
        title="Lenses on the fine-tuned model",
        x_label="layer (-1: the embedding)",
        y_label="KL from the fine-tuned model (nats)",
        caption=f"KL divergence of lenses from the fine-tuned model, by layer, on {len(own[TUNED])} held-out texts; "
        "95 % intervals over texts.",
    )


def _mean(values: Sequence[float], own: Sequence[Record], config: TextConfig) -> Estimate | None:
    return Frame(own).mean(values, unit="bridge", seed=config.seed)


TABLES = (depth_table, difficulty_table, transfer_table)
