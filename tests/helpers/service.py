"""A service on this machine that answers as a test says: well, late, wrongly, in part, or without end."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What is sent.

    Attributes:
        body: JSON, or bytes as they are.
        how: "whole"; "cut": all but the last byte, then the connection ends; "endless": again and again; "dripping":
            a byte every 50 ms; "dropped": nothing at all.
        after_s: seconds before anything is sent.
    """

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = {}
    how: str = "whole"
    after_s: float = 0.0


class Asked(NamedTuple):
    """A request that came."""

    path: str
    headers: dict[str, str]
    content: Any


class Service:
    """Answers by `answer`, which gets each request.

    Attributes:
        asked: the requests so far.
        at_once: the most requests that were open at the same time.
        address: of this service.
    """

    def __init__(self, answer: Callable[[Asked], Answer]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.at_once = self._open = 0
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self._http = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"service": self}))
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuses connections from now on, and ends those that are open."""
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()

    @contextmanager
    def open_request(self, asked: Asked) -> Iterator[None]:
        """Counts a request while it is open."""
        with self._lock:
            self.asked.append(asked)
            self._open += 1
            self.at_once = max(self.at_once, self._open)
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: clients of these tests go away early."""


class _Handler(BaseHTTPRequestHandler):
    service: Service
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802 (the name is http.server's)
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(self.path, dict(self.headers), content)
        with self.service.open_request(asked):
            answer = self.service.answer(asked)
            self.service.stopped.wait(answer.after_s)
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        if answer.how == "dropped":
            self.close_connection = True
            return
        self.send_response(answer.status)
        length = {} if answer.how == "endless" else {"Content-Length": str(len(body))}
        for name, value in ({"Content-Type": "application/json"} | length | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if answer.how == "whole":
            self.wfile.write(body)
            return
        self.close_connection = True
        if answer.how == "cut":
            self.wfile.write(body[:-1])
        while answer.how == "endless" and not self.service.stopped.is_set():
            self.wfile.write(body * (1 + 65_536 // len(body)))
        for byte in body if answer.how == "dripping" else b"":
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def serving(answer: Callable[[Asked], Answer]) -> Iterator[Service]:
    """Gives a service that runs until the block ends."""
    service = Service(answer)
    try:
        yield service
    finally:
        service.stop()


def in_turn(*answers: Answer) -> Callable[[Asked], Answer]:
    """Returns a function that gives one answer after the other, and the last one for ever."""
    left = list(answers)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


def said(text: object, **more: Any) -> Answer:
    """Returns an answer of a chat service that says a text."""
    return Answer({"choices": [{"message": {"role": "assistant", "content": text}}], **more})
