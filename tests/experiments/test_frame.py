"""Records as tables read them: filtered by label, summed up over the unit that is resampled."""

from __future__ import annotations

from typing import TypedDict

import pytest

from experiments.harness.frame import Frame, of, spread, typed
from mlx_interp.stats import mean_or_none

RECORDS = [
    {
        "stage": "one",
        "item": f"q{i}",
        "topic": i % 3,
        "arm": arm,
        "hit": (i + bonus) % 2 == 0,
        "far": None if i else 2.0,
    }
    for i in range(6)
    for bonus, arm in enumerate(("patched", "control"))
]


def test_a_stage_is_filtered_by_its_labels_and_keeps_its_order() -> None:
    found = of([*RECORDS, {"stage": "two", "arm": "patched"}], "one", arm="patched")
    assert [r["item"] for r in found] == [f"q{i}" for i in range(6)]
    assert found.where(topic=0).values("item") == ["q0", "q3"]
    assert of(RECORDS, "one", absent=1) == []
    assert len(of(RECORDS, "one", absent=None)) == len(RECORDS), "a label that a record lacks is None there"


class Hit(TypedDict):
    hit: bool


def test_typed_records_are_those_of_the_stage_and_labels() -> None:
    found = typed([*RECORDS, {"stage": "two", "hit": True}], "one", Hit, arm="patched")
    assert [r["hit"] for r in found] == [True, False] * 3


def test_a_rate_is_the_mean_over_the_unit_that_is_named() -> None:
    own = Frame(RECORDS).where(arm="patched")
    hits = [float(r["hit"]) for r in own]
    assert own.rate(seed=3) == mean_or_none(hits, unit=[r["item"] for r in own], seed=3)
    by_topic = own.rate(unit="topic", seed=3)
    assert by_topic == mean_or_none(hits, unit=[r["topic"] for r in own], seed=3)
    assert by_topic is not None
    assert by_topic.n == 3


def test_what_was_not_measured_is_left_out_and_one_unit_has_no_interval() -> None:
    found = Frame(RECORDS).measured("far")
    assert {r["item"] for r in found} == {"q0"}
    assert found.rate("far", seed=0) is None


@pytest.mark.parametrize(("n", "expected"), [(3, [0, 3, 6]), (10, list(range(10))), (12, list(range(10))), (0, [])])
def test_items_are_spread_evenly(n: int, expected: list[int]) -> None:
    assert spread(range(10), n) == expected


def test_values_that_do_not_belong_to_the_records_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\d"):
        Frame(RECORDS).mean([1.0, 2.0], seed=0)
