"""Progress where nothing can be redrawn: a line when a stage begins, a line a minute, the time left."""

from __future__ import annotations

from experiments.harness.bar import Lines, duration


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def said(total: int, done: int, seconds: float) -> list[str]:
    """What is said over a stage whose items take so long."""
    lines: list[str] = []
    clock = Clock()
    advance = Lines(lines.append, clock).stage("m: patched", total, done)
    for _ in range(total - done):
        clock.now += seconds
        advance()
    return lines


def test_a_long_stage_is_told_of_once_a_minute_with_the_time_left() -> None:
    lines = said(total=10, done=2, seconds=50)
    assert lines[0] == "m: patched: 2 of 10"
    assert lines[1] == "m: patched: 4 of 10 after 2 min, about 5 min left"  # 6 items of 50 s
    assert lines[-1] == "m: patched: 10 of 10 after 7 min"
    assert len(lines) == 5


def test_a_short_stage_is_told_of_once_and_a_measured_one_not_at_all() -> None:
    assert said(total=300, done=0, seconds=0.1) == ["m: patched: 0 of 300"]
    assert said(total=300, done=300, seconds=1) == []


def test_durations_are_said_as_people_say_them() -> None:
    assert [duration(seconds) for seconds in (0.4, 59, 60, 3540, 3600, 12_000)] == [
        *("0 s", "59 s", "1 min", "59 min", "1 h 0 min", "3 h 20 min"),
    ]
