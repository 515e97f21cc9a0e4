"""Processes that a launcher started together (`mlx.launch`): what they tell each other, through MLX's collectives.

A run of a study deals its items out to them, one to each rank in a round, and a model can be split over them
(`loading/processes.py`), or several copies of one (`copies.py`). No file system need be shared.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlx_interp.copies import Star, check_copies, launched_hosts, own_ring
from mlx_interp.deferred import mx
from mlx_interp.errors import ConfigError, RanksDiffer, RunError

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
    """MLX's, of all of them; or, with several copies of a model, of those of the own copy."""
    one_model: bool = False
    """Whether a model is split over them, so that all of a copy compute the same; else each has one of its own."""
    copies: int = 1
    """How many copies of the split model there are: consecutive ranks have one, as many each."""
    leaders: Star | None = None
    """On the first rank of each of several copies: the connection to those of the others."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    @property
    def models(self) -> int:
        """How many models they hold, each of which measures an item by itself."""
        return self.copies if self.one_model else self.size

    @property
    def model(self) -> int:
        """Which of the models this rank holds, or holds a part of."""
        return self.rank // self.per_model

    @property
    def per_model(self) -> int:
        """How many ranks hold one model."""
        return self.size // self.models

    def of_copy(self) -> Ranks:
        """Those that hold the same copy of a split model: what they tell each other is nobody else's."""
        each = self.size // self.copies
        return replace(self, rank=self.rank % each, size=each, copies=1, leaders=None)

    def gather(self, message: Any) -> list[Any]:
        """Every rank's message (JSON values), by rank; all ranks must call it. Raises RunError where one is gone."""
        if self.size == 1:
            return [message]
        if self.copies > 1:
            return self._over_copies(message)
        data = json.dumps(message, ensure_ascii=False).encode("utf-8")
        lengths = self._collect(np.array([len(data)], dtype=np.int32))
        padded = np.zeros(int(lengths.max()), dtype=np.uint8)
        padded[: len(data)] = np.frombuffer(data, dtype=np.uint8)
        rows = self._collect(padded).reshape(self.size, -1)
        return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths.tolist(), strict=True)]

    def _over_copies(self, message: Any) -> list[Any]:
        own = self.of_copy()
        mine = own.gather(message)
        every: list[Any] = []
        if self.leaders is not None:
            try:
                every = [one for copy in self.leaders.gather(mine) for one in copy]
            except (EOFError, OSError) as error:
                raise RunError(
                    f"another copy of the model is gone, so rank {self.rank} stops ({error or 'it hung up'}); what was "
                    "measured is kept, and the same command goes on from there"
                ) from error
        found: list[Any] = own.gather(every)[0]
        return found

    def agree(self, name: str, value: Any) -> None:
        """Raises RanksDiffer on every rank, naming those that differ from rank 0, where `value` is not the same."""
        self.compare(name, self.gather(value))

    def compare(self, name: str, values: list[Any], first: int = 0) -> None:
        """As `agree`, of every rank's value, gathered already; or of some ranks' values, counted from `first`."""
        others = [rank for rank, other in enumerate(values) if other != values[0]]
        if others:
            raise RanksDiffer(
                f"rank {_list([first + rank for rank in others])} has another {name} than rank {first}: "
                f"{_shortly(values[others[0]])}, not {_shortly(values[0])}"
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
        """Whom this rank talks to in its ring: one of them it is that broke the connection."""
        each = self.size // self.copies
        start = self.rank - self.rank % each
        return sorted({start + (self.rank - start + step) % each for step in (-1, 1)} - {self.rank})


ALONE = Ranks()


@functools.cache
def link() -> Any:
    """The stream on which parts of a model send in the order of the program, while others compute."""
    return mx.new_stream(mx.cpu)


def launched(copies: int | None = None) -> Ranks:
    """The ranks that a launcher such as mlx.launch started, or this process alone.

    copies: of a model that is split over them, in as many rings; the first call of a process decides, later ones may
    leave it out. Raises ConfigError where the processes cannot hold so many, or hold another number already.
    """
    if not any(name in os.environ for name in LAUNCHED):
        return ALONE
    ranks = _launched(1 if copies is None else copies) if not _arranged else _arranged[0]
    if copies not in (None, ranks.copies):
        raise ConfigError(f"copies={copies}: these processes hold {ranks.copies} already: ask for them first of all")
    return ranks


def to_be_arranged() -> bool:
    """Whether this is one of several processes that have not been told yet how many copies of a model they hold."""
    return not _arranged and any(name in os.environ for name in LAUNCHED)


_arranged: list[Ranks] = []
"""The ranks of this process, once they are known."""


def _launched(copies: int) -> Ranks:
    if copies == 1:
        group = mx.distributed.init()
        ranks = Ranks(group.rank(), group.size(), group)
    else:
        hosts = launched_hosts()
        rank, each = int(os.environ["MLX_RANK"]), check_copies(copies, len(hosts))
        with own_ring(hosts, rank, each) as (copy, within):
            group = mx.distributed.init(backend="ring", strict=True)
        if (group.rank(), group.size()) != (within, each):
            raise ConfigError(f"copies={copies}: MLX had its ring already: ask for copies first of all")
        leaders = Star(copy, copies, hosts) if within == 0 else None
        ranks = Ranks(rank, len(hosts), group, copies=copies, leaders=leaders)
    _arranged.append(ranks)
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
