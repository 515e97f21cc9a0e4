"""Two-hop queries of a run: which there are, which of them count, and each with another as its control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from experiments.harness.experiment import Records, limited
from experiments.harness.schema import InBatch
from experiments.harness.state import Run
from experiments.shared.two_hop.asking import chosen_way, reported
from experiments.shared.two_hop.data import STUDY, TwoHopConfig, by_text, data, is_embedded
from mlx_interp.behaviour.two_hop import Screening, bridge_position, donor_of, screen, screen_texts
from mlx_interp.datasets import TwoHopQuery, read_two_hop
from mlx_interp.model import Model

SCREENED = "screened"
Place = Literal["bridge", "last"]


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
    def labels(self) -> Labelled:
        """What every record of the case says."""
        return {"family": self.query.family, "bridge": self.query.bridge, "group": self.group}


class Labelled(TypedDict):
    """What every record of a case says."""

    family: str
    bridge: str
    """The unit that is resampled: many queries share one."""
    group: str
    """failure, correct, shortcut or other."""


class Screened(Labelled, InBatch):
    """Which queries count."""

    split: str
    first_hop: bool
    """Whether it is answered (see --answered); so for the next four, which texts are asked for known hops alone."""
    second_hop: bool
    two_hop: bool
    entity_shortcut: bool
    relation_shortcut: bool
    answered: str
    """What counted: text or name (see --answered)."""
    predicted: str
    """The first token after the two-hop prompt."""
    n_layers: int


def queries(run: Run[TwoHopConfig], earlier: Records) -> list[TwoHopQuery]:
    """Queries of the families asked for, as they are asked, without those that the way of asking was chosen on."""
    return reported(run, data(run), chosen_way(run, earlier))


def queries_and_study(run: Run[TwoHopConfig], earlier: Records) -> list[TwoHopQuery]:
    """The data, on real facts behind the prompts of the earlier study."""
    found = queries(run, earlier)
    study = [] if is_embedded(run) or run.config.families else read_two_hop(STUDY)
    return [*study, *found]


def all_cases(run: Run[TwoHopConfig], earlier: Records, of_family: int, in_all: int) -> list[Case]:
    """Queries whatever the model answers, the first of each family, evenly `in_all`; with group and control."""
    known = {query.key: query for query in queries_and_study(run, earlier)}
    groups = {r["item"]: str(r["group"]) for r in earlier if r["stage"] == SCREENED}
    chosen = []
    for family in dict.fromkeys(known[key].family for key in groups):
        kin = [known[key] for key in groups if known[key].family == family]
        chosen += [Case(query, groups[query.key], donor_of(query, kin)) for query in kin[:of_family]]
    return limited(chosen, in_all, lambda case: case.query.family)


def screening(run: Run[TwoHopConfig], batch: Sequence[TwoHopQuery]) -> Iterator[Screened]:
    """Which queries count: what the model answers to both hops, to the two-hop prompt, and without either part."""
    judged = screen_texts(run.model, batch) if by_text(run) else screen(run.model, batch)
    for found in judged:
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
            "answered": "text" if by_text(run) else "name",
            "predicted": found.two_hop.predicted,
            "n_layers": run.model.n_layers,
        }


def answered(records: Records) -> str:
    """What counted as an answer in the screening, as a sentence for a note."""
    if any(r["stage"] == SCREENED and r["answered"] == "text" for r in records):
        return (
            "Answered: ten greedy tokens contain the answer or an alias, as whole words; two hops and shortcuts are "
            "asked where both single hops are known."
        )
    return "Names in full, greedily."


def cases(run: Run[TwoHopConfig], earlier: Records, most: dict[str, tuple[int, int]]) -> list[Case]:
    """The queries that count, of each group `most`: (of each family, in all, evenly), in the data's order."""
    known = {query.key: query for query in queries(run, earlier)}
    chosen = []
    for group, (of_family, in_all) in most.items():
        members = [known[r["item"]] for r in earlier if r["stage"] == SCREENED and r["group"] == group]
        found = []
        for family in dict.fromkeys(query.family for query in members):
            kin = [query for query in members if query.family == family]
            found += [Case(query, group, donor_of(query, kin)) for query in kin[:of_family]]
        chosen += limited(found, in_all, lambda case: case.query.family)
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
