"""The server behind the page: who may ask, how much, how many, and when it ends."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import pytest

from mlx_interp.__main__ import main
from mlx_interp.errors import ConfigError
from mlx_interp.explore import Explorer, server
from tests.explore.served import PROMPT, Served, served


@pytest.fixture(scope="module")
def running() -> Iterator[Served]:
    with served() as found:
        yield found


def test_it_listens_on_this_machine_alone(running: Served) -> None:
    assert running.address.startswith("http://127.0.0.1:")
    assert len(running.address.rstrip("/").rpartition("/")[2]) >= 32
    status, answer = running.act("read", prompt=PROMPT)
    assert status == 200
    assert answer["code"][0] == f"prompt = model.prompt({PROMPT!r})"


@pytest.mark.parametrize("path", ["/", "/read", "/" + "x" * 32 + "/read", "/../read"])
def test_whoever_does_not_know_the_word_finds_nothing(running: Served, path: str) -> None:
    assert running.ask(path, b"{}") == (
        404,
        {"error": "there is nothing at this address: open the one that the command printed"},
    )
    assert running.ask(path, method="GET")[0] == 404


def test_another_site_may_not_ask(running: Served) -> None:
    assert running.ask("read", b"{}", Origin="https://example.org")[0] == 403
    assert running.ask("read", b"{}", Host="example.org")[0] == 403


def test_requests_are_bounded_and_understood(running: Served) -> None:
    status, answer = running.ask("read", None, **{"Content-Length": str(10**9)})
    assert status == 413
    assert "1000000000 bytes: up to 65536 are read" in answer["error"]
    assert running.ask("read", None)[0] == 411
    assert running.ask("read", b"not json") == (400, {"error": "a request is a JSON object"})
    assert running.ask("read", b"[1]")[0] == 400
    assert running.ask("dance", b"{}") == (404, {"error": "no action 'dance'"})
    assert running.act("read", prompt="")[0] == 400
    assert running.act("read", prompt=PROMPT)[0] == 200  # and it goes on


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with served(port=port) as found:
            pass
        assert isinstance(found.error, ConfigError)
        assert str(found.error) == f"port {port} is in use: give another --port, or leave it out for a free one"


GO, BUSY = Event(), Event()


@dataclass(frozen=True)
class _Slow(Explorer):
    """Waits in its action until it is let go."""

    @property
    def actions(self) -> Any:
        def wait(asked: dict[str, Any]) -> dict[str, Any]:
            BUSY.set()
            return {"waited": GO.wait(20)}

        return {"wait": wait, "fail": lambda asked: 1 // 0}


def test_no_more_wait_than_a_few_and_each_is_answered() -> None:
    GO.clear()
    BUSY.clear()
    with served(_Slow) as found:
        answers: list[tuple[int, dict[str, Any]]] = []
        asking = [Thread(target=lambda: answers.append(found.act("wait"))) for _ in range(server.WAITING + 3)]
        asking[0].start()
        assert BUSY.wait(10)  # the model has the first one; of the others some wait
        for one in asking[1:]:
            one.start()
        deadline = time.monotonic() + 10
        while len(answers) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [status for status, _ in answers] == [503, 503]
        assert "requests are waiting for the model already" in answers[0][1]["error"]
        GO.set()
        for one in asking:
            one.join(10)
        assert sorted(status for status, _ in answers) == [200] * (server.WAITING + 1) + [503] * 2


def test_a_fault_of_the_model_is_said_and_the_server_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    with served(_Slow) as found:
        assert found.act("fail") == (500, {"error": "ZeroDivisionError: integer division or modulo by zero"})
        assert "ZeroDivisionError" in capfd.readouterr().err
        GO.set()
        assert found.act("wait") == (200, {"waited": True})


def test_it_ends_when_nobody_asks_and_an_open_page_is_nobody() -> None:
    with served(idle=1.2) as found:
        assert found.thread is not None
        started = time.monotonic()
        while found.thread.is_alive() and time.monotonic() - started < 10:
            try:
                assert found.ask("alive", method="GET") == (200, {"alive": True})
            except (OSError, AssertionError):
                break
            time.sleep(0.1)
        assert time.monotonic() - started < 9  # it ended while it was asked whether it is alive
        found.thread.join(5)
        assert not found.thread.is_alive()
        assert found.error is None
        with pytest.raises(ConnectionError):
            found.ask("alive", method="GET")


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "tiny-llama", "--idle", "0"]) == 2
    assert "--idle 0: give minutes above 0" in capsys.readouterr().err
    assert main(["explore", "tiny-lama"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_ctrl_c_is_the_way_to_end_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def pressed(running: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "_work", pressed)
    assert main(["explore", "tiny-llama"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("open http://127.0.0.1:")
    assert said.endswith("ended\n")
