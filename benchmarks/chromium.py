"""Click and drag in a headless Chromium, by its own protocol (CDP) over a WebSocket. No package is needed. Tests use it too."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CODES = {"Enter": 13, "Tab": 9}  # of keys that do something by themselves: press a button, move the focus
PATIENCE = 60  # seconds for a browser to start, or for a page to come to a state


def program() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Socket:
    """A WebSocket of a client: texts in, texts out."""

    def __init__(self, host: str, port: int, path: str):
        self.connection = socket.create_connection((host, port), timeout=PATIENCE)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}"]
        self.connection.sendall("\r\n".join([*lines, "Sec-WebSocket-Version: 13", "", ""]).encode())
        self.stream = self.connection.makefile("rb")
        assert b"101" in self.stream.readline()
        while self.stream.readline().strip():
            pass

    def send(self, text: str) -> None:
        """Send a text in one masked frame."""
        data, mask = text.encode(), os.urandom(4)
        size = len(data)
        head = bytes([0x81]) + (
            bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big") if size < 65536 else b"\xff" + size.to_bytes(8, "big")
        )
        body = (int.from_bytes(data, "big") ^ int.from_bytes((mask * (size // 4 + 1))[:size], "big")).to_bytes(size, "big")
        self.connection.sendall(head + mask + body)

    def receive(self) -> str:
        """Return the next text, joined from its frames."""
        parts = []
        while True:
            first, size = self.stream.read(2)
            size &= 0x7F
            size = size if size < 126 else int.from_bytes(self.stream.read(2 if size == 126 else 8), "big")
            data = self.stream.read(size)
            if first & 0x0F in (0, 1):
                parts.append(data)
                if first & 0x80:
                    return b"".join(parts).decode()


class Browser:
    """One page of a headless Chromium.

    Parameters
    ----------
    folder : Path
        For its profile.
    width, height : int
        Of the window.
    """

    def __init__(self, folder: Path, width: int = 1200, height: int = 800):
        path = program()
        assert path is not None
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0", "--no-first-run"]
        flags += [f"--user-data-dir={folder}", f"--window-size={width},{height}", "--disable-dev-shm-usage", "about:blank"]
        self.process = subprocess.Popen([path, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.last = 0
        self.events: list[dict[str, Any]] = []
        try:
            self.port = self._port(folder / "DevToolsActivePort")
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/json/list", timeout=PATIENCE) as answer:
                page = next(target for target in json.load(answer) if target["type"] == "page")
            self.socket = Socket("127.0.0.1", self.port, page["webSocketDebuggerUrl"].split(str(self.port), 1)[1])
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
            self.resize(width, height)
        except BaseException:
            self.close()
            raise

    def _port(self, file: Path) -> int:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if file.is_file() and (lines := file.read_text().split()):
                return int(lines[0])
            assert self.process.poll() is None, "Chromium has ended"
            time.sleep(0.02)
        raise TimeoutError("Chromium does not listen")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": parameters}))
        while True:
            said = json.loads(self.socket.receive())
            if said.get("id") == self.last:
                assert "error" not in said, said["error"]
                return said["result"]
            self.events.append(said)

    def run(self, script: str) -> Any:
        """Evaluate JavaScript, wait for a promise, and return its value."""
        said = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def open(self, url: str) -> None:
        """Open an address."""
        self.call("Page.navigate", url=url)

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.run(f"Boolean({condition})"):
                return
            time.sleep(0.02)
        raise TimeoutError(f"{condition}; {self.problems()}")

    def resize(self, width: int, height: int) -> None:
        """Give the page another size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the mouse at the first point, move it through the others, and let it go at the last."""
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]]):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=int(kind != "mouseReleased"), clickCount=1)

    def key(self, name: str, shift: bool = False) -> None:
        """Press a key and let it go."""
        more = {"windowsVirtualKeyCode": CODES[name]} if name in CODES else {}
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if name == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, modifiers=8 * shift, **more, **text)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write what is seen as a PNG file; with `whole` all of the page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]))

    def problems(self) -> list[str]:
        """Return what the page has complained of: exceptions, refused resources."""
        found = [e["params"]["exceptionDetails"]["text"] + str(e["params"]["exceptionDetails"].get("exception", {}).get("description", ""))
                 for e in self.events if e["method"] == "Runtime.exceptionThrown"]  # fmt: skip
        logged = (e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded")
        return found + [f"{entry['text']} {entry.get('url', '')}" for entry in logged if entry["level"] == "error"]

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
