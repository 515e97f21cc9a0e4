"""What an experiment is: options, stages of measurement, tables, figures. Described here, run by runner.py."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from mlx_interp.pages import Page
from mlx_interp.reporting import Plot, Record, Table
from mlx_interp.stats import Estimate

if TYPE_CHECKING:
    from experiments.harness.state import Run

Records: TypeAlias = Sequence[Record]


class Item(Protocol):
    """Anything that is measured: needs a name that is unique in its stage and the same in every run."""

    @property
    def key(self) -> str: ...


@dataclass(frozen=True)
class ExperimentConfig:
    """Options that every experiment has; an experiment's Config adds its own fields, each with its text below it."""

    seed: int = 0
    """Random seed: everything random follows from it."""
    limit: int | None = None
    """Number of prompts at most, for a look: in the first stage, evenly from all groups."""

    def at_most(self, n: int) -> int:
        """So many prompts of a kind, or as few as --limit says: FEWEST at least, for what is chosen on some of them."""
        return n if self.limit is None else min(n, max(self.limit, FEWEST))


FEWEST = 4
"""Prompts of a kind that a choice is made on."""

LOOK = 32
"""--limit up to this many prompts is a look: an experiment's `look` stands in for its defaults."""

ConfigT = TypeVar("ConfigT", bound=ExperimentConfig)
MeasuredT = TypeVar("MeasuredT", bound=ExperimentConfig, contravariant=True)
"""Options that a stage asks for: one that asks for fewer serves a study that has more."""
ItemT = TypeVar("ItemT", bound=Item)
RecordT = TypeVar("RecordT", bound=Mapping[str, Any])
"""What a stage writes: a TypedDict."""


@dataclass(frozen=True)
class Stage(Generic[MeasuredT, ItemT, RecordT]):
    """One round of measurement over items; a later stage sees the records of the earlier ones.

    items(run, earlier) -> the items, in an order that depends on nothing else. `earlier` are the records of all
        stages before, so that a stage measures, say, only the queries that an earlier one found to count.
    measure(run, item) -> plain records of one item; touches no file. The runner adds "stage" and "item".
    batch: when set, measure gets a list of up to that many items, always the same ones together, and each of its
        records names its own: {"item": item.key, ...}. A killed run goes on at the next item, or batch.
    record: the type of the records, a TypedDict that measure yields: they are checked against it when they are written,
        and --help prints it.
    """

    name: str
    items: Callable[[Run[MeasuredT], Records], Sequence[ItemT]]
    measure: (
        Callable[[Run[MeasuredT], ItemT], Iterable[RecordT]]
        | Callable[[Run[MeasuredT], list[ItemT]], Iterable[RecordT]]
    )
    batch: int | None = None
    record: type[RecordT] = field(kw_only=True)


@dataclass(frozen=True)
class Plan:
    """What a run will cost, for --dry-run."""

    prompts: int
    counterfactuals: int
    forward_passes: float
    """Forward passes that cost as much."""
    memory_bytes: int
    """Estimated memory at the peak, weights included."""
    disk_bytes: int | None = None
    """What will be written beside the run folder, for experiments that do."""
    tokens: int = 16
    """Of a pass: what one costs where nothing was run yet. Prompts of most studies are about as long."""


@dataclass(frozen=True)
class Metric:
    """One figure that a run is compared with other models' runs by."""

    name: str
    unit: str
    """"%" for shares, which are given as fractions; else e.g. "layers"."""
    estimate: Estimate | None


@dataclass(frozen=True)
class Experiment(Generic[ConfigT]):
    """A study, as its module states it.

    name: of module and folder, e.g. "exp9_back_patching". config: subclass of ExperimentConfig, defined in the module
    of the experiment, whose docstring is the --help. tables, figures, headline: functions of (records, config), where
    records are those of all stages; they see nothing else, so equal records make equal files. A table function returns
    None where nothing was measured for it, a figure function one Plot or several.
    plan: (run, items of the main stage) -> Plan.
    main: name of the stage whose items --limit cuts and the plan counts; the first one if left out.
    group: of an item of the main stage; --limit takes evenly from all groups.
    limits_items: whether --limit cuts the main stage; False where its items are no prompts (layers, say), and the
        study's own data read config.limit.
    look: values of fields that stand in for the defaults under a --limit of up to LOOK prompts, for what a study does
        that is not by the prompt: steps of training, texts trained on, draws. What is given by name wins.
    scaling: (records, config) -> what is drawn against depth and size once several models have been run.
    read_config: a --config file -> values of fields and the models it names, for files that are more than one line a
        field.
    start_over: (run) -> removes what earlier runs left outside the run folder; --fresh calls it.
    whole_model: why the model cannot be split over processes (--shard) in this study; empty where it can.
    alone: why one process must measure it (no --workers); empty where items may be measured anywhere, in any order.
    screen: the one of `tables` that a finished run shows on screen; the first with rows if left out.
    csv: by table function, the name of a CSV file in files/ with that table's numbers.
    pages: (records, config) -> (name, page), written by --html; one of a figure's name stands in for the page that its
        heat map would have by itself.
    files: (records, config) -> (name, content) of further files, e.g. texts side by side; they go into files/ of the
    run folder, and may have folders of their own in their names.
    """

    name: str
    config: type[ConfigT]
    stages: Sequence[Stage[ConfigT, Any, Any]]
    tables: Sequence[Callable[[Records, ConfigT], Table | None]]
    headline: Callable[[Records, ConfigT], str]
    plan: Callable[[Run[ConfigT], Sequence[Any]], Plan]
    figures: Sequence[Callable[[Records, ConfigT], Plot | Iterable[Plot]]] = ()
    main: str = ""
    group: Callable[[Any], Hashable] = lambda item: None
    limits_items: bool = True
    look: Mapping[str, Any] = field(default_factory=dict)
    scaling: Callable[[Records, ConfigT], Sequence[Metric]] = lambda records, config: ()
    read_config: Callable[[Path], tuple[Mapping[str, Any], Sequence[str]]] | None = None
    files: Callable[[Records, ConfigT], Iterable[tuple[str, str | bytes]]] = lambda records, config: ()
    pages: Callable[[Records, ConfigT], Iterable[tuple[str, Page]]] = lambda records, config: ()
    start_over: Callable[[Run[ConfigT]], None] = lambda run: None
    csv: Mapping[Any, str] = field(default_factory=dict)
    screen: Callable[[Records, ConfigT], Table | None] | None = None
    whole_model: str = ""
    alone: str = ""

    def __post_init__(self) -> None:
        if self.config is ExperimentConfig or not issubclass(self.config, ExperimentConfig):
            raise TypeError(f"{self.name}: config must be the experiment's own subclass of ExperimentConfig")
        if foreign := set(self.look) - {one.name for one in fields(self.config)}:
            raise TypeError(f"{self.name}: look has {', '.join(sorted(foreign))}, which {self.config} does not")
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"{self.name}: stages need names of their own, found {names}")
        if self.screen is not None and self.screen not in self.tables:
            raise ValueError(f"{self.name}: screen is not one of its tables")
        if self.main and self.main not in names:
            raise ValueError(f"{self.name}: no stage is named {self.main!r}; there are {', '.join(names)}")

    @property
    def doc(self) -> str:
        """The docstring of the experiment's folder; of one that is none here, of the module that its options are in."""
        folder = sys.modules.get(f"experiments.{self.name}") or sys.modules[self.config.__module__]
        return inspect.cleandoc(folder.__doc__ or self.name)

    @property
    def title(self) -> str:
        """First line of the docstring."""
        return self.doc.splitlines()[0]

    @property
    def main_stage(self) -> Stage[ConfigT, Any, Any]:
        """The stage that --limit is about."""
        return next((stage for stage in self.stages if stage.name == self.main), self.stages[0])

    @property
    def source(self) -> Path:
        """The module's file, which is part of a run's identity."""
        return Path(inspect.getfile(self.config))


def limited(items: Sequence[Any], limit: int | None, group: Callable[[Any], Hashable]) -> list[Any]:
    """At most `limit` items, in their order, as evenly from all groups as these allow."""
    if limit is None or len(items) <= limit:
        return list(items)
    seen: dict[Hashable, int] = {}
    rounds = []
    for index, item in enumerate(items):
        seen[group(item)] = turn = seen.get(group(item), 0) + 1
        rounds.append((turn, index))
    return [items[index] for index in sorted(index for _, index in sorted(rounds)[:limit])]
