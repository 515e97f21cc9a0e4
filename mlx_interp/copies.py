"""Copies of a split model side by side: each is a ring of processes, and the first process of each talks to the others.

MLX's ring cannot be divided once it is there (mlx issue 3205, open with MLX 0.32). So it is never made of all
processes: before MLX is asked for it, the launcher's list of hosts is cut to those of this process's copy, the next
`n` of them by rank. What the copies tell each other, results of items, goes over a connection of its own, through rank
0; it is JSON, and little. Where the number of copies is to be chosen, all processes tell each other so how much memory
they have, before there is a ring.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from mlx_interp.errors import ConfigError

HOSTS, RANK = "MLX_HOSTFILE", "MLX_RANK"
"""What mlx.launch sets in every process of a ring: a file with the addresses of all, and the own number."""
PATIENCE = 60.0
"""Seconds in which rank 0 must have begun to listen."""
PAUSE = 0.1


class Star:
    """A connection of some processes through the first of them, which listens: the first ones of copies, or all."""

    def __init__(self, number: int, size: int, hosts: Sequence[Sequence[str]]) -> None:
        self.number, self.size = number, size
        address, key = meeting_place(hosts)
        if number == 0:
            try:
                with Listener(address, backlog=size, authkey=key) as listener:
                    arrived = [listener.accept() for _ in range(size - 1)]
            except OSError as error:
                raise ConfigError(
                    f"copies: rank 0 cannot listen at {address[0]}:{address[1]} ({error}): choose other ports "
                    "with `mlx.launch --starting-port`"
                ) from error
            self._others = {one.recv_bytes().decode(): one for one in arrived}
        else:
            self._first = _reached(address, key)
            self._first.send_bytes(str(number).encode())

    def close(self) -> None:
        """Hang up."""
        for one in self._others.values() if self.number == 0 else [self._first]:
            one.close()

    def gather(self, message: Any) -> list[Any]:
        """Every one's message (JSON values), by number; each must call it. Raises OSError or EOFError where one is
        gone."""
        data = json.dumps(message, ensure_ascii=False).encode("utf-8")
        if self.number:
            self._first.send_bytes(data)
            found: list[Any] = json.loads(self._first.recv_bytes())
            return found
        every = [message, *(json.loads(self._others[str(n)].recv_bytes()) for n in range(1, self.size))]
        answer = json.dumps(every, ensure_ascii=False).encode("utf-8")
        for one in self._others.values():
            one.send_bytes(answer)
        return every


def meeting_place(hosts: Sequence[Sequence[str]]) -> tuple[tuple[str, int], bytes]:
    """Rank 0's address, at the port behind all that rings use, and what a process of the same launch knows."""
    ports = [int(address.rpartition(":")[2]) for each in hosts for address in each]
    return (hosts[0][0].rpartition(":")[0], max(ports) + 1), hashlib.sha256(json.dumps(hosts).encode()).digest()


def _reached(address: tuple[str, int], key: bytes) -> Connection:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return Client(address, authkey=key)
        except OSError as error:
            if time.monotonic() > until:
                raise ConfigError(
                    f"copies: rank 0 does not answer at {address[0]}:{address[1]} ({error}): it must be reachable from "
                    "the first process of every copy, and where their number is to be chosen from all"
                ) from error
            time.sleep(PAUSE)


def launched_as_ring() -> bool:
    """Whether this process is one of a ring that mlx.launch started."""
    return bool(os.environ.get(HOSTS)) and RANK in os.environ


def launched_hosts() -> list[list[str]]:
    """The addresses of all processes of this launch, by rank. Raises ConfigError where no ring was launched."""
    if not launched_as_ring():
        raise ConfigError("copies of a split model need the ring: start them with `mlx.launch -n 4 --backend ring ...`")
    hosts: list[list[str]] = json.loads(Path(os.environ[HOSTS]).read_text(encoding="utf-8"))
    return hosts


def check_copies(copies: object, n_processes: int) -> int:
    """Processes of each copy. Raises ConfigError where all would not have as many, two at least."""
    if isinstance(copies, bool) or not isinstance(copies, int) or copies < 1:
        raise ConfigError(f"copies={copies!r}: give a whole number, 1 or more")
    each = n_processes // copies
    if copies > 1 and (each * copies != n_processes or each < 2):
        raise ConfigError(
            f"copies={copies} of a model over {n_processes} processes: each must have as many, two at least; launch "
            f"{2 * copies} or another multiple of {copies}"
        )
    return each


def most_copies(weights: int, free: Sequence[int], *, equal: bool) -> int:
    """As many copies as the processes have memory for, each over as many consecutive ones, two at least; one where
    even all of them together have too little: what that needs is said on loading.

    weights: bytes of a whole copy. free: bytes that weights may take, by rank. equal: whether each process of a copy
    has as much of it, or as its memory allows.
    """
    n = len(free)
    for copies in range(n // 2, 1, -1):
        if n % copies:
            continue
        each = n // copies
        parts = [free[start : start + each] for start in range(0, n, each)]
        if all((min(part) * each if equal else sum(part)) >= weights for part in parts):
            return copies
    return 1


def shared_by_host(hosts: Sequence[Sequence[str]], free: Sequence[int]) -> list[int]:
    """Bytes of each process, where those of one machine have named its memory each."""
    machines = [each[0].rpartition(":")[0] for each in hosts]
    return [found // machines.count(machine) for machine, found in zip(machines, free, strict=True)]


@contextmanager
def own_ring(hosts: Sequence[Sequence[str]], rank: int, each: int) -> Iterator[tuple[int, int]]:
    """Within it MLX finds the hosts of this process's copy alone; gives the copy's number and the rank in it."""
    copy, within = divmod(rank, each)
    before = {name: os.environ[name] for name in (HOSTS, RANK)}
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "hosts.json"
        own.write_text(json.dumps(list(hosts[copy * each : (copy + 1) * each])), encoding="utf-8")
        os.environ |= {HOSTS: str(own), RANK: str(within)}
        try:
            yield copy, within
        finally:
            os.environ |= before
