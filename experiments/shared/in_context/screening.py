"""Which queries a model answers with examples: the test set of every study of function vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experiments.harness.experiment import Records
from experiments.harness.frame import Frame
from experiments.harness.schema import InBatch
from experiments.harness.state import Run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.tasks import Query, TaskConfig, prompts
from mlx_interp.behaviour.answers import verdicts
from mlx_interp.reporting import Record
from mlx_interp.stats import Estimate

BASE = "base"


def base_items(run: Run[TaskConfig], earlier: Records) -> list[Query]:
    return of_tasks.queries(run, 1, run.config.n_test)


class Based(InBatch):
    """What the model answers to one query, under one kind of prompt."""

    task: str
    prompt: str
    """examples, corrupted, or no examples."""
    right: bool
    """Whether the answer's first token comes first."""
    whole: bool
    """Whether the whole answer is written, greedily."""
    rank: int
    """Of the answer's first token, 0 on top."""
    log_prob: float
    """Of the answer's first token, nats."""
    n_layers: int
    n_heads: int


def measure_base(run: Run[TaskConfig], batch: Sequence[Query]) -> Iterator[Based]:
    """What the model answers with examples, with corrupted ones, and with none."""
    asked = [prompts(run, query, 1) for query in batch]
    for kind in ("examples", "corrupted", "no examples"):
        for query, found in zip(batch, verdicts(run.model, [one[kind] for one in asked]), strict=True):
            yield {
                "item": query.key,
                "task": query.task,
                "prompt": kind,
                "right": found.first_token,
                "whole": found.whole_name,
                "rank": found.rank,
                "log_prob": found.log_prob,
                "n_layers": run.model.n_layers,
                "n_heads": run.model.n_heads,
            }


def solved(records: Records) -> list[Record]:
    """Held-out queries that the model answers with examples: the test set, as in the paper."""
    return [r for r in records if r["stage"] == BASE and r["prompt"] == "examples" and r["right"]]


def rate(records: Sequence[Record], seed: int, field: str = "right") -> Estimate | None:
    """Share of queries, resampled by query."""
    return Frame(records).rate(field, seed=seed)
