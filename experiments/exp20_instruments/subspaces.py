"""Distributed alignment search: does a learnt subspace carry a variable on exchanges that it was not trained on?

subject   the state of a question's last token that differs is exchanged with another question's, after a quarter of the
          layers; the base should be answered as the other question. All models.
refusal   harmful and harmless requests of the embedded world, at the prompt's last token, in the layer and along the
          direction that its models were trained to refuse by: the learnt direction should be that one.
Learnt on some exchanges, measured on others that share no prompt with them. Controls: a random subspace of equal size,
no exchange, and the whole state, which is as much as any subspace can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.exp20_instruments.hop_pairs import PairConfig, hop_pairs
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from mlx_interp.circuits import Pair
from mlx_interp.deferred import mx
from mlx_interp.embedded import load_world
from mlx_interp.embedded.world import REFUSAL_LAYER, ChatPrompt, trained_refusal_direction
from mlx_interp.errors import DataError
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.patching import distributed_alignment_search, interchange_accuracy, random_subspace
from mlx_interp.patching.alignment import Exchange, Subspace
from mlx_interp.reporting import Cell, Column, Table, finite

STAGE = "subspaces"
SUBJECT, REFUSAL = "subject", "refusal"
LEARNT, RANDOM, WHOLE, NONE = "learnt", "random", "the whole state", "no exchange"
ARMS = (LEARNT, RANDOM, WHOLE, NONE)
PLANTED = ("tiny-llama", "tiny-gemma2", "tiny-qwen2")
"""Models with a direction that they were trained to refuse along."""


FEWEST_TO_DIVIDE = 24
"""Exchanges that are divided at least: a handful often shares one prompt, and would all fall into one half."""


@dataclass(frozen=True)
class SubspaceConfig(PairConfig):
    """Fields of the search."""

    n_exchanges: int = 96
    """Exchanges, about half of them to learn from; those with prompts of both halves are left out."""
    size: int = 0
    """Dimensions of the subspace of the subject; 0: an eighth of the model's. The refusal's has one."""
    search_steps: int = 60
    """Steps of the search."""
    search_batch: int = 16
    """Exchanges in each of them."""


@dataclass(frozen=True)
class Variable:
    """What is exchanged, as an item."""

    key: str


class Exchanged(TypedDict):
    """One held-out exchange in one subspace."""

    variable: str
    site: str
    size: int
    arm: str
    exchange: int
    hit: bool
    """Whether the counterfactual token is on top."""
    cosine: float | None
    """Of the subspace with the direction that was planted: the length of its projection; None where none was."""


def variables(run: Run[SubspaceConfig]) -> list[Variable]:
    return [Variable(SUBJECT), *([Variable(REFUSAL)] if run.model.name in PLANTED else [])]


def measure(run: Run[SubspaceConfig], item: Variable) -> Iterator[Exchanged]:
    """Learn on some exchanges; exchange others in every subspace."""
    model, config = run.model, run.config
    wanted = config.at_most(config.n_exchanges)
    looked_at = max(wanted, FEWEST_TO_DIVIDE)
    if item.key == SUBJECT:
        made = [_subject(pair) for pair in hop_pairs(run, looked_at)]
        site, size = f"resid_post.{model.n_layers // 4}", config.size or model.d_model // 8
    else:
        made = _refusals(model, looked_at, config.seed)
        site, size = f"resid_post.{REFUSAL_LAYER}", 1
    train, test = (half[:wanted] for half in halves(made))
    if not train or not test:
        raise DataError(
            f"{len(made)} exchanges of the {item.key} cannot be divided into two halves that share no prompt: "
            "ask for more with --n-exchanges"
        )
    steps, batch = config.search_steps, config.search_batch
    learnt = distributed_alignment_search(
        model, train, site, size=size, steps=steps, batch=batch, rate=3e-2, seed=run.seed
    )
    for arm, basis in (
        (LEARNT, learnt.basis),
        (RANDOM, random_subspace(model, size, seed=run.seed + 1)),
        (WHOLE, mx.eye(model.d_model)),
        (NONE, None),
    ):
        hits = _hits(model, test, site, basis)
        for number, hit in enumerate(hits):
            yield {
                "variable": item.key,
                "site": site,
                "size": size if arm in (LEARNT, RANDOM) else model.d_model if arm == WHOLE else 0,
                "arm": arm,
                "exchange": number,
                "hit": bool(hit),
                "cosine": _cosine(basis, model) if item.key == REFUSAL and arm in (LEARNT, RANDOM) else None,
            }


def halves(made: list[Exchange]) -> tuple[list[Exchange], list[Exchange]]:
    """Exchanges to learn from and to be measured on: no prompt is in both, what has one in each is left out."""
    sides: tuple[list[Exchange], list[Exchange]] = [], []
    read: tuple[set[str], set[str]] = set(), set()
    for number, one in enumerate(made):
        texts = {one.base.text, one.source.text}
        for side in (number % 2, 1 - number % 2):
            if not texts & read[1 - side]:
                sides[side].append(one)
                read[side].update(texts)
                break
    return sides


def _hits(model: Model, test: list[Exchange], site: str, basis: mx.array | None) -> np.ndarray:
    if basis is not None:
        return interchange_accuracy(model, test, Subspace(basis, site, np.zeros(0)))
    logits = model.run([one.base for one in test]).logits
    assert logits is not None
    return np.asarray(np.array(mx.argmax(logits, axis=-1)) == np.array([one.answer for one in test]))


def _cosine(basis: mx.array | None, model: Model) -> float | None:
    assert basis is not None
    return finite(float(np.linalg.norm(trained_refusal_direction(model.d_model) @ np.asarray(basis))))


def _subject(pair: Pair) -> Exchange:
    """At the last token in which both questions differ."""
    here, there = pair.clean.tokens, pair.counterfactual.tokens
    last = max(at for at, (a, b) in enumerate(zip(here, there, strict=True)) if a != b)
    return Exchange(pair.clean, pair.counterfactual, pair.wrong[0], last, last)


def _refusals(model: Model, n: int, seed: int) -> list[Exchange]:
    """Harmful and harmless requests in turn, each with one of the other kind, and the reply that the other kind has."""
    assert model.name in EMBEDDED
    chats = [one for one in load_world().chat_prompts("refusal", language="en", split="train") if one.other_reply]
    rng = np.random.default_rng(seed)
    kinds: list[list[ChatPrompt]] = [[one for one in chats if one.harmful == kind] for kind in (True, False)]
    kinds = [[kind[at] for at in rng.permutation(len(kind))] for kind in kinds]
    found = []
    for number in range(min(n // 2, *map(len, kinds))):
        for base, source in (kinds, kinds[::-1]):
            prompts = [model.prompt(one[number].text, chat=True) for one in (base, source)]
            answer = model.prompt(prompts[0].text + base[number].other_reply).tokens[len(prompts[0])]
            found.append(Exchange(prompts[0], prompts[1], answer))
    return [found[at] for at in rng.permutation(len(found))]


def table(records: Records, config: SubspaceConfig) -> Table | None:
    """Interchange accuracy on held-out exchanges, by subspace."""
    rows: list[list[Cell]] = []
    for variable in (SUBJECT, REFUSAL):
        for arm in ARMS:
            mine = of(records, STAGE, variable=variable, arm=arm)
            if mine:
                first = mine[0]
                rate = mine.rate("hit", unit="exchange", seed=config.seed)
                rows.append([variable, first["site"], arm, first["size"], len(mine), rate, first["cosine"]])
    if not rows:
        return None
    columns: list[Column | str] = [
        *("variable", "site", "exchanged", "dimensions", "n exchanges", Column("interchange accuracy", "%")),
        Column("cosine with the planted direction"),
    ]
    note = (
        f"Held-out exchanges; learnt in {config.search_steps} steps of {config.search_batch}. Accuracy: the token that "
        "the other question or request would be answered by is the likeliest of all."
    )
    return Table("Interchange accuracy of learnt subspaces", columns, rows, [note])
