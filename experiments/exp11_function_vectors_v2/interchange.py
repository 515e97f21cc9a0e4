"""Are the chosen heads needed? Interchange ablation: some heads say what they said on a prompt with other examples.

Setting heads to their mean (extent.py) also deletes what they say about the query, so that any many heads break the
answer. Here z comes from a prompt with the same query behind examples that do not show the task; what heads say about
the query stays (resampling, as in causal scrubbing: Chan et al. 2022). All heads exchanged at the last token is exactly
the other prompt. Fixed before the second half was looked at:

1. Donors: the same query behind examples with corrupted labels, and behind examples of another task, drawn anew for
   each query. Places: the last token, and all tokens of the query and behind it.
2. Figure: the share of the gap that is removed, of in-context accuracy with examples (100 % on the test set: queries
   right with examples) down to the accuracy on the donors themselves.
3. Rankings: by indirect effect, as the function vector's heads; and by need, the drop of the answer's probability when
   one head alone is exchanged. Both of the first half.
4. Number of heads: the smallest at which FIRST_HALF of the gap is removed on the first half's queries; at most half of
   all heads, so that as many others are left. That number, and no other, is read on the second half.
5. The heads are needed if DESTROYED of the gap or more is removed there, and as many other heads, drawn at random for
   each query, remove at most SPARED. Beside it as many of all heads, and those of the smallest effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.mediation import MediationConfig, ranked
from experiments.shared.in_context.screening import base_items, solved
from experiments.shared.in_context.tasks import Query, written
from mlx_interp.behaviour.answers import Question, answer_scores
from mlx_interp.deferred import mx
from mlx_interp.in_context.demonstrations import in_context, token_roles
from mlx_interp.in_context.function_vectors import (
    Head,
    answer_probability,
    heads_at,
    interchanged,
    random_heads,
    top_heads,
)
from mlx_interp.interventions import Intervention
from mlx_interp.model import Model
from mlx_interp.stats import Estimate, gap_closed, stable_draw

NEEDS, FIRST, SECOND = "need of each head", "interchange, first half", "interchange"
CORRUPTED, OTHER_TASK = "corrupted labels", "another task"
DONORS = (OTHER_TASK, CORRUPTED)
LAST, QUERY = "last token", "query and last token"
PLACES = (LAST, QUERY)
EFFECT, NEED = "by effect", "by need"
OTHERS, ANY, SMALLEST = "others", "of all", "smallest effect"
FIRST_HALF, DESTROYED, SPARED = 0.85, 0.8, 0.2
Arm = tuple[str, str]
"""(ranking, which heads)."""
CHOSEN = "chosen"
ARMS: dict[str, tuple[Arm, ...]] = {
    LAST: ((EFFECT, CHOSEN), (EFFECT, OTHERS), (NEED, CHOSEN), (NEED, OTHERS), (EFFECT, ANY), (EFFECT, SMALLEST)),
    QUERY: ((EFFECT, CHOSEN), (EFFECT, OTHERS)),
}


@dataclass(frozen=True)
class Trial:
    """A query with both rankings of the heads."""

    key: str
    task: str
    number: int
    ranked: tuple[tuple[str, tuple[Head, ...]], ...]

    @property
    def query(self) -> Query:
        return Query(self.key, self.task, self.number)


@dataclass(frozen=True)
class Exchange:
    """A query with its examples, and what all heads say on the other prompts."""

    asked: Question
    where: dict[str, tuple[int, ...]]
    """The positions of each place, from the end of the prompt."""
    z: dict[tuple[str, str], mx.array]
    """By donor and place: (n_layers, n_positions, n_heads, d_head)."""
    donors: dict[str, Question]


def counts(n: int) -> list[int]:
    """Numbers of heads, of n: one, then in steps of a sixteenth up to half of them."""
    return sorted({1, *(max(1, round(n * i / 16)) for i in range(1, 9))})


def exchange(run: Run[MediationConfig], query: Query, half: int) -> Exchange:
    """The prompts of a query and their heads. Queries are cut alike in all of them, or only the part that is."""
    one = written(run, query, half)
    clean = one["examples"]
    asked = of_tasks.asked(run, clean)
    rng = np.random.default_rng(stable_draw(run.config.seed, (query.key, half, SECOND), 2**31))
    names = [name for name in of_tasks.tasks(run) if name != query.task] or [query.task]
    other = of_tasks.halves(run, names[rng.integers(len(names))])[0]
    shots, shape = of_tasks.n_shots(run), of_tasks.template(run)
    foreign = in_context(other, (clean.query, clean.answer), other.pairs, shots, shape, rng)
    texts = {CORRUPTED: one["corrupted"].text, OTHER_TASK: foreign.text}
    donors = {name: of_tasks.asked(run, replace(clean, text=text)) for name, text in texts.items()}
    own = [token.example == -1 and token.role != "bos" for token in token_roles(asked.prompt, clean.pieces)]
    n = min(sum(own), *(_common_end(asked.prompt.tokens, d.prompt.tokens) for d in donors.values()))
    where = {LAST: (-1,), QUERY: tuple(range(-max(n, 1), 0))}
    held = {name: heads_at(run.model, donor.prompt, where[QUERY]) for name, donor in donors.items()}
    z = {(name, place): held[name][:, -len(where[place]) :] for name in DONORS for place in PLACES}
    return Exchange(asked, where, z, donors)


def _common_end(one: Sequence[int], other: Sequence[int]) -> int:
    same = [a == b for a, b in zip(reversed(one), reversed(other), strict=False)]
    return same.index(False) if False in same else len(same)


class HeadNeeds(TypedDict):
    """How much of the answer's probability hangs on each head alone."""

    task: str
    needs: list[list[float]]
    """By layer and head: drop of the probability when the head is exchanged, mean over the donors."""


def measure_needs(run: Run[MediationConfig], query: Query) -> Iterator[HeadNeeds]:
    """How much of the answer's probability hangs on each head alone, at the last token, for each donor."""
    model = run.model
    made = exchange(run, query, 0)
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    variants: list[list[Intervention]] = [[]]
    variants += [interchanged(made.z[donor, LAST], [head]) for donor in DONORS for head in heads]
    found = np.asarray(model.sweep(made.asked.prompt, variants, metric=answer_probability(made.asked.first_tokens)))
    drops = (found[0] - found[1:]).reshape(len(DONORS), model.n_layers, model.n_heads)
    yield {"task": query.task, "needs": drops.mean(axis=0).round(6).tolist()}


def by_need(records: Records) -> tuple[Head, ...]:
    """All heads, the most needed first; tasks weigh equally."""
    found = of(records, NEEDS)
    names = list(dict.fromkeys(r["task"] for r in found))
    needs = np.mean([np.mean([r["needs"] for r in found if r["task"] == name], axis=0) for name in names], axis=0)
    return tuple(top_heads(needs, needs.size))


def first_items(run: Run[MediationConfig], earlier: Records) -> list[Trial]:
    orders = ((EFFECT, ranked(earlier)), (NEED, by_need(earlier)))
    return [Trial(q.key, q.task, q.number, orders) for q in of_tasks.queries(run, 0, run.config.n_test)]


def second_items(run: Run[MediationConfig], earlier: Records) -> list[Trial]:
    orders = ((EFFECT, ranked(earlier)), (NEED, by_need(earlier)))
    known = {query.key: query for query in base_items(run, earlier)}
    kept = [known[r["item"]] for r in solved(earlier)]
    return [Trial(q.key, q.task, q.number, orders) for q in kept]


def chosen_heads(order: Sequence[Head], which: str, k: int, rng: np.random.Generator) -> list[Head]:
    """k heads of a ranking: the first, the last, as many of the others, or as many of all."""
    shape = (1 + max(layer for layer, _ in order), 1 + max(head for _, head in order))
    if which == CHOSEN:
        return list(order[:k])
    if which == SMALLEST:
        return list(order[-k:])
    return random_heads(shape, k, order[:k] if which == OTHERS else (), rng)


class Exchanged(TypedDict):
    """A query with the heads of one ranking exchanged, for every number of heads."""

    task: str
    donor: str
    place: str
    ranking: str
    heads: str
    """Which of the ranking: chosen, others, of all, smallest effect."""
    counts: list[int]
    """Numbers of heads."""
    right: list[int]
    """1 or 0 for each number of heads."""
    base: bool
    """Whether the model answers on the donor itself."""


def measure_first(run: Run[MediationConfig], trial: Trial) -> Iterator[Exchanged]:
    """The chosen heads alone, for their number; only queries that are right with examples."""
    arms = {place: tuple(arm for arm in ARMS[place] if arm[1] == CHOSEN) for place in PLACES}
    yield from _measured(run, trial, 0, arms)


def measure_second(run: Run[MediationConfig], trial: Trial) -> Iterator[Exchanged]:
    """All arms on a held-out query."""
    yield from _measured(run, trial, 1, ARMS)


def _measured(
    run: Run[MediationConfig], trial: Trial, half: int, arms: dict[str, tuple[Arm, ...]]
) -> Iterator[Exchanged]:
    model = run.model
    made, orders = exchange(run, trial.query, half), dict(trial.ranked)
    rng = np.random.default_rng(stable_draw(run.config.seed, (trial.key, half, "heads"), 2**31))
    ks = counts(model.n_layers * model.n_heads)
    cells = [(donor, place, arm) for donor in DONORS for place in PLACES for arm in arms[place]]
    variants: list[list[Intervention]] = [[]]
    for donor, place, (ranking, which) in cells:
        for k in ks:
            heads = chosen_heads(orders[ranking], which, k, rng)
            variants.append(interchanged(made.z[donor, place], heads, made.where[place]))
    score = answer_scores(made.asked.first_tokens)
    ranks = np.asarray(model.sweep(made.asked.prompt, variants, metric=score))[:, 0]
    if ranks[0] != 0:
        return
    right = (ranks[1:] == 0).reshape(len(cells), len(ks))
    base = {name: _answers(model, donor) for name, donor in made.donors.items()}
    for (donor, place, (ranking, which)), row in zip(cells, right, strict=True):
        yield {
            "task": trial.task,
            "donor": donor,
            "place": place,
            "ranking": ranking,
            "heads": which,
            "counts": ks,
            "right": row.astype(int).tolist(),
            "base": base[donor],
        }


def _answers(model: Model, asked: Question) -> bool:
    logits = model.run(asked.prompt, logits="last").logits
    assert logits is not None
    return int(answer_scores(asked.first_tokens)(logits)[0, 0]) == 0


def removed(found: Records, k: int, seed: int) -> Estimate | None:
    """Share of the gap that k exchanged heads remove, of records of one arm; None where there is no gap."""
    units = [r["item"] for r in found]
    right = [float(r["right"][r["counts"].index(k)]) for r in found]
    left = gap_closed(right, [float(r["base"]) for r in found], unit=units, seed=seed)
    return None if left is None else Estimate(1 - left.value, 1 - left.high, 1 - left.low, left.n)


def enough(records: Records, donor: str, place: str, ranking: str, seed: int) -> tuple[int, Estimate | None]:
    """The number of heads by the rule above, and what it removes on the first half."""
    found = of(records, FIRST, donor=donor, place=place, ranking=ranking, heads=CHOSEN)
    if not found:
        return 1, None
    shares = [(k, removed(found, k, seed)) for k in found[0]["counts"]]
    reached = [(k, share) for k, share in shares if share is not None and share.value >= FIRST_HALF]
    return reached[0] if reached else shares[-1]
