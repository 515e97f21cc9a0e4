"""A server for one person on this machine: loopback alone, a random word in the address, bounded requests, an end.

Connections are threads, so that a browser's idle ones stop nobody; what they ask of the model is queued and done in the
thread that called `serve`, one at a time: MLX's streams belong to the thread that made them.
"""

from __future__ import annotations

import errno
import json
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any

from mlx_interp.errors import ConfigError, MlxInterpError
from mlx_interp.explore.actions import Answer, Explorer

LOOPBACK = "127.0.0.1"
IDLE = 30 * 60.0
"""Seconds without a request after which it ends."""
LARGEST_BODY = 64 * 1024
"""Bytes of a request: a prompt of the longest kind that a page shows takes a tenth of it."""
WAITING = 4
"""Requests that may wait for the model; one more is told to come back."""
SLOWEST_CLIENT = 10.0
"""Seconds in which a request must have come in whole."""
BEAT = 0.5

Job = tuple[Callable[[Any], Answer], Any, "Future[Answer]"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, explorer: Explorer) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.explorer = explorer
        self.word = secrets.token_urlsafe(24)
        self.jobs: Queue[Job] = Queue(WAITING)
        self.asked = time.monotonic()
        self.ended = False

    @property
    def hosts(self) -> set[str]:
        """What a browser on this machine calls it; another name would be another site's."""
        return {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/{self.word}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no news."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = SLOWEST_CLIENT
    server_version = "mlx-interp"
    sys_version = ""

    def do_GET(self) -> None:
        if (path := self._path()) is None:
            return
        if path == "alive":  # a page that is only open does not keep the model in memory
            self._send(200, {"alive": not self.server.ended})
        elif path == "":
            self.server.asked = time.monotonic()
            self._send_bytes(200, self.server.explorer.page().html.encode("utf-8"), "text/html")
        else:
            self._refuse(404, "there is nothing at this address")

    def do_POST(self) -> None:
        if (path := self._path()) is None:
            return
        action = self.server.explorer.actions.get(path)
        if action is None:
            self._refuse(404, f"no action {path!r}")
        elif self.headers.get("Origin", f"http://{self.headers['Host']}") != f"http://{self.headers['Host']}":
            self._refuse(403, "another site may not ask")
        elif (asked := self._body()) is not None:
            self.server.asked = time.monotonic()
            self._send(*self._done(action, asked))

    def _path(self) -> str | None:
        """What stands behind the random word; None, and an answer, for whoever does not know it."""
        word, _, path = self.path.lstrip("/").partition("?")[0].partition("/")
        if self.headers.get("Host") not in self.server.hosts:
            self._refuse(403, "this page is for a browser on the same machine")
        elif not secrets.compare_digest(word.encode(), self.server.word.encode()):
            self._refuse(404, "there is nothing at this address: open the one that the command printed")
        else:
            return path
        return None

    def _body(self) -> Any:
        """The request as JSON; None, and an answer, for what is none or too long."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self._refuse(411, "a request says how long it is")
        elif int(length) > LARGEST_BODY:
            self._refuse(413, f"a request of {int(length)} bytes: up to {LARGEST_BODY} are read; give a shorter prompt")
        else:
            try:
                asked = json.loads(self.rfile.read(int(length)))
            except ValueError:
                asked = None
            if isinstance(asked, dict):
                return asked
            self._refuse(400, "a request is a JSON object")
        return None

    def _done(self, action: Callable[[Any], Answer], asked: Any) -> tuple[int, Answer]:
        future: Future[Answer] = Future()
        try:
            self.server.jobs.put_nowait((action, asked, future))
        except Full:
            return 503, {"error": f"{WAITING} requests are waiting for the model already: try again when they are done"}
        try:
            return 200, future.result()
        except MlxInterpError as error:
            return 400, {"error": str(error)}
        except Exception as error:
            traceback.print_exception(error)
            return 500, {"error": f"{type(error).__name__}: {error}"}

    def _refuse(self, status: int, why: str) -> None:
        self._send(status, {"error": why})

    def _send(self, status: int, answer: Answer) -> None:
        self._send_bytes(status, json.dumps(answer, allow_nan=False).encode("ascii"), "application/json")

    def _send_bytes(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for the address and for errors."""


def serve(
    explorer: Explorer,
    *,
    port: int = 0,
    idle: float = IDLE,
    started: Callable[[str], None] = lambda address: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Answer a browser on this machine until nobody has asked for `idle` seconds, or Ctrl-C.

    port: 0 takes a free one. started: called with the address. stop: asked twice a
    second; true ends it. Raises ConfigError for a port that cannot be had.
    """
    try:
        server = _Server(port, explorer)
    except (OSError, OverflowError) as error:
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "is in use" if in_use else f"cannot be opened ({error})"
        raise ConfigError(f"port {port} {why}: give another --port, or leave it out for a free one") from error
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": BEAT}, daemon=True)
    thread.start()
    try:
        started(server.address)
        while time.monotonic() - server.asked < idle and not stop():
            _work(server)
    finally:
        server.ended = True
        _drop(server)
        server.shutdown()
        server.server_close()


def _work(server: _Server) -> None:
    """The next request that waits for the model, if one comes in a moment."""
    try:
        action, asked, future = server.jobs.get(timeout=BEAT)
    except Empty:
        return
    try:
        future.set_result(action(asked))
    except Exception as error:
        future.set_exception(error)
    except BaseException:
        future.set_exception(ConfigError("the program was stopped"))
        raise
    finally:
        server.asked = time.monotonic()  # a long answer is no idle time


def _drop(server: _Server) -> None:
    """Whoever still waits is told."""
    while True:
        try:
            *_, future = server.jobs.get_nowait()
        except Empty:
            return
        future.set_exception(ConfigError("the program was stopped"))
