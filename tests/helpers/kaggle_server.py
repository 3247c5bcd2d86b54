"""Kaggle's model API as kagglehub calls it, on this machine: the tests have no Kaggle.

Three calls are made, all of them POST: the newest version's number, the names of a version's files, and one file, which
is a redirect to where it lies. What a model gives on the real site depends on who asks; here `status` says it.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from kagglesdk import kaggle_env

TOKEN = "a-token"


class KaggleServer:
    """The newest version of every model that is asked for is the files of `folder`.

    Attributes:
        version: the newest one's number.
        status: of the answer to all calls; 403 only without TOKEN.
        damaged: the files are not those that their checksums were made of.
        calls: names of the calls so far.
        address: of this server.
    """

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        self.version = version
        self.status = 200
        self.damaged = False
        self.calls: list[str] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kaggle": self}))
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuses connections from now on."""
        self._http.shutdown()
        self._http.server_close()

    def answer(self, call: str, request: dict[str, Any]) -> dict[str, Any] | str:
        """Returns what is sent as JSON, or the address of a file."""
        self.calls.append(call)
        if call == "GetModelInstance":
            return {"versionNumber": self.version, "slug": request["instanceSlug"]}
        assert request["versionNumber"] == self.version
        if call == "ListModelInstanceVersionFiles":
            return {"files": [{"name": file.name} for file in sorted(self.folder.iterdir())], "nextPageToken": ""}
        assert call == "DownloadModelInstanceVersion"
        return f"/files/{request['path']}"

    def headers(self, file: Path) -> dict[str, str]:
        """Returns what Google's storage sends with a file."""
        content = b"" if self.damaged else file.read_bytes()
        return {"x-goog-hash": f"md5={base64.b64encode(hashlib.md5(content).digest()).decode()}"}


class _Handler(BaseHTTPRequestHandler):
    kaggle: KaggleServer

    def do_POST(self) -> None:  # noqa: N802 (the name is http.server's)
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        signed_in = self.headers["Authorization"] == f"Bearer {TOKEN}"
        status = self.kaggle.status
        if status != 200 and not (status == 403 and signed_in):
            self._send({"code": status, "message": "No."}, status)
            return
        answer = self.kaggle.answer(self.path.rpartition("/")[2], request)
        if isinstance(answer, dict):
            self._send(answer, 200)
        else:
            self._send(b"", 302, {"Location": answer})

    def do_GET(self) -> None:  # noqa: N802
        file = self.kaggle.folder / self.path.removeprefix("/files/")
        self._send(file.read_bytes(), 200, self.kaggle.headers(file))

    def _send(self, content: dict | bytes, status: int, headers: dict[str, str] | None = None) -> None:
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        # A newer kagglehub than any: the client then prints that it is old.
        own = {"Content-Type": kind, "Content-Length": str(len(body)), "X-Kaggle-HubVersion": "99.0"}
        for name, value in (own | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def serving(folder: Path, version: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    """Stands in for api.kaggle.com, and for a user at home in `home` who has never logged in nor downloaded anything.

    kagglehub's own variable for another server, KAGGLE_API_ENVIRONMENT, knows fixed ports only.
    """
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / ".kaggle"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(home / "cache"))
    server = KaggleServer(folder, version)
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.address)
    try:
        yield server
    finally:
        server.stop()
