"""A headless Chromium, spoken to through its debugging pipe: standard library only."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next((path for name in NAMES if (path := shutil.which(name))), None)

PATIENCE = 300  # seconds without a word from it


class Browser:
    """One page in one browser. `errors`: what the console and the scripts complained of.

    `requests`: addresses that were asked for. As a context manager it closes the browser.
    """

    def __init__(self) -> None:
        assert PROGRAM
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        self._number = 0
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command_out, self._to = os.pipe()
        self._from, answer_in = os.pipe()
        options = (
            "--headless --remote-debugging-pipe --no-sandbox --disable-gpu --no-first-run"
            f" --disable-dev-shm-usage --hide-scrollbars --user-data-dir={self._profile.name}"
        )
        # Chromium reads commands from file 3 and answers to file 4.
        start = (
            f"import os; os.dup2({command_out}, 3); os.dup2({answer_in}, 4);"
            f" os.execv({PROGRAM!r}, {[PROGRAM, *options.split()]!r})"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", start],
            pass_fds=(command_out, answer_in),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_out)
        os.close(answer_in)
        self._reader = os.fdopen(self._from, "rb")
        self._rest = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str | None = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(20)
        os.close(self._to)
        self._reader.close()
        self._profile.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], PATIENCE)[0], "the browser hangs"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser has gone"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        self._note(answer.get("method", ""), answer.get("params", {}))
        return answer

    def _note(self, event: str, told: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.errors.append(json.dumps(told["args"]))
        elif event == "Log.entryAdded":
            self.errors.append(told["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"][:100])
        elif event == "Page.loadEventFired":
            self._loaded = True

    def screen(self, width: int, scheme: str, media: str = "screen") -> None:
        """Be a screen of `width` pixels, a phone's if narrow, "light" or "dark"."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844 if phone else 800,
            deviceScaleFactor=1,
            mobile=phone,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def open(self, path: Path) -> None:
        """Open a file and wait until it and its scripts are loaded."""
        self._loaded = False
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._next()

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression (a promise is waited for)."""
        found = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Move the mouse from one place of the window to another with its button down."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        self._mouse("mouseMoved", start)
        self._mouse("mousePressed", start)
        self._mouse("mouseMoved", middle)
        self._mouse("mouseMoved", end)
        self._mouse("mouseReleased", end)

    def click(self, place: tuple[float, float], times: int = 1) -> None:
        """Click at a place of the window; 2 times is a double click."""
        self._mouse("mouseMoved", place)
        for number in range(1, times + 1):
            self._mouse("mousePressed", place, number)
            self._mouse("mouseReleased", place, number)

    def _mouse(self, what: str, place: tuple[float, float], count: int = 1) -> None:
        button = "none" if what == "mouseMoved" else "left"
        x, y = place
        self.call("Input.dispatchMouseEvent", type=what, x=x, y=y, button=button, clickCount=count)

    def picture(self, path: Path, **clip: float) -> None:
        """Write a screenshot, of the whole page or of {x, y, width, height} in pixels."""
        params: dict[str, Any] = {"clip": {**clip, "scale": 1}} if clip else {}
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True, **params)["data"]
        path.write_bytes(base64.b64decode(data))
