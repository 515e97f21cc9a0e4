"""Processes that a launcher started together (`mlx.launch`): what they tell each other, through MLX's collectives.

A run of a study deals its items out to them, one to each rank in a round, and a model can be split over them
(`loading/processes.py`). No file system need be shared.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import RanksDiffer, RunError

GRACE = 5.0
"""Seconds in which Python must have come to handle a signal."""

LONGEST = 200
"""Letters of a value in a message."""

LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Set in a process that a launcher started; without one no network is touched."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run. One process alone is rank 0 of 1, and exchanges nothing."""

    rank: int = 0
    size: int = 1
    group: Any = None
    one_model: bool = False
    """Whether one model is split over them, so that all compute the same; else each has a model of its own."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    @property
    def models(self) -> int:
        """How many models they hold, each of which measures an item by itself."""
        return 1 if self.one_model else self.size

    def gather(self, message: Any) -> list[Any]:
        """Every rank's message (JSON values), by rank; all ranks must call it. Raises RunError where one is gone."""
        if self.size == 1:
            return [message]
        data = json.dumps(message, ensure_ascii=False).encode("utf-8")
        lengths = self._collect(np.array([len(data)], dtype=np.int32))
        padded = np.zeros(int(lengths.max()), dtype=np.uint8)
        padded[: len(data)] = np.frombuffer(data, dtype=np.uint8)
        rows = self._collect(padded).reshape(self.size, -1)
        return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths.tolist(), strict=True)]

    def agree(self, name: str, value: Any) -> None:
        """Raises RanksDiffer on every rank, naming those that differ from rank 0, where `value` is not the same."""
        self.compare(name, self.gather(value))

    def compare(self, name: str, values: list[Any]) -> None:
        """As `agree`, of every rank's value, gathered already."""
        others = [rank for rank, other in enumerate(values) if other != values[0]]
        if others:
            raise RanksDiffer(
                f"rank {_list(others)} has another {name} than rank 0: {_shortly(values[others[0]])}, not "
                f"{_shortly(values[0])}"
            )

    def succeeded(self, error: str | None) -> None:
        """Raises RunError on every rank where one of them comes with an error, saying which and what.

        Where there is one error alone, those that come with it are left to raise it themselves.
        """
        failed = {rank: said for rank, said in enumerate(self.gather(error)) if said is not None}
        if failed and not (error is not None and len(set(failed.values())) == 1):
            raise RunError("; ".join(f"rank {rank} failed: {said}" for rank, said in failed.items()))

    def _collect(self, values: np.ndarray) -> np.ndarray:
        try:
            if link.cache_info().currsize:
                mx.synchronize(link())  # what a model's parts send each other comes first, on all ranks
            gathered = mx.distributed.all_gather(mx.array(values), group=self.group, stream=mx.cpu)
            mx.eval(gathered)
        except RuntimeError as error:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's own stop must not interrupt this one
            raise self.gone(str(error)) from error
        return np.asarray(gathered)

    def gone(self, why: str) -> RunError:
        """The error of a rank that has lost another one."""
        return RunError(
            f"rank {_list(self._neighbours())} is gone, so rank {self.rank} stops ({why}); what was measured is kept, "
            "and the same command goes on from there"
        )

    def _neighbours(self) -> list[int]:
        """Whom this rank talks to in a ring: one of them it is that broke the connection."""
        return sorted({(self.rank - 1) % self.size, (self.rank + 1) % self.size} - {self.rank})


ALONE = Ranks()


@functools.cache
def link() -> Any:
    """The stream on which parts of a model send in the order of the program, while others compute."""
    return mx.new_stream(mx.cpu)


def launched() -> Ranks:
    """The ranks that a launcher such as mlx.launch started, or this process alone."""
    if not any(name in os.environ for name in LAUNCHED):
        return ALONE
    group = mx.distributed.init()
    ranks = Ranks(group.rank(), group.size(), group)
    if ranks.size > 1:
        _listen(ranks.rank)
        signal.signal(signal.SIGTERM, functools.partial(_stop, ranks))
    return ranks


_heard = threading.Event()
"""Set once Python has come to handle a signal."""


def _stop(ranks: Ranks, *_: Any) -> None:
    """The launcher ends all ranks when one has died, often before the network has noticed."""
    _heard.set()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise ranks.gone("stopped by the launcher")


def _interrupt(*given: Any) -> None:
    _heard.set()
    signal.default_int_handler(*given)


@functools.cache
def _listen(rank: int) -> None:
    """A thread that ends this process where a signal cannot.

    Inside an exchange MLX waits for the other rank, without end if that one is gone, and Python handles no signal
    before it comes back; the launcher waits in turn for this process to end. The signal itself is heard at once.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _interrupt)

    def wait() -> None:
        number = 0
        while number not in (signal.SIGINT, signal.SIGTERM):  # the descriptor hears every signal that Python handles
            number = ours.recv(1)[0]
        if not _heard.wait(GRACE):
            why = "Ctrl-C" if number == signal.SIGINT else "stopped by the launcher"
            print(
                f"error: {why}: rank {rank} was waiting for another rank, which is gone or stopped; what was measured "
                "is kept, and the same command goes on from there",
                file=sys.stderr,
                flush=True,
            )
            theirs.close()
            os._exit(130 if number == signal.SIGINT else 1)

    threading.Thread(target=wait, name="signals", daemon=True).start()


def said(error: BaseException) -> str:
    """An error in one line, for the other ranks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _shortly(value: Any) -> str:
    """A value in a message: of a study's records the beginning is enough."""
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _list(ranks: list[int]) -> str:
    return " or ".join(map(str, ranks))
