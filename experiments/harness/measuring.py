"""Measuring: the items of every stage, one at a time or in batches, on one rank or several, each written once.

What records.jsonl holds already is not measured again, so that a killed run goes on at the next item.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from experiments.harness.bar import shown
from experiments.harness.experiment import ConfigT, Experiment, Stage, limited
from experiments.harness.schema import check_record
from experiments.harness.state import Run
from mlx_interp.errors import DataError, RunError
from mlx_interp.ranks import Ranks, said
from mlx_interp.reporting import Record
from mlx_interp.reporting.records import RecordFile, plain

Measured: TypeAlias = tuple[list[Record], float]
"""Records of an item, and the seconds that they took."""


def items_of(
    experiment: Experiment[ConfigT],
    stage: Stage[ConfigT, Any, Any],
    under: Run[ConfigT],
    earlier: Sequence[Record] = (),
) -> Sequence[Any]:
    """Items of a stage; those of the main one as far as --limit goes."""
    items = stage.items(under, earlier)
    if stage is experiment.main_stage and experiment.limits_items:
        items = limited(items, under.config.limit, experiment.group)
    return _checked(stage, items)


class Pool(Protocol):
    """Workers that measure items elsewhere, each on a model of its own."""

    @property
    def peak(self) -> Mapping[str, int]:
        """Bytes at the peak of the largest of them, by who counts; empty where that is not known."""
        ...

    def measured(
        self, stage: Stage[Any, Any, Any], under: Run[Any], left: Sequence[tuple[str, Any]]
    ) -> Iterator[tuple[str, Measured]]:
        """What they find: every key of a stage with its records and seconds, in order."""
        ...


def measure(
    experiment: Experiment[ConfigT], under: Run[ConfigT], file: RecordFile, ranks: Ranks, pool: Pool | None = None
) -> None:
    """All stages, each over the items that its records do not have yet, one item a model at a time.

    Ranks that one model is split over measure the same item, and must find the same.
    """
    earlier: list[Record] = []  # of the stages before, never of the stage itself: a resumed one has some already
    with shown(visible=ranks.first) as bar:
        for stage in experiment.stages:
            items = items_of(experiment, stage, under, earlier)
            work = _work(stage, items)
            _check_known(stage, work, file)
            left = [(key, item) for key, item in work.items() if (stage.name, key) not in file.done]
            advance = bar.stage(f"{under.model.name}: {stage.name}", len(work), len(work) - len(left))
            found = pool.measured(stage, under, left) if pool is not None else _rounds(stage, under, left, ranks)
            for key, (records, seconds) in found:
                file.append(stage.name, key, records, seconds=seconds)
                advance()
            earlier += file.records(stage.name)


def measure_one(stage: Stage[ConfigT, Any, Any], under: Run[ConfigT], key: str, item: Any) -> Measured:
    """The records of one item, or of a batch of them, and the seconds that they took."""
    start = time.perf_counter()
    measured = list(_labelled(stage, item, stage.measure(under, item)))
    return [_plain(stage, record, key) for record in measured], time.perf_counter() - start


def _rounds(
    stage: Stage[ConfigT, Any, Any], under: Run[ConfigT], left: Sequence[tuple[str, Any]], ranks: Ranks
) -> Iterator[tuple[str, Measured]]:
    for start in range(0, len(left), ranks.models):
        yield from _round(stage, under, left[start : start + ranks.models], ranks)


def _round(
    stage: Stage[ConfigT, Any, Any], under: Run[ConfigT], left: Sequence[tuple[str, Any]], ranks: Ranks
) -> Iterator[tuple[str, Measured]]:
    """Measure one item on every model: each key with its records and seconds, in order, on all ranks alike."""
    mine = ranks.model
    result: Measured = ([], 0.0)
    error: str | None = None
    try:
        if mine < len(left):
            result = measure_one(stage, under, *left[mine])
    except Exception as failure:
        if ranks.size == 1:
            raise
        error = said(failure)
        ranks.succeeded(error)
        raise
    if ranks.size > 1:
        ranks.succeeded(error)
    every = ranks.gather(result)
    for number, (key, _) in enumerate(left):
        first = number * ranks.per_model
        same = every[first : first + ranks.per_model]
        ranks.compare(f"record of {key!r}", [records for records, _ in same], first)
        yield key, tuple(same[0])


def _plain(stage: Stage[ConfigT, Any, Any], record: Mapping[str, Any], key: str) -> Record:
    """A record as it is written, once it is of its stage's type."""
    found: Record = plain(record, f"record of {key!r}")
    check_record(found, stage.record, f"stage {stage.name!r}, record of {key!r}")
    return found


def _work(stage: Stage[ConfigT, Any, Any], items: Sequence[Any]) -> dict[str, Any]:
    """What measure gets, by the key it is marked done under: items, or lists of them, cut the same way in every run."""
    if stage.batch is None:
        return {item.key: item for item in items}
    batches = [list(items[start : start + stage.batch]) for start in range(0, len(items), stage.batch)]
    return {f"{batch[0].key} .. {batch[-1].key}": batch for batch in batches}


def _labelled(stage: Stage[ConfigT, Any, Any], item: Any, records: Any) -> Any:
    """Records with their stage and item in front."""
    keys = {one.key for one in item} if stage.batch is not None else {item.key}
    for record in records:
        name = record.get("item") if stage.batch is not None else item.key
        if name not in keys:
            raise RunError(f"stage {stage.name!r}: a record of a batch must name its item, found item = {name!r}")
        if "stage" in record or record.get("item", name) != name:
            raise RunError(
                f"stage {stage.name!r}: the fields stage and item of a record are the runner's; rename yours"
            )
        yield {"stage": stage.name, "item": name, **record}


def _checked(stage: Stage[ConfigT, Any, Any], items: Sequence[Any]) -> Sequence[Any]:
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            raise DataError(f"stage {stage.name!r}: two items have the key {item.key!r}; each must be there once")
        seen.add(item.key)
    return items


def _check_known(stage: Stage[ConfigT, Any, Any], work: Mapping[str, Any], file: RecordFile) -> None:
    gone = [key for name, key in file.done if name == stage.name and key not in work]
    if gone:
        raise RunError(
            f"{file.path}: holds {len(gone)} items of stage {stage.name!r} that this run does not have "
            f"(the first is {gone[0]!r}); start over with --fresh, which keeps them aside"
        )
