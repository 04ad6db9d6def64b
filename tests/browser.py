"""A headless Chromium that opens a page and tells what it did, over the DevTools protocol.

Command:  python tests/browser.py PAGE.html PICTURE.png [WIDTH HEIGHT]    writes a picture of a page
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

NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",  # WebGL, no GPU
    "--remote-debugging-port=0",
)
PATIENCE = 120.0
"""Seconds for anything at all, on a busy machine."""


def find() -> str | None:
    """Where Chromium is, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One tab.

    Attributes:
      errors: what the console and the browser's log complained of since :meth:`open`.
      requests: every address that the page asked for, itself included.
    """

    def __init__(self, wire: ClientConnection) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._wire, self._count = wire, itertools.count(1)
        self._loaded = False
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; what happens meanwhile is noted."""
        number = next(self._count)
        self._wire.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._wire.recv(timeout=PATIENCE))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._note(message)

    def open(self, address: str, width: int = 1200, height: int = 900) -> None:
        """Opens a page, and waits until it is loaded; forgets what was noted of the one before."""
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
            self._note(json.loads(self._wire.recv(timeout=PATIENCE)))

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it comes to."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """Waits until an expression is true, and returns it."""
        end = time.monotonic() + PATIENCE
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {script}")
            time.sleep(0.1)
        return value

    def picture(self, selector: str | None = None) -> np.ndarray:
        """What is to be seen, (H, W, 3) uint8: of an element, or of the window."""
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

    def _note(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(told["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.errors.append(json.dumps(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(told["entry"]["text"])


@contextlib.contextmanager
def launch() -> Iterator[Browser]:
    """A browser that is closed in the end."""
    path = find()
    if path is None:
        raise RuntimeError("there is no Chromium; apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [path, *SWITCHES, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with connect(_tab(Path(profile), process), max_size=None) as wire:
                yield Browser(wire)
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE)


def _tab(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """Address of the tab's debugger, as soon as there is one."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, IndexError, ValueError):
            port = int((profile / "DevToolsActivePort").read_text().splitlines()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            return tabs[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise RuntimeError("Chromium did not start")


def main(page: str, picture: str, width: str = "1200", height: str = "1500") -> None:
    """Writes a picture of the top of a page."""
    with launch() as browser:
        browser.open(Path(page).resolve().as_uri(), int(width), int(height))
        browser.wait("document.querySelectorAll('.js-plotly-plot').length > 0")
        time.sleep(3.0)  # the plots fade in
        image = Image.fromarray(browser.picture())
    image.save(picture, optimize=True)
    print(f"{picture}: {image.width} x {image.height}")


if __name__ == "__main__":
    main(*sys.argv[1:])
