"""The wave of batches through a pipeline's stages: every batch in order, each process at another one in every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_interp.engine.wave import CHUNKS, FEWEST, Passing, cut, in_waves


def passing(log: list[tuple[int, int]], n_stages: int) -> Callable[[int], Passing]:
    def begun(batch: int) -> Passing:
        for stage in range(n_stages):
            log.append((batch, stage))
            if stage < n_stages - 1:
                yield
        return [batch]  # type: ignore[list-item]

    return begun


@pytest.mark.parametrize("n_stages", [1, 2, 3, 5])
@pytest.mark.parametrize("n_batches", [0, 1, 2, 7])
def test_batches_arrive_in_order_and_pass_every_stage_once(n_stages: int, n_batches: int) -> None:
    log: list[tuple[int, int]] = []
    arrived: list[Any] = list(in_waves(range(n_batches), passing(log, n_stages)))
    assert arrived == [(b, [b]) for b in range(n_batches)]
    assert sorted(log) == [(b, s) for b in range(n_batches) for s in range(n_stages)]


def test_every_stage_works_in_every_step_once_the_wave_is_full() -> None:
    log: list[tuple[int, int]] = []
    steps = []
    for batch, _ in in_waves(range(6), passing(log, 3)):
        steps.append((batch, log.copy()))
        log.clear()
    filling = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
    assert steps[0] == (0, filling)
    for batch, step in steps[1:4]:  # the youngest goes first, so that its process computes while the others do
        assert step == [(batch + 2, 0), (batch + 1, 1), (batch, 2)]
    assert [step for _, step in steps[4:]] == [[(5, 1), (4, 2)], [(5, 2)]]


def test_no_more_batches_are_made_than_are_under_way() -> None:
    made: list[int] = []

    def batches() -> Iterator[int]:
        for number in range(9):
            made.append(number)
            yield number

    waves = in_waves(batches(), passing([], 3))
    next(waves)
    assert len(made) == 3
    next(waves)
    assert len(made) == 4


@pytest.mark.parametrize(("n", "size"), [(64, 2), (63, 3), (9, 2), (3, 4), (1, 2), (1000, 8)])
def test_batches_are_cut_into_parts_for_each_stage_of_few_rows_at_least(n: int, size: int) -> None:
    relay: Any = SimpleNamespace(size=size)
    parts = list(cut(list(range(n)), relay))
    assert [row for part in parts for row in part] == list(range(n))
    assert all(len(part) >= FEWEST for part in parts[:-1])
    assert len(parts) <= CHUNKS * size
    assert list(cut(list(range(n)), None)) == [list(range(n))]
