"""The refusal direction in every version: its cosine to the stored model's, and the layer that would be chosen.

Prompts are drawn again in the same way for both versions, so that an interval of a cosine says what the prompts leave
open; stability is the cosine of a direction to that of prompts drawn again, within the stored model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np

from experiments.exp21_precision.versions import PrecisionConfig, Version, version, version_items, versions
from experiments.harness.experiment import Records, Stage
from experiments.harness.state import Run, of_run
from experiments.shared.traits.sets import Sets, sets_of
from mlx_interp.behaviour.detectors import opener_tokens
from mlx_interp.directions.candidates import Candidates, score_harmful, score_harmless
from mlx_interp.directions.contrasts import Contrast, contrast, cosines
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.reporting import finite

DIRECTIONS, SCORES = "directions", "scores"


class Compared(TypedDict):
    """A version's direction at one layer, beside the stored model's from the same prompts."""

    version: str
    layer: int
    n_layers: int
    cosine: float
    low: float
    """The cosine with what 95 % of draws of the same prompts for both versions lie below and above their median."""
    high: float
    stability: float
    """Within the stored model: cosine to the direction of prompts drawn again, median."""
    norm_ratio: float
    """Length over the stored model's."""


@dataclass(frozen=True)
class Asked:
    """A request on which candidates are scored."""

    key: str
    kind: Literal["harmful", "harmless"]
    text: str


class Scored(TypedDict):
    """What each layer's direction does to one request in one version."""

    version: str
    kind: str
    layers: list[int]
    plain: float
    """Log-odds of a refusal's opening, without any direction."""
    bypass: list[float | None]
    """Of harmful requests: the same with the direction ablated, by layer; else empty."""
    induce: list[float | None]
    """Of harmless ones: with it added."""
    kl: list[float | None]
    """Of harmless ones: nats, with it ablated."""
    n_layers: int


@of_run(2)
def sets(run: Run[PrecisionConfig]) -> Sets:
    config = run.config
    return sets_of(run.model, "refusal", config.at_most(config.n_train), config.at_most(config.n_choose))


def _train(run: Run[PrecisionConfig], model: Model) -> list[list[Prompt]]:
    found = sets(run)
    return [[model.prompt(ask.text, chat=True) for ask in kind["train"]] for kind in (found.positive, found.negative)]


@of_run(8)
def contrast_in(run: Run[PrecisionConfig], one: Version) -> Contrast:
    """The difference of means at every layer, at the last position."""
    model = version(run, one)
    harmful, harmless = _train(run, model)
    return contrast(model, harmful, harmless, seed=run.seed)


@of_run(2)
def openers(run: Run[PrecisionConfig]) -> tuple[int, ...]:
    """First tokens of the stored model's refusals."""
    harmful, harmless = _train(run, run.model)
    return tuple(opener_tokens(run.model, harmful, harmless))


def measure(run: Run[PrecisionConfig], one: Version) -> Iterator[Compared]:
    own, stored = contrast_in(run, one), contrast_in(run, version_items(run, ())[0])
    cosine = cosines(own.vectors, stored.vectors)[:, 0]
    drawn = cosines(own.resampled, stored.resampled)[..., 0]
    spread = np.quantile(drawn, [0.025, 0.975], axis=0) - np.median(drawn, axis=0)  # a draw repeats prompts: lower
    low, high = np.minimum(cosine + spread, 1.0)
    for layer in np.flatnonzero(stored.differs[:, 0] & own.differs[:, 0]).tolist():  # not where all prompts are equal
        yield {
            "version": one.key,
            "layer": layer,
            "n_layers": run.model.n_layers,
            "cosine": float(cosine[layer]),
            "low": float(low[layer]),
            "high": float(high[layer]),
            "stability": float(stored.stability[layer, 0]),
            "norm_ratio": float(own.norms[layer, 0] / stored.norms[layer, 0]),
        }


def asked(run: Run[PrecisionConfig], earlier: Records) -> list[Asked]:
    """Requests set aside for choosing; none for a model that refuses nothing."""
    if not openers(run):
        return []
    found = sets(run)
    kinds: list[tuple[Literal["harmful", "harmless"], Sequence[str]]] = [
        ("harmful", [ask.text for ask in found.positive["choose"]]),
        ("harmless", [ask.text for ask in found.negative["choose"]]),
    ]
    return [Asked(f"{kind} {number}", kind, text) for kind, texts in kinds for number, text in enumerate(texts)]


def score(run: Run[PrecisionConfig], item: Asked) -> Iterator[Scored]:
    for one, (name, model) in zip(version_items(run, ()), versions(run), strict=True):
        trying = _candidates(run, one)
        scored = (score_harmful if item.kind == "harmful" else score_harmless)(
            model, trying, [model.prompt(item.text, chat=True)]
        )[0]
        values = {
            name: [] if found is None else [finite(float(value)) for value in found]
            for name, found in (("bypass", scored.bypass), ("induce", scored.induce), ("kl", scored.kl))
        }
        yield {
            "version": name,
            "kind": item.kind,
            "layers": [layer for layer, _ in trying.cells],
            "plain": scored.plain,
            "bypass": values["bypass"],
            "induce": values["induce"],
            "kl": values["kl"],
            "n_layers": model.n_layers,
        }


@of_run(8)
def _candidates(run: Run[PrecisionConfig], one: Version) -> Candidates:
    return Candidates(contrast_in(run, one), openers(run))


STAGES: list[Stage[Any, Any, Any]] = [
    Stage(DIRECTIONS, version_items, measure, record=Compared),
    Stage(SCORES, asked, score, record=Scored),
]
