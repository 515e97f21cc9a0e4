"""Two-hop data of a run: the options that say which, and every query as the data have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiments.data import DATA_FOLDER
from experiments.data.single_facts import real_queries
from experiments.harness.experiment import ExperimentConfig
from experiments.harness.state import Run
from mlx_interp.datasets import TwoHopQuery, read_two_hop
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError, nearest
from mlx_interp.loading.names import EMBEDDED

STUDY = DATA_FOLDER / "study" / "two_hop.jsonl"
"""The prompts that the earlier study started from."""
Shortcuts = Literal["auto", "both", "relation", "none"]


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
    elicit: Literal["auto", "plain", "examples", "chat"] = "auto"
    """Elicitation, how queries are asked: plain, behind solved examples of the same kind, or as the reply of a chat.
    auto: the way in which most queries have both hops answered, among some that are set aside for it and not reported;
    plain in the synthetic world, and where there are too few queries to set any aside."""
    examples: int = 4
    """Number of solved examples (elicit: examples); none shares an entity with its query."""
    answered: Literal["auto", "text", "name"] = "auto"
    """What counts as an answer in the screening. text: ten greedy tokens contain the answer or an alias as whole words,
    the paper's criterion. name: greedy decoding writes an accepted name at once. auto: text on real facts."""


def is_embedded(run: Run[TwoHopConfig]) -> bool:
    """Whether the data are those of the synthetic world."""
    return run.config.data == "embedded" or (run.config.data == "auto" and run.model.name in EMBEDDED)


def by_text(run: Run[TwoHopConfig]) -> bool:
    """Whether the screening reads texts."""
    return run.config.answered == "text" or (run.config.answered == "auto" and not is_embedded(run))


def data(run: Run[TwoHopConfig]) -> list[TwoHopQuery]:
    """The data: every query of the families asked for. Raises DataError for a family that is not there."""
    config = run.config
    if is_embedded(run):
        world = load_world()
        known = [query for name in world.families for query in world.two_hop_queries(name)]
        found = known if config.families else world.two_hop_queries()  # the short form is looked at on request only
    else:
        found = real_queries() if config.data in ("auto", "real") else read_two_hop(config.data)
    there = list(dict.fromkeys(query.family for query in found))
    for family in config.families:
        if family not in there:
            raise DataError(f"no family {family!r}: {nearest(family, there)}there are {', '.join(there)}")
    return [query for query in found if not config.families or query.family in config.families]
