"""What wandb wrote or sent, read back: its run files, and a server that takes what it uploads."""

import gzip
import itertools
import json
import re
import struct
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

from wandb.proto.wandb_internal_pb2 import Record

_FILE_HEADER = 7
_BLOCK = 32768
_CHUNK_HEADER = struct.Struct("<IHB")  # checksum, length, type
_FULL, _LAST = 1, 4


def _records(file: Path) -> Iterator[Record]:
    """Reads a `.wandb` file, which is a LevelDB log of protobuf records."""
    data, position, parts = file.read_bytes(), _FILE_HEADER, b""
    while position + _CHUNK_HEADER.size <= len(data):
        if _BLOCK - position % _BLOCK < _CHUNK_HEADER.size:
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = _CHUNK_HEADER.unpack_from(data, position)
        position += _CHUNK_HEADER.size
        parts += data[position : position + length]
        position += length
        if kind in (_FULL, _LAST):
            yield Record.FromString(parts)
            parts = b""


def _values(items: Any) -> dict[str, Any]:
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


def _history_lines(file: Path) -> list[dict[str, Any]]:
    return [_values(r.history.item) for r in _records(file) if r.HasField("history")]


def history(file: Path, name: str) -> list[tuple[int, float]]:
    """The logged values of a metric with their `step`."""
    return [(line["step"], line[name]) for line in _history_lines(file) if name in line]


def last_values(file: Path) -> dict[str, Any]:
    """The last logged value of every metric."""
    return {name: value for line in _history_lines(file) for name, value in line.items()}


def run_config(file: Path) -> dict[str, Any]:
    """The config that the run was started with."""
    run = next(record.run for record in _records(file) if record.HasField("run"))
    return _values(run.config.update)


class FakeWandbServer:
    """Answers what wandb asks for runs without tables, and keeps the history it is sent.

    Attributes:
        silent_after: so many requests are answered, the others never; None answers all.
    """

    def __init__(self) -> None:
        self.silent_after: int | None = None
        self._asked = itertools.count()
        self._stopped = Event()
        self.history: list[dict[str, Any]] = []
        self.run_names: set[str] = set()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if owner.silent_after is not None and next(owner._asked) >= owner.silent_after:
                    owner._stopped.wait()
                    return
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path.endswith("/graphql"):
                    self._reply({"data": owner._answer(json.loads(body))})
                    return
                if self.path.endswith("/file_stream"):
                    owner._keep(json.loads(body))
                self._reply({"exitcode": None, "limits": {}})

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self._reply({})

            def _reply(self, content: dict) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def _keep(self, upload: dict) -> None:
        lines = upload.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.history += [json.loads(line) for line in lines]

    def _answer(self, request: dict) -> dict:
        operation = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])[1]
        values = request.get("variables") or {}
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
        if operation == "RunResumeStatus":
            bucket = self._bucket(values["name"]) if values["name"] in self.run_names else None
            return {"model": {**project, "bucket": bucket}}
        if operation == "UpsertBucket":
            inserted = values["name"] not in self.run_names
            self.run_names.add(values["name"])
            bucket = {**self._bucket(values["name"]), "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        if operation == "CreateRunFiles":
            files = [{"name": f, "uploadUrl": f"{self.url}/files/{f}"} for f in values["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def _bucket(self, name: str) -> dict:
        lines = [{"_step": len(self.history) - 1}]
        return {
            "id": "r",
            "name": name,
            "displayName": name,
            "config": "{}",
            "summaryMetrics": "{}",
            "wandbConfig": json.dumps({"t": 1}),
            "historyLineCount": len(self.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(line) for line in lines]),
            "eventsTail": "[]",
            "tags": [],
        }
