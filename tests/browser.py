"""A headless Chromium, driven over the DevTools protocol; it records what a page does.

Command:  python tests/browser.py PAGE.html IMAGE.png [WIDTH HEIGHT]    writes a screenshot
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from websockets.sync.client import ClientConnection, connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU
    "--remote-debugging-port=0",
)
TIMEOUT_S = 120.0
"""Longest wait for an answer, on a busy machine."""


def find_chromium() -> str | None:
    """The path of Chromium, or None if it is not installed."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


class Tab:
    """One tab of the browser.

    Attributes:
      errors: messages of the console and of the browser's log since :meth:`open`.
      requests: addresses that the page requested since then, its own included.
    """

    def __init__(self, wire: ClientConnection) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._wire, self._count = wire, itertools.count(1)
        self._loaded = False
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its answer; records the events that come before it."""
        number = next(self._count)
        self._wire.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._wire.recv(timeout=TIMEOUT_S))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._record(message)

    def open(self, address: str, width: int = 1200, height: int = 900) -> None:
        """Opens a page and waits until it is loaded; clears the records of the page before."""
        self.errors, self.requests = [], []
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self._loaded = False
        self.call("Page.navigate", url=address)
        while not self._loaded:
            self._record(json.loads(self._wire.recv(timeout=TIMEOUT_S)))

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; if it is a promise, the value it resolves to."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """Waits until an expression is true and returns its value."""
        end = time.monotonic() + TIMEOUT_S
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"not true after {TIMEOUT_S:g} s: {script}")
            time.sleep(0.1)
        return value

    def screenshot(self, selector: str | None = None) -> np.ndarray:
        """A screenshot (H, W, 3) uint8 of an element, or of the window if None."""
        clip = {}
        if selector is not None:
            box = self.run(
                f"(() => {{const e = document.querySelector({selector!r});"
                "e.scrollIntoView({block: 'center', behavior: 'instant'});"
                "const b = e.getBoundingClientRect();"
                "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}})()"
            )
            clip = {"clip": {**box, "scale": 1}}
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        data = self.call("Page.captureScreenshot", format="png", **clip)["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def _record(self, message: dict[str, Any]) -> None:
        method, event = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(event["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "assert"):
            self.errors.append(json.dumps(event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.errors.append(event["entry"]["text"])


@contextlib.contextmanager
def launch() -> Iterator[Tab]:
    """Starts a browser with one tab, and stops it at the end."""
    path = find_chromium()
    if path is None:
        raise RuntimeError("Chromium is not installed; run apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [path, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with connect(_debugger_address(Path(profile), process), max_size=None) as wire:
                yield Tab(wire)
        finally:
            process.terminate()
            process.wait(timeout=TIMEOUT_S)


def _debugger_address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """Waits for the tab and returns its debugger's address."""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, IndexError, ValueError):
            port = int((profile / "DevToolsActivePort").read_text().splitlines()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            return tabs[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise RuntimeError("Chromium did not start")


def main(page: str, output: str, width: str = "1200", height: str = "1500") -> None:
    """Writes a screenshot of the top of a page."""
    with launch() as tab:
        tab.open(Path(page).resolve().as_uri(), int(width), int(height))
        tab.wait("document.querySelectorAll('.js-plotly-plot').length > 0")
        time.sleep(3.0)  # the plots fade in
        image = Image.fromarray(tab.screenshot())
    image.save(output, optimize=True)
    print(f"{output}: {image.width} x {image.height}")


if __name__ == "__main__":
    main(*sys.argv[1:])
