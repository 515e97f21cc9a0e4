"""Autoencoders in every version: one trained on its own states, and the stored model's put into it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from experiments.exp21_precision.moved_texts import some, split_texts
from experiments.exp21_precision.versions import STORED, PrecisionConfig, Version, version, version_items
from experiments.harness.experiment import Records, Stage
from experiments.harness.state import Run, of_run
from experiments.shared.project_texts import prompt_of
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.sae import SAE, TrainConfig, loss, reconstruction, train
from mlx_interp.sae.streams import Floats, activations

DICTIONARIES = "dictionaries"
BATCH = 256
"""Tokens of a training step, where there are as many."""
OWN, OF_STORED, OTHER_SEED = "its own", "the stored model's", "another seed"


@dataclass(frozen=True)
class Dictionary:
    """An autoencoder, and the version that it is measured in."""

    measured_in: Version
    which: str

    @property
    def key(self) -> str:
        return f"{self.which}, {self.measured_in.key}"


class Spliced(TypedDict):
    """An autoencoder on held-out texts in one version."""

    version: str
    dictionary: str
    """its own, the stored model's, or another seed."""
    site: str
    fve: float
    l0: float
    dead: float
    tokens: int
    delta: list[float]
    """By text: what splicing the reconstruction in costs, nats a token."""
    zero: list[float]
    """By text: what zeros in its place cost."""


def dictionaries(run: Run[PrecisionConfig], earlier: Records) -> list[Dictionary]:
    """Of every version its own; the stored model's in the others; in the stored one a second from another seed."""
    found = []
    for one in version_items(run, ()):
        found += [Dictionary(one, OWN), Dictionary(one, OTHER_SEED if one.key == STORED else OF_STORED)]
    return found


def site(model: Model) -> str:
    """The middle of the model."""
    return f"resid_post.{model.n_layers // 2}"


@of_run(8)
def states(run: Run[PrecisionConfig], one: Version) -> Floats:
    """Activations (token, d_model) of the training texts in one version."""
    model = version(run, one)
    texts = some(split_texts(run)[0], run.config.n_train_texts)
    return activations(model, [prompt_of(model, text) for text in texts], site(model))


@of_run(8)
def trained(run: Run[PrecisionConfig], one: Version, seed: int) -> SAE:
    config, model, rows = run.config, run.model, states(run, one)
    batch_size = min(BATCH, len(rows))
    how = TrainConfig(
        kind="topk",
        k=config.k,
        d_sae=config.expansion * model.d_model,
        steps=config.steps,
        batch_size=batch_size,
        learning_rate=4e-3,
        warm_up=max(1, config.steps // 10),
        dead_after=config.steps * batch_size // 8,
        aux_k=model.d_model // 2,
        seed=config.seed + seed,
    )
    return train(rows, site(model), how)


def held_prompts(run: Run[PrecisionConfig], model: Model) -> list[Prompt]:
    return [prompt_of(model, text) for text in some(split_texts(run)[1], run.config.n_loss_texts)]


def measure(run: Run[PrecisionConfig], item: Dictionary) -> Iterator[Spliced]:
    one = item.measured_in
    model = version(run, one)
    first = version_items(run, ())[0]
    sae = trained(run, first if item.which == OF_STORED else one, 1 if item.which == OTHER_SEED else 0)
    prompts = held_prompts(run, model)
    held = activations(model, prompts, site(model))
    found = reconstruction(sae, held)
    lost = loss(model, sae, prompts, np.mean(states(run, one), axis=0))
    yield {
        "version": one.key,
        "dictionary": item.which,
        "site": site(model),
        "fve": found.fve,
        "l0": found.l0,
        "dead": found.dead,
        "tokens": found.n_tokens,
        "delta": (lost.spliced - lost.clean).tolist(),
        "zero": (lost.zero - lost.clean).tolist(),
    }


STAGES: list[Stage[Any, Any, Any]] = [Stage(DICTIONARIES, dictionaries, measure, record=Spliced)]
