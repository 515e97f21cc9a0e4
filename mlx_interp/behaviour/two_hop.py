"""Two-hop queries on a model: which ones count, and where in a prompt the hops meet (Biran et al. 2024).

1. A query counts as a failure if the model answers both single hops and not the two-hop prompt; as correct if it
   answers all three. A single hop, and a right two-hop answer, is the whole accepted name under greedy decoding; a
   failure must miss even the first token, so that no failure is half right before anything is changed.
   `screen` judges names by greedy decoding, token for token; `screen_texts` is the paper's criterion: ten greedy
   tokens contain the answer or an alias (here as whole words).
2. A query has a shortcut if the model gives the answer without the first hop's relation, or without the subject.
3. The bridge is resolved at the last token of the first hop's phrase ("the state containing Dallas").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_interp.behaviour.answers import Question, Verdict, mentions, question, verdicts
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.errors import DataError
from mlx_interp.model import Model


@dataclass(frozen=True)
class TextVerdict:
    """A model's answer to one question, judged by what it writes."""

    first_token: bool
    """It begins with the first token of an accepted name."""
    whole_name: bool
    """It contains an accepted name, as whole words."""
    predicted: str
    """The first token, as text."""
    text: str


NOT_ASKED = TextVerdict(first_token=False, whole_name=False, predicted="", text="")


@dataclass(frozen=True)
class Screening:
    """Screening of one query: which hops the model knows, and whether a shortcut gives the answer."""

    query: TwoHopQuery
    first_hop: Verdict | TextVerdict
    second_hop: Verdict | TextVerdict
    two_hop: Verdict | TextVerdict
    entity_shortcut: Verdict | TextVerdict
    relation_shortcut: Verdict | TextVerdict

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


def screen_texts(model: Model, queries: Sequence[TwoHopQuery], *, new_tokens: int = 10) -> list[Screening]:
    """The same by texts of `new_tokens` greedy tokens. Where a hop is not known nothing more is asked: NOT_ASKED."""
    hops = _texts(
        model,
        [part for q in queries for part in ((q.first_hop, q.bridges), (q.second_hop, q.answers))],
        new_tokens,
    )
    known = [i for i in range(len(queries)) if hops[2 * i].whole_name and hops[2 * i + 1].whole_name]
    further = _texts(
        model,
        [
            (prompt, queries[i].answers)
            for i in known
            for prompt in (queries[i].two_hop, queries[i].entity_shortcut, queries[i].relation_shortcut)
        ],
        new_tokens,
    )
    composed = {i: further[3 * place : 3 * place + 3] for place, i in enumerate(known)}
    return [
        Screening(query, hops[2 * i], hops[2 * i + 1], *composed.get(i, [NOT_ASKED] * 3))
        for i, query in enumerate(queries)
    ]


def _texts(model: Model, questions: Sequence[tuple[str, Sequence[str]]], new_tokens: int) -> list[TextVerdict]:
    if not questions:
        return []
    written = model.generate([prompt for prompt, _ in questions], max_tokens=new_tokens)
    found = []
    for (prompt, names), completion in zip(questions, written, strict=True):
        first = completion.tokens[:1]
        found.append(
            TextVerdict(
                first_token=bool(first) and first[0] in question(model, prompt, names).first_tokens,
                whole_name=mentions(completion.text, names),
                predicted=model.tokenizer.decode(first),
                text=completion.text,
            )
        )
    return found


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
