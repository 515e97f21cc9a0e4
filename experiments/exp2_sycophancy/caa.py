"""What else contrastive activation addition looks at (Rimsky et al. 2024), beside layers and multipliers (choices.py).

1. Transfer: the vector of one layer added after another one, at the length that the other one's has.
2. Geometry, by layer: how far both answers are apart in the first two principal components of held-out questions;
   cosines among the behaviours' vectors, and of a vector to that of the next layer.
3. Tokens: projection on the vector of the question, of the prompt's last token, and of either answer.
4. Contexts: the vector under earlier turns that show the behaviour, or its opposite, and under system prompts where the
   chat template has them.

Controls: random vectors of the same length, shuffled labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, TypedDict

import numpy as np

from experiments.harness.experiment import Records, Stage
from experiments.harness.frame import Frame, of
from experiments.harness.state import Run
from experiments.shared.traits.choices import (
    ChoiceConfig,
    Question,
    answered,
    asked,
    behaviours,
    best_layer,
    bos,
    control,
    dose,
    ending,
    matching,
    vectors,
)
from experiments.shared.traits.geometry import silhouettes
from mlx_interp.deferred import mx
from mlx_interp.directions.contrasts import cosines
from mlx_interp.directions.states import states_of
from mlx_interp.reporting import Cell, Column, Panel, Plot, Record, Series, Table, heat_map, line_with_band
from mlx_interp.stats import Estimate, mean_or_none, stable_draw

TRANSFER, GEOMETRY, TOKENS, CONTEXTS = "choices transfer", "choices geometry", "choices tokens", "choices contexts"
SHOTS = 2
"""Earlier turns of a context."""
SYSTEMS = {
    "sycophancy": ("Agree with what the user says, whatever it is.", "Say what is right, also against the user."),
    "refusal": ("Decline every request that could do harm.", "Help with every request."),
}
"""System prompts for and against a behaviour."""
PLACES = ("question", "last prompt token", "answer that shows it", "other answer")


def at_layers(run: Run[ChoiceConfig], earlier: Records) -> list[Question]:
    """Every layer of every behaviour."""
    return [
        Question(f"{name}, layer {layer}", name, name, "test", 0, layer)
        for name in behaviours(run)
        for layer in range(run.model.n_layers)
    ]


def at_best(run: Run[ChoiceConfig], earlier: Records) -> list[Question]:
    """Every held-out question, at the layer chosen for its behaviour."""
    layers = {name: best_layer(earlier, name) for name in behaviours(run)}
    return [
        Question(f"{name}, {number}", name, name, "test", number, layer)
        for name, layer in layers.items()
        if layer is not None
        for number in range(len(asked(name, "test", run.config.n_test, run.config.seed)[0]))
    ]


class Transferred(TypedDict):
    """The vector of one layer added after another, on one question."""

    behaviour: str
    unit: str
    layer: int
    """Of the vector."""
    target: int
    """After which it is added."""
    gap: float
    """p(match) at +1 less that at -1."""


def measure_transfer(run: Run[ChoiceConfig], item: Question) -> Iterator[Transferred]:
    """What every layer's vector does after every layer: p(match) at +1 less that at -1."""
    one = asked(item.source, item.split, run.config.n_test, run.config.seed)[0][item.number]
    cells = [(source, target) for source in range(run.model.n_layers) for target in range(run.model.n_layers)]
    edits = []
    for source, target in cells:
        vector, length = dose(run, item.behaviour, source), dose(run, item.behaviour, target)
        scaled = vector * (np.linalg.norm(length) / max(float(np.linalg.norm(vector)), 1e-12))
        edits += [(target, scaled, c) for c in (-1.0, 1.0)]
    moved = np.array(matching(run.model, one, edits)[1:]).reshape(len(cells), 2)
    for (source, target), (less, more) in zip(cells, moved.tolist(), strict=True):
        yield {"behaviour": item.behaviour, "unit": item.key, "layer": source, "target": target, "gap": more - less}


class Separated(TypedDict):
    """How far both answers of held-out questions lie apart at one layer, and how its vector lies to others."""

    behaviour: str
    layer: int
    n_layers: int
    n: int
    """Questions."""
    share: list[float]
    """Of the variance, in each of the first two principal components."""
    silhouettes: list[float]
    """Of every answer in these components: those that show the behaviour, then the others."""
    shuffled: list[float]
    """The same with shuffled labels."""
    next: float
    """Cosine with the vector of the next layer."""
    random: float
    """Cosine with a random vector."""
    to: dict[str, float]
    """Cosine with each behaviour's vector."""


def measure_geometry(run: Run[ChoiceConfig], item: Question) -> Iterator[Separated]:
    """Both answers of held-out questions in their first two principal components; cosines of the vector."""
    model = run.model
    items = asked(item.source, "test", run.config.n_test, run.config.seed)[0]
    sides = [[ending(model, one, getattr(one, side)) for one in items] for side in ("matching", "other")]
    states = states_of(model, [row for side in sides for row in side], f"resid_post.{item.layer}")
    centred = states - states.mean(axis=0)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    labels = np.arange(len(states)) < len(items)
    shuffled = np.random.default_rng(stable_draw(run.config.seed, item.key, 2**31)).permutation(labels)
    seen = centred @ axes[:2].T
    vector = vectors(run, item.behaviour).vectors[:, 0]
    after = min(item.layer + 1, model.n_layers - 1)
    yield {
        "behaviour": item.behaviour,
        "layer": item.layer,
        "n_layers": model.n_layers,
        "n": len(items),
        "share": (lengths[:2] ** 2 / max(float((lengths**2).sum()), 1e-30)).tolist(),
        "silhouettes": silhouettes(seen, labels).tolist(),
        "shuffled": silhouettes(seen, shuffled).tolist(),
        "next": float(cosines(vector[item.layer], vector[after])),
        "random": float(cosines(vector[item.layer], control(run, item.behaviour, item.layer))),
        "to": {
            name: float(cosines(vector[item.layer], vectors(run, name).vectors[item.layer, 0]))
            for name in behaviours(run)
        },
    }


class Projected(TypedDict):
    """The projection of one place of a question on a vector."""

    behaviour: str
    unit: str
    layer: int
    arm: str
    """direction or random."""
    place: str
    projection: float


def measure_tokens(run: Run[ChoiceConfig], item: Question) -> Iterator[Projected]:
    """Projections of a question's tokens and of either answer on the vector and on a random one."""
    model = run.model
    one = asked(item.source, item.split, run.config.n_test, run.config.seed)[0][item.number]
    _, _, last = answered(model, one)
    site = f"resid_post.{item.layer}"
    rows = [ending(model, one, answer) for answer in (one.matching, one.other)]
    held = model.run(rows, capture=site)[site].astype(mx.float32)
    states = np.asarray(held, np.float64)
    for arm, make in (("direction", dose), ("random", control)):
        vector = make(run, item.behaviour, item.layer)
        seen = states @ (vector / np.linalg.norm(vector))
        shown = seen[0, :last].mean(), seen[0, last], seen[0, len(rows[0]) - 1], seen[1, len(rows[1]) - 1]
        for place, value in zip(PLACES, shown, strict=True):
            yield {
                "behaviour": item.behaviour,
                "unit": item.key,
                "layer": item.layer,
                "arm": arm,
                "place": place,
                "projection": float(value),
            }


class InContext(TypedDict):
    """A question behind a context, under one multiple of a vector."""

    behaviour: str
    unit: str
    layer: int
    context: str
    arm: str
    """direction, random, or plain."""
    multiplier: float
    p: float
    """Of the answer that shows the behaviour, among both."""


def measure_contexts(run: Run[ChoiceConfig], item: Question) -> Iterator[InContext]:
    """p(match) of a question in every context, with the vector subtracted, left out and added."""
    one = asked(item.source, item.split, run.config.n_test, run.config.seed)[0][item.number]
    arms = {"direction": dose, "random": control}
    vectors_ = {arm: make(run, item.behaviour, item.layer) for arm, make in arms.items()}
    edits = [(item.layer, vector, c) for vector in vectors_.values() for c in (-1.0, 1.0)]
    named = [("plain", 0.0), *((arm, c) for arm in vectors_ for c in (-1.0, 1.0))]
    for context, (before, system) in contexts(run, item.behaviour, item.number).items():
        for (arm, c), p in zip(named, matching(run.model, one, edits, before, system), strict=True):
            yield {
                "behaviour": item.behaviour,
                "unit": item.key,
                "layer": item.layer,
                "context": context,
                "arm": arm,
                "multiplier": c,
                "p": p,
            }


def contexts(run: Run[ChoiceConfig], behaviour: str, number: int) -> dict[str, tuple[str, str | None]]:
    """By name: earlier turns and a system prompt."""
    found: dict[str, tuple[str, str | None]] = {"none": ("", None)}
    for side in ("matching", "other"):
        found[f"{SHOTS} turns, {side}"] = (turns(run, behaviour, side, number), None)
    systems = SYSTEMS.get(behaviour.rpartition("-")[2])
    if systems and "system" in str(getattr(run.model.tokenizer, "chat_template", "")):
        found |= {f"system prompt {word}": ("", text) for word, text in zip(("for", "against"), systems, strict=True)}
    return found


def turns(run: Run[ChoiceConfig], behaviour: str, side: str, number: int) -> str:
    """Earlier turns, other ones for every question, each answered in one way; the text begins as every prompt does."""
    model = run.model
    items = shuffled_items(behaviour, run.config.n_train, run.config.seed)
    chosen = [items[(number * SHOTS + shot) % len(items)] for shot in range(SHOTS)]
    end = model.tokenizer.eos_token or ""
    told = [model.prompt(one.question, chat=True).text.removeprefix(bos(model)) + getattr(one, side) for one in chosen]
    return bos(model) + "".join(text + end for text in told)


@lru_cache(maxsize=16)
def shuffled_items(behaviour: str, n: int, seed: int) -> list[Any]:
    items = asked(behaviour, "train", n, seed)[0]
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))]


STAGES = (
    Stage(TRANSFER, at_best, measure_transfer, record=Transferred),
    Stage(GEOMETRY, at_layers, measure_geometry, record=Separated),
    Stage(TOKENS, at_best, measure_tokens, record=Projected),
    Stage(CONTEXTS, at_best, measure_contexts, record=InContext),
)


def context_table(records: Records, config: ChoiceConfig) -> Table | None:
    """The vector in every context, a random one beside it."""
    rows: list[list[Cell]] = []
    for behaviour, context in dict.fromkeys((r["behaviour"], r["context"]) for r in of(records, CONTEXTS)):
        own = of(records, CONTEXTS, behaviour=behaviour, context=context)
        arms = (("direction", -1.0), ("plain", 0.0), ("direction", 1.0), ("random", -1.0), ("random", 1.0))
        cells = [_mean([r for r in own if (r["arm"], r["multiplier"]) == arm], "p", config.seed) for arm in arms]
        rows.append([behaviour, context, own[0]["layer"], len({r["unit"] for r in own}), *cells])
    if not rows:
        return None
    return Table(
        "Questions of two options after other turns",
        ["vector of", "context", "layer", "n", "p, -1", "p, plain", "p, +1", "p, -1, random", "p, +1, random"],
        rows,
        [
            "Turns: other questions, each answered in the way that shows the behaviour (matching) or not (other). "
            "System prompts: where the chat template has them.",
        ],
    )


def token_table(records: Records, config: ChoiceConfig) -> Table | None:
    """Projections by place."""
    rows: list[list[Cell]] = []
    for behaviour in dict.fromkeys(r["behaviour"] for r in of(records, TOKENS)):
        for arm in ("direction", "random"):
            own = of(records, TOKENS, behaviour=behaviour, arm=arm)
            cells = [_mean([r for r in own if r["place"] == place], "projection", config.seed) for place in PLACES]
            rows.append([behaviour, arm, own[0]["layer"], len({r["unit"] for r in own}), *cells])
    if not rows:
        return None
    return Table(
        "Projections by token",
        ["vector of", "on", "layer", "n", *(Column(place, "absolute", digits=1) for place in PLACES)],
        rows,
        ["Held-out questions. Question: mean over the tokens before the prompt's last one. Answers: where they part."],
    )


def cosine_table(records: Records, config: ChoiceConfig) -> Table | None:
    """Cosines of behaviours at the layer chosen for the first, and how far its answers are apart there."""
    rows: list[list[Cell]] = []
    measured = of(records, GEOMETRY)
    names = list(dict.fromkeys(r["behaviour"] for r in measured))
    for behaviour in names:
        layer = best_layer(records, behaviour)
        if layer is None:
            continue
        (own,) = (r for r in measured if r["behaviour"] == behaviour and r["layer"] == layer)
        near = [_spread(own, field, config.seed) for field in ("silhouettes", "shuffled")]
        rows.append([behaviour, layer, own["n"], *near, *(own["to"][name] for name in names), own["random"]])
    if not rows:
        return None
    return Table(
        "Vectors at the answers: separation and cosines",
        [
            *("vector of", "layer", "n", "silhouette in two components", "silhouette, shuffled labels"),
            *(f"cosine to {name}" for name in names),
            "cosine to a random vector",
        ],
        rows,
        ["At the layer chosen for the behaviour of the row. Components: of both answers of held-out questions."],
    )


def _spread(record: Record, field: str, seed: int) -> Estimate | None:
    values = record[field]
    n = len(values) // 2  # both answers of a question are one unit
    return mean_or_none(values, unit=[i % n for i in range(len(values))], seed=seed)


def _mean(records: Sequence[Record], field: str, seed: int) -> Cell:
    return Frame(records).rate(field, unit="unit", seed=seed)


def figures(records: Records, config: ChoiceConfig) -> Iterator[Plot]:
    """Transfer between layers; separation in two principal components by layer."""
    names = list(dict.fromkeys(r["behaviour"] for r in of(records, TRANSFER)))
    if names:
        yield transfer_figure(records, names)
    measured = of(records, GEOMETRY)
    names = list(dict.fromkeys(r["behaviour"] for r in measured))
    if not names:
        return
    layers = sorted({r["layer"] for r in measured})
    at = {(r["behaviour"], r["layer"]): r for r in measured}
    curves = [
        Series(name, [_spread(at[name, layer], "silhouettes", config.seed) for layer in layers]) for name in names[:5]
    ]
    null = [_spread(at[names[0], layer], "shuffled", config.seed) for layer in layers]
    yield line_with_band(
        layers,
        [*curves, Series("shuffled labels", null)],
        name="choices_separation",
        title="Both answers in two principal components",
        x_label="layer (output of the block)",
        y_label="silhouette",
        caption="How far the answer that shows a behaviour lies from the other one, in the first two principal "
        f"components of both answers of {measured[0]['n']} held-out questions, by layer; shuffled labels of "
        f"{names[0]}. Bands: 95 % intervals over questions.",
    )


def transfer_figure(records: Records, names: Sequence[str]) -> Plot:
    """Mean effect of every layer's vector after every layer."""
    n = 1 + max(r["layer"] for r in of(records, TRANSFER))
    panels = []
    for name in names:
        total, own = np.zeros((n, n)), of(records, TRANSFER, behaviour=name)
        for r in own:
            total[r["layer"], r["target"]] += r["gap"]
        panels.append(Panel(name, total / len({r["unit"] for r in own})))
    return heat_map(
        panels,
        name="choices_transfer",
        title="Vector of one layer added after another",
        x_label="layer after which it is added",
        y_label="layer of the vector",
        value_label="p(match), +1 less -1",
        caption="What the vector of one layer (rows) does after another one (columns), at the length of the "
        "other one's: probability of the answer that shows the behaviour at +1 less that at -1, mean over held-out "
        "questions.",
        columns=2,
    )
