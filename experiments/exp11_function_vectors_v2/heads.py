"""What the chosen heads are: where they look from the last token, whether they are induction heads, and what they do at
other tokens of the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np

from experiments.harness.experiment import Records, Stage
from experiments.harness.state import Run, of_run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.mediation import Item, MediationConfig, effect_items, sampled, solved_items
from experiments.shared.in_context.tasks import Query, mean_prompts, written
from mlx_interp.deferred import mx
from mlx_interp.in_context.demonstrations import ROLES, Piece, Role, positions, token_roles
from mlx_interp.in_context.function_vectors import indirect_effects, mean_z
from mlx_interp.prompts import Prompt

PLACES, ATTENTION, INDUCTION = "other tokens", "attention", "prefix matching"
PLACE_ROLES: dict[str, tuple[Role, int | None]] = {
    "label of the first example": ("label", 0),
    "input of the last example": ("input", -1),
    "cue of the last example": ("cue", -1),
    "label of the last example": ("label", -1),
    "separator behind it": ("separator", -1),
    "query": ("query", None),
    "last token": ("query cue", None),
}
"""Where a head's mean stands in for its output: a role, and of which example."""
PER_TASK = 3
REPEATED, ROWS = 100, 4


def place_items(run: Run[MediationConfig], earlier: Records) -> list[Query]:
    kept: dict[str, list[Query]] = {}
    for query in effect_items(run, earlier):
        kept.setdefault(query.task, []).append(query)
    return [query for queries in kept.values() for query in queries[:2]]


@of_run(64)
def place_means(run: Run[MediationConfig], task: str, place: str) -> mx.array:
    """(n_layers, n_heads, d_head): mean z at a place, over the task's in-context prompts."""
    made = mean_prompts(run, task)
    asked = [run.model.prompt(one.text) for one in made]
    where = [_where(prompt, one.pieces, place) for prompt, one in zip(asked, made, strict=True)]
    kept = [(prompt, at) for prompt, at in zip(asked, where, strict=True) if at]
    return mean_z(run.model, [prompt for prompt, _ in kept], [at for _, at in kept])


def _where(prompt: Prompt, pieces: Sequence[Piece], place: str) -> list[int]:
    role, example = PLACE_ROLES[place]
    found = positions(token_roles(prompt, pieces), role, example)
    return found[-1:] if place == "last token" else found


class Placed(TypedDict):
    """Indirect effects of all heads at one place of a corrupted prompt."""

    task: str
    place: str
    effects: list[list[float]]
    """By layer and head."""


def measure_places(run: Run[MediationConfig], query: Query) -> Iterator[Placed]:
    """Indirect effects of all heads at each place, on one corrupted prompt."""
    one = written(run, query, 0)["corrupted"]
    asked = of_tasks.asked(run, one)
    for place in PLACE_ROLES:
        at = _where(asked.prompt, one.pieces, place)
        if at:
            means = place_means(run, query.task, place)
            found = indirect_effects(run.model, asked, means, at)
            yield {"task": query.task, "place": place, "effects": found.round(6).tolist()}


def attention_items(run: Run[MediationConfig], earlier: Records) -> list[Item]:
    return sampled(solved_items(run, earlier), PER_TASK)


class Attended(TypedDict):
    """Attention of every head from the last token to the tokens of one role."""

    task: str
    role: str
    plain: list[list[float]]
    """By layer and head; of all roles it adds up to 1."""
    weighted: list[list[float]]
    """The same weighted by the length of what is fetched."""


def measure_attention(run: Run[MediationConfig], item: Item) -> Iterator[Attended]:
    """Attention of every head from the last token, by role: plain, and weighted by the length of what is fetched."""
    one = written(run, item.query, 1)["examples"]
    prompt = run.model.prompt(one.text)
    roles = [token.role for token in token_roles(prompt, one.pieces)]
    out = run.model.run(prompt, capture=["pattern", "v"], logits="none")
    plain, weighted = (np.asarray(x) for x in from_last(out.stack("pattern")[:, 0], out.stack("v")[:, 0]))
    for role in ROLES:
        at = [i for i, r in enumerate(roles) if r == role]
        if at:
            yield {
                "task": item.task,
                "role": role,
                "plain": plain[..., at].sum(-1).round(5).tolist(),
                "weighted": weighted[..., at].sum(-1).round(5).tolist(),
            }


def from_last(pattern: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
    """(layer, head, key) twice, each adding up to 1: attention from the last token, and the same times |v|.

    pattern: (layer, head, query, key). v: (layer, key, kv head, d_head); query heads share kv heads in order.
    """
    last = pattern[:, :, -1].astype(mx.float32)
    length = mx.linalg.norm(v.astype(mx.float32), axis=-1).swapaxes(1, 2)  # (layer, kv head, key)
    weighted = last * mx.repeat(length, last.shape[1] // length.shape[1], axis=1)
    return last, weighted / mx.maximum(weighted.sum(axis=-1, keepdims=True), 1e-12)


def induction_items(run: Run[MediationConfig], earlier: Records) -> list[Query]:
    return [Query(f"random tokens {n}", "", n) for n in range(ROWS)]


class Matched(TypedDict):
    """Prefix matching of every head on random tokens that are said twice."""

    scores: list[list[float]]
    """By layer and head: mean attention from a token to the one that followed it before."""
    tokens: int
    """How many are said twice."""


def measure_induction(run: Run[MediationConfig], query: Query) -> Iterator[Matched]:
    """Prefix matching of every head: random tokens, said twice; attention from a token to the one that followed it."""
    model = run.model
    rng = np.random.default_rng([run.config.seed, query.number])
    special = set(getattr(model.tokenizer, "all_special_ids", None) or ())
    known = [token for token in range(min(model.d_vocab, 10_000)) if token not in special]
    n = min(REPEATED, len(known) // 2)
    said = [known[i] for i in rng.permutation(len(known))[:n]]
    any_text = model.prompt("a")
    bos = [token for token, (low, high) in zip(any_text.tokens, any_text.spans, strict=True) if low == high]
    out = model.run([*bos, *said, *said], capture="pattern", logits="none")
    pattern = out.stack("pattern")[:, 0].astype(mx.float32)
    start = len(bos)
    rows, columns = mx.arange(start + n, start + 2 * n - 1), mx.arange(start + 1, start + n)
    scores = np.asarray(pattern[:, :, rows, columns].mean(axis=-1))
    yield {"scores": scores.round(5).tolist(), "tokens": n}


STAGES = (
    Stage(PLACES, place_items, measure_places, record=Placed),
    Stage(ATTENTION, attention_items, measure_attention, record=Attended),
    Stage(INDUCTION, induction_items, measure_induction, record=Matched),
)
