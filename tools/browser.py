"""A headless Chromium that opens a page, runs JavaScript in it and tells what it requests, over the DevTools protocol.

It speaks through a pipe (`--remote-debugging-pipe`): messages of JSON, each ended by a zero byte, so that nothing but
the browser itself is needed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-extensions"),
)


def find_browser() -> str | None:
    """Returns the path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Starts a browser with a profile of its own, and ends it."""
    program = find_browser()
    assert program is not None, f"none of {', '.join(NAMES)} is installed"
    read_commands, write_commands = os.pipe()
    read_replies, write_replies = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The browser reads from descriptor 3 and writes to 4.
        through = ["bash", "-c", f'exec "$@" 3<&{read_commands} 4>&{write_replies}', "bash"]
        process = subprocess.Popen(
            [*through, program, *_OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(read_commands, write_replies),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_replies)
        browser = Browser(write_commands, read_replies)
        try:
            browser.attach()
            yield browser
            browser.call("Browser.close", of_page=False)
        finally:
            os.close(write_commands)
            os.close(read_replies)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Browser:
    """One page of a running browser.

    Attributes:
        requests: addresses of everything that the page has requested, the page itself first.
        errors: what its programs have raised, and what its policy has refused.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        """Takes the two ends of the pipe."""
        self._to, self._from = to_browser, from_browser
        self._buffer, self._count, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.errors: list[str] = []

    def attach(self) -> None:
        """Opens a page and listens to what it does."""
        target = self.call("Target.createTarget", of_page=False, url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", of_page=False, targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def open(self, file: Path, ready: str = "document.documentElement?.dataset.ready", timeout_s: float = 60) -> None:
        """Opens a file and waits until an expression is true there."""
        self.requests.clear()
        self.errors.clear()
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.wait_for(f"location.href !== 'about:blank' && {ready}", timeout_s)

    def run(self, program: str) -> Any:
        """Returns the value of an expression in the page; of a promise what it comes to."""
        done = self.call("Runtime.evaluate", expression=program, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = 30) -> Any:
        """Waits until an expression is true, and returns its value."""
        end = time.monotonic() + timeout_s
        while not (value := self.run(expression)):
            assert time.monotonic() < end, f"not true after {timeout_s:g} s: {expression}; {self.errors}"
            time.sleep(0.05)
        return value

    def look(self, *, dark: bool = False, width: int = 1200, height: int = 900, scale: float = 1) -> None:
        """Tells the page of a screen."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        size: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def screenshot(self, file: Path) -> None:
        """Writes what is in view as a PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def call(self, method: str, *, of_page: bool = True, timeout_s: float = 60, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol and returns its result."""
        self._count += 1
        number = self._count
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if of_page:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + timeout_s
        while True:
            reply = self._next(end)
            if reply.get("id") == number:
                assert "error" not in reply, f"{method}: {reply['error']}"
                return reply["result"]
            self._note(reply)

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], max(0, end - time.monotonic()))[0], "the browser does not answer"
            read = os.read(self._from, 1 << 16)
            assert read, "the browser has ended"
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
