"""Two-hop queries on a model: which ones count, and where in a prompt the hops meet (Biran et al. 2024).

1. A query counts as a failure if the model answers both single hops and not the two-hop prompt; as correct if it
   answers all three. A single hop, and a right two-hop answer, is the whole accepted name under greedy decoding; a
   failure must miss even the first token, so that no failure is half right before anything is changed.
2. A query has a shortcut if the model gives the answer without the first hop's relation, or without the subject.
3. The bridge is resolved at the last token of the first hop's phrase ("the state containing Dallas").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_interp.behaviour.answers import Question, Verdict, question, verdicts
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.errors import DataError
from mlx_interp.model import Model


@dataclass(frozen=True)
class Screening:
    """Screening of one query: which hops the model knows, and whether a shortcut gives the answer."""

    query: TwoHopQuery
    first_hop: Verdict
    second_hop: Verdict
    two_hop: Verdict
    entity_shortcut: Verdict
    relation_shortcut: Verdict

    @property
    def shortcut(self) -> bool:
        """The answer comes without the first hop's relation, or without the subject: nothing need be composed."""
        return self.entity_shortcut.whole_name or self.relation_shortcut.whole_name

    @property
    def hops_known(self) -> bool:
        return self.first_hop.whole_name and self.second_hop.whole_name

    @property
    def group(self) -> str:
        """ "failure", "correct", or "neither": a hop unknown, or an answer that begins right and ends wrong."""
        if not self.hops_known:
            return "neither"
        if self.two_hop.whole_name:
            return "correct"
        return "neither" if self.two_hop.first_token else "failure"


def screen(model: Model, queries: Sequence[TwoHopQuery]) -> list[Screening]:
    """Both single hops, the two-hop prompt and both shortcuts of every query, in one padded batch."""
    asked: list[Question] = []
    for query in queries:
        asked.append(question(model, query.first_hop, query.bridges))
        for prompt in (query.second_hop, query.two_hop, query.entity_shortcut, query.relation_shortcut):
            asked.append(question(model, prompt, query.answers))
    found = verdicts(model, asked)
    return [Screening(query, *found[5 * i : 5 * i + 5]) for i, query in enumerate(queries)]


def bridge_position(model: Model, query: TwoHopQuery) -> int:
    """Where the two-hop prompt resolves its first hop: the last token of `mention`."""
    return model.prompt(query.two_hop).find(query.mention, occurrence=-1)[-1]


def named_bridge_position(model: Model, query: TwoHopQuery) -> int:
    """The last token of the bridge's name in the second-hop prompt. Raises DataError if the prompt does not name it."""
    prompt = model.prompt(query.second_hop)
    for name in query.bridges:
        if name in query.second_hop:
            return prompt.find(name, occurrence=-1)[-1]
    raise DataError(f"{query.second_hop!r} does not name the bridge {query.bridge!r}")


def donor_of(query: TwoHopQuery, others: Sequence[TwoHopQuery]) -> TwoHopQuery | None:
    """The next query of the family, in their order, with another bridge and another answer: the control's source."""
    family = [other for other in others if other.family == query.family]
    start = next((i for i, other in enumerate(family) if other.key == query.key), 0)
    for other in family[start + 1 :] + family[:start]:
        if other.bridge != query.bridge and not set(other.answers) & set(query.answers):
            return other
    return None
