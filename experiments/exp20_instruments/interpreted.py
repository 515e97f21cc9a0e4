"""Automatic interpretation: do explanations of neurons by a model tell where these are active?

Neurons of one layer's MLP, drawn among those that are active on few tokens, are explained by a model from half of their
most active texts; the same model, with an explanation alone, then says which of other texts a neuron is active on
(detection) and which marks are right (fuzzing). Control: the explanation of the next neuron. A neuron is called active
on a token above a quantile of its activations: an MLP's hidden values are rarely exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.exp20_instruments.hop_pairs import PairConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run, of_run
from experiments.shared.project_texts import sentences
from mlx_interp.errors import DataError
from mlx_interp.loading.load import load
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.massive_activations import first_position
from mlx_interp.model import Model
from mlx_interp.pages.feature_page import Example
from mlx_interp.prompts import Prompt
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.sae.interpretation import FeatureTexts, explain, feature_texts, judges, score
from mlx_interp.sae.streams import activations as read_activations
from mlx_interp.stats import stable_draw

STAGE = "features"
OWN, OTHER = "own explanation", "another neuron's"
QUANTILE = 0.995
"""Of a neuron's activations over all tokens: above it, a neuron is called active."""
SPARSE = 0.25
"""Neurons that are active on more of the texts are not drawn: nothing would be left to tell them from."""


@dataclass(frozen=True)
class InterpretationConfig(PairConfig):
    """Fields of automatic interpretation."""

    n_neurons: int = 12
    """Neurons that are explained."""
    n_texts: int = 600
    """Texts on which their activations are read."""
    neuron_layer: int = -1
    """Layer of the MLP; -1: half-way up."""
    explainer: str = ""
    """The model that explains and judges; none: the model itself."""


@dataclass(frozen=True)
class Neuron:
    """One neuron, as an item."""

    key: str
    number: int


class Interpreted(TypedDict):
    """One explanation, scored on one neuron's texts."""

    neuron: int
    arm: str
    explanation: str
    texts: int
    """Active ones that were scored; as many inactive ones."""
    detection: float | None
    """Area under the ROC curve; None for too few texts, so for fuzzing."""
    fuzzing: float | None


def site(run: Run[InterpretationConfig]) -> str:
    """The hidden values of one layer's MLP."""
    layer = run.config.neuron_layer
    return f"mlp_act.{run.model.n_layers // 2 if layer < 0 else layer}"


@of_run(1)
def activations(run: Run[InterpretationConfig]) -> tuple[list[Prompt], list[np.ndarray]]:
    """Texts of the project, and neurons at each of their tokens (n_tokens, n_neurons), 0 where one is not active."""
    model, where = run.model, site(run)
    texts = list(dict.fromkeys(one.text for one in sentences()))
    texts.sort(key=lambda text: stable_draw(run.seed, text, 2**62))
    prompts = [model.prompt(text) for text in texts[: run.config.at_most(run.config.n_texts)]]
    every = read_activations(model, prompts, where)  # (n_tokens, n_neurons), without BOS
    bound = np.maximum(np.quantile(every, QUANTILE, axis=0), 0)
    starts = [first_position(model, prompt) for prompt in prompts]
    ends = np.cumsum([len(prompt) - start for prompt, start in zip(prompts, starts, strict=True)])
    parts = np.split(np.where(every > bound, every, 0), ends[:-1])
    return prompts, [np.pad(part, ((start, 0), (0, 0))) for part, start in zip(parts, starts, strict=True)]


def neurons(run: Run[InterpretationConfig]) -> list[Neuron]:
    """Numbers of neurons, drawn by the seed; none where nobody explains them: embedded models, and no chat model."""
    chats = bool(run.config.explainer or getattr(run.model.tokenizer, "chat_template", None))
    if run.model.name in EMBEDDED or not chats:
        return []
    n = run.config.at_most(run.config.n_neurons)
    return [Neuron(f"neuron {place}", place) for place in range(n)]


@of_run(1)
def drawn(run: Run[InterpretationConfig]) -> list[tuple[int, FeatureTexts, str]]:
    """The neurons with their texts and explanations. Raises DataError where too few are active on few texts."""
    prompts, values = activations(run)
    shares = np.mean([value.max(axis=0) > 0 for value in values], axis=0)
    order = np.random.default_rng(run.seed).permutation(len(shares))
    explainer, found = _explainer(run), []
    for number in order:
        if not 0 < shares[number] <= SPARSE:
            continue
        examples = [
            Example(tuple(prompt.pieces), tuple(value[:, number].tolist()))
            for prompt, value in zip(prompts, values, strict=True)
        ]
        try:
            texts = feature_texts(examples, seed=run.seed)
        except DataError:
            continue
        found.append((int(number), texts, explain(explainer, texts.shown)))
        if len(found) == len(neurons(run)):
            return found
    raise DataError(
        f"{run.model.name}: {len(found)} neurons of {site(run)} are active on some of {len(prompts)} texts and not on "
        f"most: give more with --n-texts, or ask for fewer than {len(neurons(run))} with --n-neurons"
    )


@of_run(1)
def _explainer(run: Run[InterpretationConfig]) -> Model:
    return load(run.config.explainer) if run.config.explainer else run.model


def measure(run: Run[InterpretationConfig], item: Neuron) -> Iterator[Interpreted]:
    """A neuron's explanation and the next one's, on this neuron's texts."""
    found = drawn(run)
    number, texts, _ = found[item.number]
    detects, fuzzes = judges(_explainer(run))
    for arm, explained in ((OWN, found[item.number]), (OTHER, found[(item.number + 1) % len(found)])):
        scored = score(explained[2], texts, detects=detects, fuzzes=fuzzes, seed=run.seed)
        yield {
            "neuron": number,
            "arm": arm,
            "explanation": explained[2],
            "texts": len(texts.active),
            "detection": scored.detection.value if scored.detection else None,
            "fuzzing": scored.fuzzing.value if scored.fuzzing else None,
        }


def headline(records: Records, config: InterpretationConfig) -> str | None:
    """What an explanation tells of its own neuron, and another's of it."""
    told = [
        of(records, STAGE, arm=arm).measured("detection").rate("detection", unit="neuron", seed=config.seed)
        for arm in (OWN, OTHER)
        if of(records, STAGE)
    ]
    return f"neurons explained: detection {told[0]}, another's {told[1]}" if told and None not in told else None


def score_table(records: Records, config: InterpretationConfig) -> Table | None:
    """Scores over neurons, of their own explanations and of others'."""
    found = of(records, STAGE)
    rows: list[list[Cell]] = []
    for arm in (OWN, OTHER) if found else ():
        mine = found.where(arm=arm)
        scores = [mine.measured(name).rate(name, unit="neuron", seed=config.seed) for name in ("detection", "fuzzing")]
        rows.append([arm, len(mine), sum(mine.values("texts")), *scores])
    columns: list[Column | str] = [
        *("explanation", "n neurons", "active texts"),
        *(Column("detection"), Column("fuzzing")),
    ]
    note = (
        f"Mean area under the ROC curve, .5 by chance, over neurons of the MLP. Active: above quantile {QUANTILE} of "
        f"the neuron's values. Explained and judged by {config.explainer or 'the model itself'}."
    )
    return Table("Explanations of neurons", columns, rows, [note]) if rows else None


def phrase_table(records: Records, config: InterpretationConfig) -> Table | None:
    """What was said of each neuron, best told first."""
    mine = sorted(of(records, STAGE, arm=OWN), key=lambda row: -(row["detection"] or 0))
    rows: list[list[Cell]] = [[r["neuron"], r["explanation"] or "-", r["detection"], r["fuzzing"]] for r in mine]
    columns: list[Column | str] = ["neuron", "explanation", Column("detection"), Column("fuzzing")]
    return Table("Neurons and what was said of them", columns, rows) if rows else None


TABLES = (score_table, phrase_table)
