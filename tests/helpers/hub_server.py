"""A Hugging Face hub on this machine, with one model or data set: whole, cut off half-way, or with hostile names."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Gives the files of one repository, whatever its name is.

    Attributes:
        files: name -> content.
        cuts: name -> the bytes that each of the next answers has before its connection ends; then answers are whole.
        damaged: names of files that arrive with one bit flipped.
        asked: (method, path, range) of the requests so far.
        address: of this server.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.cuts: dict[str, list[int]] = {}
        self.damaged: set[str] = set()
        self.asked: list[tuple[str, str, str | None]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuses connections from now on."""
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Returns the environment of a program that asks this server, and keeps what it gets in `home`."""
        kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
        own = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
        return kept | own

    def ranges(self, name: str) -> list[str | None]:
        """Returns the byte ranges that were asked for of a file, None for all of it."""
        return [part for method, path, part in self.asked if method == "GET" and path.endswith(f"/{name}")]

    def info(self, repository: str) -> dict[str, Any]:
        """Returns what the hub says of the repository."""
        siblings = [{"rfilename": name} for name in self.files]
        return {"id": repository, "sha": SHA, "private": False, "gated": False, "tags": [], "siblings": siblings}

    def tree(self) -> list[dict[str, Any]]:
        """Returns the list of its files."""
        return [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in self.files.items()
        ]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:  # noqa: N802 (the name is http.server's)
        self._answer(with_body=False)

    def do_GET(self) -> None:  # noqa: N802
        self._answer(with_body=True)

    def do_POST(self) -> None:  # noqa: N802
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._json(self.hub.tree())  # paths-info

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        about = re.match(r"/api/(?:models|datasets)/([^/]+/[^/]+)(/tree)?", path)
        file = re.match(r"/(?:datasets/)?[^/]+/[^/]+/resolve/[^/]+/(.*)", path)
        if about is not None:
            self._json(self.hub.tree() if about[2] else self.hub.info(about[1]))
        elif file is not None and file[1] in self.hub.files:
            self._file(file[1], with_body=with_body)
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, *, with_body: bool) -> None:
        content = self.hub.files[name]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if not with_body:
            self._send(200, content, headers, with_body=False)
            return
        if name in self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        given = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        begin = int(given[1]) if given else 0
        if given:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        cuts = self.hub.cuts.get(name)
        self._send(206 if given else 200, content[begin:], headers, cut=cuts.pop(0) if cuts else None)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool = True, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(body[:cut])
        self.close_connection = cut is not None

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def hub_of(files: Mapping[str, bytes]) -> Iterator[HubServer]:
    """Gives a hub that runs until the block ends."""
    server = HubServer(files)
    try:
        yield server
    finally:
        server.stop()
