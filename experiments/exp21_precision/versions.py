"""The versions of one model: as it is stored, and in fewer bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.harness.experiment import Records
from experiments.harness.state import Run, of_run
from experiments.shared.two_hop.data import TwoHopConfig
from mlx_interp.errors import ConfigError
from mlx_interp.loading.load import load
from mlx_interp.model import Model

STORED = "as stored"


@dataclass(frozen=True)
class PrecisionConfig(TwoHopConfig):
    bits: tuple[int, ...] = (8, 4)
    """Bits of a weight in the versions that are compared with the model as it is stored."""
    group_size: int = 64
    """Weights that share a scale and an offset."""
    n_texts: int = 90
    """Held-out texts, evenly of all kinds."""
    n_train: int = 48
    """Prompts of each kind from which directions are found."""
    n_choose: int = 16
    """Prompts of each kind on which the layer is chosen."""
    n_queries: int = 90
    """Two-hop queries that every version is asked."""
    n_failures: int = 30
    """Queries at most, of those that the stored model fails at, that every version is repaired on."""
    layer_step: int = 3
    """Of the layers, every so many is a source and a target of back-patching."""
    n_train_texts: int = 600
    """Texts that autoencoders are trained on."""
    n_loss_texts: int = 30
    """Held-out texts on which their loss is measured."""
    k: int = 16
    """Active features of a token."""
    expansion: int = 4
    """Features for each dimension."""
    steps: int = 300
    """Of training."""


@dataclass(frozen=True)
class Version:
    """One version of the model; no bits: as it is stored."""

    bits: int | None

    @property
    def key(self) -> str:
        return STORED if self.bits is None else f"{self.bits} bits"


def version_items(run: Run[PrecisionConfig], earlier: Records) -> list[Version]:
    """All versions, the stored one first. Raises ConfigError where there is none to compare it with."""
    if not run.config.bits:
        raise ConfigError("bits: nothing to compare the stored model with: give one number or more, e.g. --bits 8,4")
    return [Version(None), *(Version(bits) for bits in dict.fromkeys(run.config.bits))]


@of_run(8)
def version(run: Run[PrecisionConfig], one: Version) -> Model:
    """The model in one version."""
    model = run.model
    if one.bits is None:
        return model
    return load(model.path, bits=one.bits, group_size=run.config.group_size)


def versions(run: Run[PrecisionConfig]) -> Sequence[tuple[str, Model]]:
    """Name and model of every version."""
    return [(one.key, version(run, one)) for one in version_items(run, ())]
