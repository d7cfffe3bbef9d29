"""A real Chromium, driven over the WebDriver protocol by the standard library.

    with Browser(tmp_path) as browser:
        browser.open(url)
        browser.type("#text", "七十")
        browser.script("return document.title")

Everything that the browser asked a network for is in `requests`.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

needs_chromium = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="chromium and chromium-driver (Debian's packages) are not installed",
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-quic", "--disable-dev-shm-usage",
]  # fmt: skip


class Browser:
    """One window. dark: as the system of somebody who likes it so."""

    def __init__(
        self, folder: Path, width: int = 1200, height: int = 900, *, dark: bool = False,
        scale: float = 1,
    ) -> None:  # fmt: skip
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        options = {
            "args": [
                *_ARGUMENTS, f"--user-data-dir={folder / 'profile'}",
                f"--window-size={width},{height}", f"--force-device-scale-factor={scale}",
                *(["--force-dark-mode"] if dark else []),
            ],
        }  # fmt: skip
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
        }
        self.wait(lambda: self._ask("GET", "/status")["ready"])
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._url += f"/session/{session['sessionId']}"
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(20)

    def open(self, url: str) -> None:
        """Load a page."""
        self._ask("POST", "/url", {"url": url})

    def script(self, source: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self._ask("POST", "/execute/sync", {"script": source, "args": list(arguments)})

    def type(self, selector: str, text: str) -> None:
        """Type into a field."""
        self._ask("POST", f"/element/{self._find(selector)}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click on an element."""
        self._ask("POST", f"/element/{self._find(selector)}/click", {})

    def press(self, key: str) -> None:
        """One key, wherever the focus is."""
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": keys}]})

    def screenshot(self, path: Path) -> None:
        """The window as a PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def requests(self) -> list[str]:
        """Addresses of any network that were asked for since the last call."""
        messages = [json.loads(one["message"])["message"] for one in self._log("performance")]
        found = [
            one["params"]["request"]["url"]
            for one in messages
            if one["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in found if not url.startswith(("data:", "chrome:", "about:"))]

    def complaints(self) -> list[str]:
        """What the console said since the last call."""
        return [one["message"] for one in self._log("browser")]

    def wait(self, ready: Callable[[], Any], seconds: float = 60) -> Any:
        """The first true value of `ready`; fails after so many seconds."""
        end = time.monotonic() + seconds
        while True:
            try:
                if found := ready():
                    return found
            except (urllib.error.URLError, ConnectionError):
                pass
            assert time.monotonic() < end, "the page did not come so far"
            time.sleep(0.05)

    def command(self, name: str, **params: Any) -> Any:
        """One command of the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": params})

    def _find(self, selector: str) -> str:
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])

    def _log(self, kind: str) -> list[dict[str, Any]]:
        return list(self._ask("POST", "/se/log", {"type": kind}))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return json.loads(reply.read())["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None
