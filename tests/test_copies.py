"""Copies of a split model: which processes hold one, where their leaders meet, and what these tell each other."""

from __future__ import annotations

import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlx_interp import copies
from mlx_interp.copies import (
    Star,
    check_copies,
    launched_hosts,
    meeting_place,
    most_copies,
    own_ring,
    shared_by_host,
)
from mlx_interp.errors import ConfigError, RanksDiffer
from mlx_interp.ranks import Ranks


def hosts(n: int) -> list[list[str]]:
    """Addresses of n processes here, the port behind which is free."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1] - n
    return [[f"127.0.0.1:{port + rank}"] for rank in range(n)]


def leaders(n: int, at: list[list[str]]) -> list[Star]:
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(lambda copy: Star(copy, n, at), range(n)))


def test_leaders_of_three_copies_hear_of_each_other_by_number_and_more_than_once() -> None:
    three = leaders(3, hosts(6))
    with ThreadPoolExecutor(3) as pool:
        for asked in ([[{"rank": 2 * n}, "é", None] for n in range(3)], [1.5, {}, "x" * 200_000]):
            found = list(pool.map(lambda one, asked=asked: one.gather(asked[one.number]), three))
            assert found == [asked] * 3


def test_a_copy_that_hangs_up_is_an_error_of_the_others() -> None:
    first, second = leaders(2, hosts(4))
    second._first.close()
    with pytest.raises((EOFError, OSError)):
        first.gather("anybody there?")


def test_a_port_that_is_taken_names_the_option_that_moves_it() -> None:
    at = hosts(4)
    address, _ = meeting_place(at)
    with socket.create_server(address), pytest.raises(ConfigError, match=r"mlx\.launch --starting-port"):
        Star(0, 2, at)


def test_a_first_process_that_never_listens_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PATIENCE", 0.2)
    with pytest.raises(ConfigError, match=r"copies: rank 0 does not answer at 127\.0\.0\.1"):
        Star(1, 2, hosts(4))


def test_leaders_meet_behind_all_ports_and_processes_of_another_launch_have_another_key() -> None:
    at = [["10.0.0.1:500", "10.0.1.1:501"], ["10.0.0.2:502"]]
    address, key = meeting_place(at)
    assert address == ("10.0.0.1", 503)
    assert key != meeting_place([*at, ["10.0.0.3:503"]])[1]


@pytest.mark.parametrize(("given", "n", "each"), [(1, 3, 3), (2, 4, 2), (2, 6, 3), (3, 6, 2)])
def test_every_copy_has_as_many_processes(given: int, n: int, each: int) -> None:
    assert check_copies(given, n) == each


@pytest.mark.parametrize(("given", "n"), [(2, 5), (2, 3), (4, 4), (0, 4), (-1, 4), (True, 4), ("2", 4), (1.0, 4)])
def test_copies_that_the_processes_cannot_hold_are_refused(given: Any, n: int) -> None:
    with pytest.raises(ConfigError, match="copies="):
        check_copies(given, n)


@pytest.mark.parametrize(
    ("weights", "free", "equal", "copies"),
    [
        (10, [10] * 4, True, 2),
        (10, [5] * 4, True, 2),
        (11, [5] * 4, True, 1),
        (100, [5] * 4, True, 1),  # too little for one: said on loading
        (10, [5] * 12, True, 6),
        (15, [5] * 12, True, 4),
        (10, [9, 2, 9, 9], True, 1),  # the first two: five each
        (10, [9, 2, 9, 9], False, 2),
        (10, [20] * 5, True, 1),  # five do not divide
        (1, [20] * 2, True, 1),
    ],
)
def test_as_many_copies_are_made_as_there_is_memory_for(
    weights: int, free: list[int], equal: bool, copies: int
) -> None:
    assert most_copies(weights, free, equal=equal) == copies


def test_processes_of_one_machine_share_its_memory() -> None:
    at = [["10.0.0.1:500"], ["10.0.0.2:500"], ["10.0.0.1:501"], ["10.0.0.1:502"]]
    assert shared_by_host(at, [30, 8, 30, 27]) == [10, 8, 10, 9]


def test_those_that_met_once_meet_again_at_the_same_place() -> None:
    at = hosts(4)
    for turn in range(2):
        four = leaders(4, at)
        with ThreadPoolExecutor(4) as pool:
            assert (
                list(pool.map(lambda one, turn=turn: one.gather(one.number + turn), four))
                == [[turn + n for n in range(4)]] * 4
            )
        for one in four:
            one.close()


def test_mlx_finds_the_hosts_of_the_own_copy_and_the_launchers_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="--backend ring"):
        launched_hosts()
    place = tmp_path / "hosts.json"
    place.write_text(json.dumps([["a:1"], ["b:2"], ["c:3"], ["d:4"]]))
    monkeypatch.setenv("MLX_HOSTFILE", str(place))
    monkeypatch.setenv("MLX_RANK", "3")
    with own_ring(launched_hosts(), 3, 2) as found:
        assert found == (1, 1)
        assert json.loads(Path(os.environ["MLX_HOSTFILE"]).read_text()) == [["c:3"], ["d:4"]]
        assert os.environ["MLX_RANK"] == "1"
    assert (os.environ["MLX_HOSTFILE"], os.environ["MLX_RANK"]) == (str(place), "3")


def test_ranks_of_copies_know_their_model_their_ring_and_their_neighbours() -> None:
    one = Ranks(4, 6, None, one_model=True, copies=2)
    assert (one.models, one.per_model, one.model, one._neighbours()) == (2, 3, 1, [3, 5])
    own = one.of_copy()
    assert (own.rank, own.size, own.models, own.model) == (1, 3, 1, 0)
    whole = Ranks(4, 6)
    assert (whole.models, whole.per_model, whole.model, whole._neighbours()) == (6, 1, 4, [3, 5])
    with pytest.raises(RanksDiffer, match="rank 4 has another record than rank 3: 8, not 7"):
        one.compare("record", [7, 8, 7], first=3)
