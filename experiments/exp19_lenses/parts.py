"""The parts of exp19, and the stages of those that a run has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from experiments.exp19_lenses.attributes import AttributeConfig
from experiments.exp19_lenses.basis import BasisConfig
from experiments.exp19_lenses.depth import DepthConfig
from experiments.exp19_lenses.early_exit import ExitConfig
from experiments.exp19_lenses.injection import InjectionConfig
from experiments.exp19_lenses.lens_texts import of_world
from experiments.exp19_lenses.token_identity import IdentityConfig
from experiments.harness.experiment import Records, RecordT, Stage
from experiments.harness.state import Run

Part = Literal["text", "input", "basis", "depth", "early_exit", "injection", "token_identity", "reader", "attributes"]
PARTS: tuple[Part, ...] = get_args(Part)
OF_WORLD: tuple[Part, ...] = ("depth", "attributes")
"""Parts whose truth only the embedded world tells."""


@dataclass(frozen=True)
class Config(BasisConfig, DepthConfig, ExitConfig, InjectionConfig, IdentityConfig, AttributeConfig):
    parts: tuple[Part, ...] = ()
    """Which parts of the study to run; none named: all that the model has texts for (depth and attributes are of the
    embedded world)."""


Items: TypeAlias = "Callable[[Run[Config]], list[Any]]"
Measure: TypeAlias = "Callable[[Run[Config], Any], Iterable[RecordT]]"


def parts_of(run: Run[Config]) -> tuple[Part, ...]:
    """The parts of a run."""
    return run.config.parts or tuple(part for part in PARTS if of_world(run.model) or part not in OF_WORLD)


def stage(
    part: Part, name: str, items: Items, measure: Measure[RecordT], record: type[RecordT], batch: int | None = None
) -> Stage[Config, Any, RecordT]:
    """A stage that reads no earlier one, for runs that have its part."""

    def asked(run: Run[Config], earlier: Records) -> list[Any]:
        return items(run) if part in parts_of(run) else []

    return Stage(name, asked, measure, batch, record=record)
