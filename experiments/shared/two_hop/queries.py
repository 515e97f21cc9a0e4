"""Two-hop queries of a run: which there are, which of them count, and each with another as its control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from experiments.data import DATA_FOLDER
from experiments.harness.experiment import ExperimentConfig, Records
from experiments.harness.state import Run
from mlx_interp.behaviour.two_hop import Screening, bridge_position, donor_of, screen
from mlx_interp.datasets import TwoHopQuery, read_two_hop
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError, nearest
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.reporting import Record

REAL_DATA = DATA_FOLDER
STUDY = REAL_DATA / "study" / "two_hop.jsonl"
"""The prompts that the earlier study started from."""
Shortcuts = Literal["auto", "both", "relation", "none"]
SCREENED = "screened"
Place = Literal["bridge", "last"]


@dataclass(frozen=True)
class TwoHopConfig(ExperimentConfig):
    """Fields of every two-hop experiment."""

    data: str = "auto"
    """Data set: auto, embedded (the synthetic world), real (facts), or a JSON Lines file of two-hop queries."""
    families: tuple[str, ...] = ()
    """Families of queries to use; all if left out."""
    drop_shortcuts: Shortcuts = "auto"
    """Shortcut filter: leave out queries answered without the first hop's relation, or without the subject: both,
    relation (the second kind alone), or none. auto: both on real facts; relation in the synthetic world, where nothing
    but the composition ties a subject to its answer: an answer without the relation is composed all the same."""


@dataclass(frozen=True)
class Case:
    """A query that is looked at, and another of its family that is the control."""

    query: TwoHopQuery
    group: str
    """ "failure" or "correct"."""
    donor: TwoHopQuery | None

    @property
    def key(self) -> str:
        return f"{self.group}: {self.query.key}"

    @property
    def labels(self) -> Record:
        """What every record of the case says."""
        return {"family": self.query.family, "bridge": self.query.bridge, "group": self.group}


class Labelled(TypedDict):
    """What every record of a case says."""

    family: str
    bridge: str
    """The unit that is resampled: many queries share one."""
    group: str
    """failure, correct, shortcut or other."""


class Screened(Labelled):
    """Which queries count."""

    split: str
    first_hop: bool
    """Whether the whole name is answered; so for the next four."""
    second_hop: bool
    two_hop: bool
    entity_shortcut: bool
    relation_shortcut: bool
    predicted: str
    """The first token after the two-hop prompt."""
    n_layers: int


def is_embedded(run: Run[TwoHopConfig]) -> bool:
    """Whether the data are those of the synthetic world."""
    return run.config.data == "embedded" or (run.config.data == "auto" and run.model.name in EMBEDDED)


def queries(run: Run[TwoHopConfig], earlier: Records) -> list[TwoHopQuery]:
    """The data: every query of the families asked for. Raises DataError for a family that is not there."""
    config = run.config
    if is_embedded(run):
        world = load_world()
        known = [query for name in world.families for query in world.two_hop_queries(name)]
        found = known if config.families else world.two_hop_queries()  # the short form is looked at on request only
    else:
        files = sorted(REAL_DATA.glob("*.jsonl")) if config.data in ("auto", "real") else [Path(config.data)]
        found = [query for file in files for query in read_two_hop(file)]
    there = list(dict.fromkeys(query.family for query in found))
    for family in config.families:
        if family not in there:
            raise DataError(f"no family {family!r}: {nearest(family, there)}there are {', '.join(there)}")
    return [query for query in found if not config.families or query.family in config.families]


def queries_and_study(run: Run[TwoHopConfig], earlier: Records) -> list[TwoHopQuery]:
    """The data, on real facts behind the prompts of the earlier study."""
    found = queries(run, earlier)
    study = [] if is_embedded(run) or run.config.families else read_two_hop(STUDY)
    return [*study, *found]


def all_cases(run: Run[TwoHopConfig], earlier: Records, limit: int) -> list[Case]:
    """Every query whatever the model answers, of each family the first `limit`, with its group and a control."""
    known = {query.key: query for query in queries_and_study(run, ())}
    groups = {r["item"]: str(r["group"]) for r in earlier if r["stage"] == SCREENED}
    chosen = []
    for family in dict.fromkeys(known[key].family for key in groups):
        kin = [known[key] for key in groups if known[key].family == family]
        chosen += [Case(query, groups[query.key], donor_of(query, kin)) for query in kin[:limit]]
    return chosen


def screening(run: Run[TwoHopConfig], batch: Sequence[TwoHopQuery]) -> Iterator[Record]:
    """Which queries count: what the model answers to both hops, to the two-hop prompt, and without either part."""
    for found in screen(run.model, batch):
        query = found.query
        yield {
            "item": query.key,
            "family": query.family,
            "split": query.split,
            "bridge": query.bridge,
            "group": "shortcut" if _dropped(found, run) else found.group,
            "first_hop": found.first_hop.whole_name,
            "second_hop": found.second_hop.whole_name,
            "two_hop": found.two_hop.whole_name,
            "entity_shortcut": found.entity_shortcut.whole_name,
            "relation_shortcut": found.relation_shortcut.whole_name,
            "predicted": found.two_hop.predicted,
            "n_layers": run.model.n_layers,
        }


def cases(run: Run[TwoHopConfig], earlier: Records, most: dict[str, int]) -> list[Case]:
    """The queries that count: of each family and group the first `most[group]`, in the data's order."""
    known = {query.key: query for query in queries(run, ())}
    chosen = []
    for group, limit in most.items():
        members = [known[r["item"]] for r in earlier if r["stage"] == SCREENED and r["group"] == group]
        for family in dict.fromkeys(query.family for query in members):
            kin = [query for query in members if query.family == family]
            chosen += [Case(query, group, donor_of(query, kin)) for query in kin[:limit]]
    return chosen


def place(model: Model, query: TwoHopQuery, name: Place) -> int:
    """A position of the two-hop prompt, counted from the start: where the bridge is resolved, or the last."""
    return bridge_position(model, query) if name == "bridge" else len(model.prompt(query.two_hop)) - 1


def _dropped(found: Screening, run: Run[TwoHopConfig]) -> bool:
    kind = run.config.drop_shortcuts
    if kind == "auto":
        kind = "relation" if is_embedded(run) else "both"
    by_relation, by_entity = found.relation_shortcut.whole_name, found.entity_shortcut.whole_name
    return {"both": by_relation or by_entity, "relation": by_relation, "none": False}[kind]
