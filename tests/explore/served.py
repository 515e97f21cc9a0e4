"""An explorer served in a thread of its own, in which its model is made: MLX's streams belong to their thread."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any
from urllib.parse import urlparse

from mlx_interp.explore import Explorer, serve
from mlx_interp.model import Model
from tests.tiny import tiny_model

PROMPT = "5 9 3 17"


@dataclass
class Served:
    """Where a server is, and the thread it runs in."""

    address: str = ""
    thread: Thread | None = None
    error: BaseException | None = None
    stop: Event = field(default_factory=Event)

    def ask(
        self, path: str, body: bytes | None = None, method: str = "POST", **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one request; path: behind the random word, or from the root where it begins with /."""
        place = urlparse(self.address)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
        connection.putrequest(method, path if path.startswith("/") else place.path + path, skip_host="Host" in headers)
        if body is not None:
            headers = {"Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def end(self) -> None:
        self.stop.set()
        assert self.thread is not None
        self.thread.join(20)

    def act(self, action: str, **request: Any) -> tuple[int, dict[str, Any]]:
        return self.ask(action, json.dumps(request).encode())


def tiny() -> Model:
    return tiny_model("llama")


@contextmanager
def served(
    explorer_of: Callable[[Model, str], Explorer] = Explorer, model: Callable[[], Model] = tiny, **options: Any
) -> Iterator[Served]:
    """A server until the block ends."""
    found, ready = Served(), Event()

    def started(address: str) -> None:
        found.address = address
        ready.set()

    def work() -> None:
        try:
            explorer = explorer_of(model(), "tiny")
            serve(explorer, started=started, stop=found.stop.is_set, **options)
        except BaseException as error:
            found.error = error
        finally:
            ready.set()

    found.thread = Thread(target=work, daemon=True)
    found.thread.start()
    ready.wait(30)
    try:
        yield found
    finally:
        found.end()
