"""The progress bar of a run: one line a stage with the time left, or, where nothing can be redrawn, a line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from mlx_interp.deferred import rich

EVERY = 60.0
"""Seconds between two lines where the output is no terminal."""
LEAST = 5.0
"""Seconds of measuring after which a time left is worth telling."""


class Bar(Protocol):
    """What measuring reports to."""

    def stage(self, name: str, total: int, done: int) -> Callable[[], None]:
        """Begin a stage of so many items, some of them measured earlier; what is returned is called after each."""
        ...


class Redrawn:
    """A bar a stage, on a terminal."""

    def __init__(self, progress: rich.progress.Progress) -> None:
        self.progress = progress

    def stage(self, name: str, total: int, done: int) -> Callable[[], None]:
        task = self.progress.add_task(name, total=total, completed=done)
        return lambda: self.progress.advance(task)


class Lines:
    """A line when a stage begins, a line a minute while it lasts, for logs and pipes.

    say: prints a line. clock: seconds; both are handed in so that a test needs no minutes.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.say, self.clock = say, clock

    def stage(self, name: str, total: int, done: int) -> Callable[[], None]:
        if done == total:
            return lambda: None
        start = told = self.clock()
        before = done
        self.say(f"{name}: {done} of {total}")

        def advance() -> None:
            nonlocal done, told
            done += 1
            now = self.clock()
            if now - told < EVERY and done < total:
                return
            if done == total and now - start < EVERY:
                return  # a short stage is told of once
            told, left = now, (now - start) / (done - before) * (total - done)
            rest = f", about {duration(left)} left" if done < total and now - start >= LEAST else ""
            self.say(f"{name}: {done} of {total} after {duration(now - start)}{rest}")

        return advance


class Silent:
    """Nothing: on the ranks that help."""

    def stage(self, name: str, total: int, done: int) -> Callable[[], None]:
        return lambda: None


@contextmanager
def shown(*, visible: bool) -> Iterator[Bar]:
    """The bar for where the program runs: redrawn on a terminal, lines elsewhere, nothing unless `visible`."""
    console = rich.console.Console(stderr=True)
    if not visible:
        yield Silent()
    elif not console.is_terminal:
        yield Lines(lambda line: print(line, file=sys.stderr, flush=True))
    else:
        columns = [
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TimeRemainingColumn(),
        ]
        with rich.progress.Progress(*columns, console=console) as progress:
            yield Redrawn(progress)


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
