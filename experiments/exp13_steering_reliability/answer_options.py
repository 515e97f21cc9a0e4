"""Steerability of answers to questions with two options, and what of it is a bias (Tan et al. 2024).

1. A question ends by naming its options, Yes and No, once in either order. A behaviour says which of them is the
   positive answer: agreeing with the user, keeping one's own view, saying yes.
2. Vector: mean over training questions of resid_post at the answer word, positive minus negative, at its own length.
3. Propensity: difference of the two words' logits. It is read with multiples of the vector added at the last prompt
   token, where the answer is predicted; the least-squares slope is the question's steerability.
4. Bias: regression of the slopes on whether the positive answer is named first, and whether it is Yes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import scipy

from experiments.exp13_steering_reliability.steering_runs import WRAPPERS, ReliabilityConfig, layers
from experiments.harness.experiment import Records, Stage
from experiments.harness.state import Run, of_run
from experiments.shared.traits import own_sets
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.embedded import load_world
from mlx_interp.interventions import Add, Intervention
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.reporting import finite

VECTORS, OPTIONS = "option vectors", "option slopes"
BEHAVIOURS = ("agrees with the user", "keeps its own view", "says yes")
FORMS = ("same form", "other wording")
WORDS = ("Yes", "No")
SITE = "resid_post"


@dataclass(frozen=True)
class Row:
    """One question, its options in one order."""

    key: str
    topic: str
    text: str
    positive: str
    first: str
    """The option that is named first."""
    form: str
    split: str

    @property
    def negative(self) -> str:
        return WORDS[1 - WORDS.index(self.positive)]


@dataclass(frozen=True)
class Behaviour:
    """An item: a behaviour, or one question of it."""

    key: str
    name: str
    row: Row | None = None


@of_run(16)
def rows(run: Run[ReliabilityConfig], behaviour: str) -> tuple[Row, ...]:
    """All questions of a behaviour: "train" at most n_train, "test" at most twice n_test of each form."""
    asked = _of_world(behaviour) if run.model.name in EMBEDDED else _of_project(behaviour)
    found = []
    for form in FORMS:
        for split, most in (("train", run.config.n_train), ("test", run.config.n_test)):
            own = [one for one in asked if (one[3], one[4]) == (form, split)]
            kept = [own[i * len(own) // most] for i in range(most)] if len(own) > most else own
            for topic, text, positive, *_ in kept:
                for order in (WORDS, WORDS[::-1]):
                    whole = f"{text} {order[0]}? {order[1]}?"
                    found.append(Row(f"{behaviour}: {whole}", topic, whole, positive, order[0], form, split))
    return tuple(found)


def _of_world(behaviour: str) -> list[tuple[str, str, str, str, str]]:
    """Topic, text, positive word, form and split of the world's opinions."""
    found = []
    for chat in load_world().chat_prompts("opinion"):
        if chat.stance and not chat.firm:
            agreeing = WORDS[chat.stance != "likes"]
            positive = {BEHAVIOURS[0]: agreeing, BEHAVIOURS[1]: chat.own_view.capitalize(), BEHAVIOURS[2]: WORDS[0]}
            form = FORMS[1] if chat.shift else FORMS[0]
            found.append((chat.topic, chat.text, positive[behaviour], form, chat.split))
    return found


def _of_project(behaviour: str) -> list[tuple[str, str, str, str, str]]:
    """The same of the project's own topics, on which no view of the model is known."""
    data, found = own_sets.read("en"), []
    if behaviour == BEHAVIOURS[1]:
        return []
    for opinion in data.opinions:
        split = "test" if opinion.n % 3 == 0 else "train"
        for name, agreeing in (("likes", WORDS[0]), ("dislikes", WORDS[1])):
            text = data.frames.around(name, opinion)
            positive = agreeing if behaviour == BEHAVIOURS[0] else WORDS[0]
            found.append((opinion.topic, text, positive, FORMS[0], split))
            if split == "test":
                found.append((opinion.topic, WRAPPERS[FORMS[1]].format(text), positive, FORMS[1], split))
    return found


@dataclass(frozen=True, eq=False)
class Found:
    """A behaviour's vectors by layer, and how well single questions agree with them."""

    vectors: dict[int, np.ndarray]
    stream: dict[int, float]
    agreement: dict[int, float]
    """Mean cosine of a training question's own difference to the vector."""
    separation: dict[int, float]
    """d' of positive and negative answers along the vector, on held-out questions of the trained form."""


@of_run(16)
def vectors(run: Run[ReliabilityConfig], behaviour: str) -> Found:
    """(d_model,) for each layer of the study: positive minus negative answer, mean over the training questions."""
    asked = rows(run, behaviour)
    train = [row for row in asked if row.split == "train" and row.form == FORMS[0]]
    test = [row for row in asked if row.split == "test" and row.form == FORMS[0]]
    chosen = layers(run)
    at = {split: _answers(run.model, part, chosen) for split, part in (("train", train), ("test", test))}
    found = Found({}, {}, {}, {})
    for layer in chosen:
        single = at["train"][layer][0] - at["train"][layer][1]
        mean = single.mean(axis=0)
        length = max(float(np.linalg.norm(mean)), 1e-12)
        found.vectors[layer] = mean.astype(np.float32)
        found.stream[layer] = float(np.linalg.norm(np.concatenate(at["train"][layer]), axis=1).mean())
        cosines = single @ mean / (np.maximum(np.linalg.norm(single, axis=1), 1e-12) * length)
        found.agreement[layer] = float(cosines.mean())
        above, below = (side @ mean / length for side in at["test"][layer])
        spread = np.sqrt((above.var(ddof=1) + below.var(ddof=1)) / 2)
        found.separation[layer] = float((above.mean() - below.mean()) / max(float(spread), 1e-12))
    return found


def _answers(model: Model, asked: Sequence[Row], chosen: Sequence[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """By layer: activations (n_rows, d_model) at the positive and at the negative answer, in float64."""
    selector = f"{SITE}.{','.join(map(str, chosen))}"
    sides: list[dict[int, list[np.ndarray]]] = []
    for side in ("positive", "negative"):
        prompts = [[*model.prompt(row.text, chat=True).tokens, _word(model, getattr(row, side))] for row in asked]
        held: dict[int, list[np.ndarray]] = {layer: [] for layer in chosen}
        for out in model.batches(prompts, capture=selector):
            for layer in chosen:
                values = np.asarray(out[f"{SITE}.{layer}"].astype(mx.float32), np.float64)
                held[layer] += [values[row, length - 1] for row, length in enumerate(out.lengths)]
        sides.append(held)
    return {layer: (np.stack(sides[0][layer]), np.stack(sides[1][layer])) for layer in chosen}


def _word(model: Model, word: str) -> int:
    """The first token of an answer at the beginning of a turn."""
    return int(model.tokenizer.encode(word, add_special_tokens=False)[0])


def behaviours(run: Run[ReliabilityConfig], earlier: Records) -> list[Behaviour]:
    """The behaviours that have training and test questions on this model."""
    return [Behaviour(name, name) for name in BEHAVIOURS if rows(run, name)]


class Behaved(TypedDict):
    """A behaviour's vector at one layer."""

    behaviour: str
    layer: int
    n_layers: int
    norm: float
    relative_norm: float
    """Length over the mean norm of the stream there."""
    agreement: float
    """Mean cosine of a training question's own difference to the vector."""
    separation: float | None
    """d' of positive and negative answers along it, on held-out questions."""


def measure_vectors(run: Run[ReliabilityConfig], item: Behaviour) -> Iterator[Behaved]:
    """Length, agreement and separation of a behaviour's vector at every layer."""
    found = vectors(run, item.name)
    for layer, vector in found.vectors.items():
        norm = float(np.linalg.norm(vector))
        yield {
            "behaviour": item.name,
            "layer": layer,
            "n_layers": run.model.n_layers,
            "norm": norm,
            "relative_norm": norm / found.stream[layer],
            "agreement": found.agreement[layer],
            "separation": finite(found.separation[layer]),
        }


def questions(run: Run[ReliabilityConfig], earlier: Records) -> list[Behaviour]:
    """All held-out questions of all behaviours."""
    return [
        Behaviour(row.key, item.name, row)
        for item in behaviours(run, earlier)
        for row in rows(run, item.name)
        if row.split == "test"
    ]


class Answered(TypedDict):
    """How one question's answer follows the multiple of a vector."""

    behaviour: str
    form: str
    unit: str
    """The topic."""
    layer: int
    arm: str
    named_first: bool
    """Whether the positive answer is the option that is named first."""
    is_yes: bool
    slope: float
    """Of the positive word's logit less the negative one's, a multiple, least squares."""
    residual: float
    """Root mean square from the line."""
    rank: float | None
    """Spearman's correlation; None where the logits do not move."""
    propensity: float
    """The logits' difference without the vector."""


def measure_options(run: Run[ReliabilityConfig], item: Behaviour) -> Iterator[Answered]:
    """Every layer's slope of one question, under the behaviour's vector and a random one as long."""
    row, doses = item.row, np.array(run.config.multiples)
    assert row is not None
    prompt, found = run.model.prompt(row.text, chat=True), vectors(run, item.name)
    cells = [(layer, arm) for layer in found.vectors for arm in ("learned", "random")]
    values = {cell: mx.array(_of_arm(found.vectors[cell[0]], *cell, item.name, run.config)) for cell in cells}
    variants: list[list[Intervention]] = [
        [Add(f"{SITE}.{layer}", values[layer, arm], float(dose), -1)] for layer, arm in cells for dose in doses
    ]
    positive, negative = (_word(run.model, word) for word in (row.positive, row.negative))
    metric = lambda logits: (logits[:, positive] - logits[:, negative]).astype(mx.float32)  # noqa: E731
    read = np.asarray(run.model.sweep(prompt, variants, metric=metric), np.float64).reshape(len(cells), len(doses))
    for (layer, arm), line in zip(cells, read, strict=True):
        slope, intercept = np.polyfit(doses, line, 1)
        yield {
            "behaviour": item.name,
            "form": row.form,
            "unit": row.topic,
            "layer": layer,
            "arm": arm,
            "named_first": row.first == row.positive,
            "is_yes": row.positive == WORDS[0],
            "slope": float(slope),
            "residual": float(np.sqrt(np.mean((line - slope * doses - intercept) ** 2))),
            "rank": finite(float(scipy.stats.spearmanr(doses, line).statistic)) if np.ptp(line) else None,
            "propensity": float(line[np.argmin(np.abs(doses))]),
        }


def _of_arm(vector: np.ndarray, layer: int, arm: str, name: str, config: ReliabilityConfig) -> np.ndarray:
    if arm == "learned":
        return vector
    return random_like(vector, seed=config.seed, key=("options", name, layer)).astype(np.float32)


STAGES = (
    Stage(VECTORS, behaviours, measure_vectors, record=Behaved),
    Stage(OPTIONS, questions, measure_options, record=Answered),
)
