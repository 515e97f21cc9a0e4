"""Options of exp15, and what they come to on a given model and data set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from experiments.exp15_contrastive_steering.request_sources import (
    AUTO,
    PROJECT,
    TULU_NAME,
    WORLD,
    Source,
    Subset,
    is_file,
    keys,
    subset,
)
from experiments.harness.experiment import ExperimentConfig
from experiments.harness.state import Run, of_run
from mlx_interp import sites
from mlx_interp.directions.state_sets import SITE, Rule
from mlx_interp.errors import ConfigError, SiteError
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model

GRID_LAYERS = ("25%", "40%", "60%", "75%")
GRID_SCALES = (-1.0, 0.1, 0.5, 1.0, 1.5, 2.0, 5.0)
HELD = 50
"""Held-out rows of each subset that are drawn, beside those that are prompts."""


@dataclass(frozen=True)
class ContrastiveConfig(ExperimentConfig):
    """Fields of the study."""

    target_subset: str = "12"
    """Subset to steer towards: its number or name in the data, a file of chats, or hub:owner/name."""
    baseline_subset: str = "0"
    """Subset to steer away from."""
    layer: str = "60%"
    """Layer whose resid_post is read and steered: a number, or a share of the depth."""
    scale: float = 1.0
    """Multiple of the difference of means that is added; negative ones steer towards the baseline."""
    inference_dataset: str | None = None
    """Subset whose held-out prompts are steered; none: the built-in prompts."""
    inference_n_samples: int = 10
    """How many of them; -1 for all. The built-in prompts are always taken whole."""
    n_samples: int = 100
    """Rows of each subset from which its mean is taken; fewer where it has fewer."""
    max_tokens: int | None = None
    """Tokens of every text; none: 100, on embedded models 12."""
    temperature: float | None = None
    """Of the sampling, 0 is greedy; none: 0.7, on embedded models 0."""
    draws: int = 1
    """Texts of each prompt and setting, sampled with seeds of their own."""
    data: str = AUTO
    """world, project, tulu, a data set of the Hub or a file of chats; auto: world on embedded models, else tulu."""
    split: str = "train"
    """Split of a data set of the Hub."""
    column: str = "source"
    """Column that names the subset, in a data set of the Hub or a file."""
    study: Literal["auto", "pair", "grid"] = "auto"
    """pair: target against baseline. grid: all subsets too, layers, scales, rules. auto: grid on embedded models."""
    layers: tuple[str, ...] = ()
    """Further layers to steer at."""
    scales: tuple[float, ...] = ()
    """Further scales."""
    other_pair: tuple[str, ...] = ()
    """Two subsets whose difference, at the length of the pair's own, is a control."""
    rule: Rule = "last"
    """Token whose activation is taken: the last of the prompt, or a mean over prompt or reply."""
    longest: int = 1024
    """Rows with longer prompts, in tokens, are left out of the means."""

    def __post_init__(self) -> None:
        if self.n_samples < 4 or self.draws < 1 or self.longest < 1:
            raise ConfigError("n_samples must be 4 or more, draws and longest 1 or more")
        if self.inference_n_samples < 1 and self.inference_n_samples != -1:
            raise ConfigError(f"inference_n_samples {self.inference_n_samples}: give a number of prompts, -1 for all")
        if self.other_pair and len(self.other_pair) != 2:
            raise ConfigError(f"other_pair {','.join(self.other_pair)}: give two subsets, target,baseline")
        if self.target_subset == self.baseline_subset:
            raise ConfigError(f"target and baseline are both {self.target_subset!r}: their difference is nothing")
        if not all(math.isfinite(scale) for scale in (self.scale, *self.scales)):
            raise ConfigError(f"scales {self.scale}, {self.scales}: give finite numbers, 0 for no steering")


@dataclass(frozen=True)
class Setting:
    """What the options come to."""

    source: Source
    grid: bool
    target: Subset
    baseline: Subset
    subsets: tuple[Subset, ...]
    """All that are loaded, target and baseline among them."""
    other: tuple[Subset, ...]
    inference: Subset | None
    layer: int
    layers: tuple[int, ...]
    scales: tuple[float, ...]
    max_tokens: int
    temperature: float

    def subset(self, key: str) -> Subset:
        return next(one for one in self.subsets if one.key == key)


@of_run(4)
def setting(run: Run[ContrastiveConfig]) -> Setting:
    """Raises ConfigError for a layer that the model does not have, DataError for data that cannot be had."""
    config = run.config
    embedded = run.model.name in EMBEDDED
    data = config.data if config.data != AUTO else WORLD if embedded else TULU_NAME
    grid = embedded and data == WORLD if config.study == "auto" else config.study == "grid"
    n_held = None if config.inference_n_samples < 0 else HELD + config.inference_n_samples
    source = Source(data, config.split, config.column, config.n_samples, n_held, config.seed)
    target, baseline = (subset(source, key) for key in (config.target_subset, config.baseline_subset))
    inference = subset(source, config.inference_dataset) if config.inference_dataset is not None else None
    loaded = [subset(source, key) for key in keys(source)] if grid else []
    others = config.other_pair or (_other_pair(loaded, target, baseline) if grid else ())
    other = tuple(subset(source, key) for key in others)
    distinct = {one.key: one for one in (target, baseline, *loaded, *other, *([inference] if inference else []))}
    layer = layer_of(run.model, config.layer)
    return Setting(
        source=source,
        grid=grid,
        target=target,
        baseline=baseline,
        subsets=tuple(sorted(distinct.values(), key=_order)),
        other=other,
        inference=inference,
        layer=layer,
        layers=tuple(
            sorted({layer, *(layer_of(run.model, x) for x in config.layers or (GRID_LAYERS if grid else ()))})
        ),
        scales=tuple(sorted({config.scale, *(config.scales or (GRID_SCALES if grid else ()))})),
        max_tokens=config.max_tokens or (12 if embedded else 100),
        temperature=config.temperature if config.temperature is not None else 0.0 if embedded else 0.7,
    )


def layer_of(model: Model, text: str) -> int:
    """A layer by number or share of the depth. Raises ConfigError with the layers that there are."""
    try:
        found = sites.parse_all(f"{SITE}.{text}", model.n_layers)
    except SiteError as error:
        raise ConfigError(
            f"layer {text!r}: {model.name} has layers 0 to {model.n_layers - 1}; give one, or a share of the depth "
            "such as 60%"
        ) from error
    if len(found) != 1:
        raise ConfigError(f"layer {text!r}: give one layer, and further ones with --layers")
    return int(found[0].layer)


def _other_pair(loaded: list[Subset], target: Subset, baseline: Subset) -> tuple[str, ...]:
    """Two subsets that are neither, from the middle of the list."""
    free = [one.key for one in loaded if one.key not in (target.key, baseline.key)]
    return (free[len(free) // 2], free[len(free) // 2 + 1]) if len(free) >= 4 else ()


def _order(one: Subset) -> tuple[int, int, str]:
    return (0, int(one.key), "") if one.key.isdecimal() else (1, 0, one.key)


def describe_data(source: Source) -> str:
    """Where the data are from, for captions."""
    known = {WORLD: "the embedded world", PROJECT: "this project", TULU_NAME: "Tulu 3"}
    if source.data in known:
        return known[source.data]
    return source.data if is_file(source.data) else f"{source.data} (Hub)"
