"""Time how fast the image of the viewer follows a detector that is dragged: python -m benchmarks.view_drag [--side 128] [--page].

Without --page it is the server that is timed, through HTTP. Each row is a detector that moves by a pixel at a time, over a scan of side²
positions and side² detector pixels: 0.5 GB of uint16 at 128. The time is that from sending a request to having its values, as the page
does it, on one connection. Painting is not in it. The last image of each row is compared with that of a sweep.

With --page it is the page that `gpu4d view --export` writes, in a headless Chromium, in which the mouse drags the detector. The time is
that from the mouse's event to the image drawn, once with a detector at rest and once with one that follows a beam with 3 px of descan.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks.chromium import Browser, program

import gpu4d
from gpu4d.view import ViewServer, detector_from, export_page, view_of

STEPS = 40
PAGE_STEPS = 20  # of the mouse: a page may hold 32 detector pixels along an axis
DESCAN = 3.0  # px of the scan's detector, from one end of the scan to the other
DETECTORS: dict[str, dict[str, Any]] = {
    "disk r = 1/8": {"shape": "disk", "outer": 0.125},
    "disk r = 1/3": {"shape": "disk", "outer": 0.34},
    "annulus 1/6 to 1/2": {"shape": "annulus", "inner": 0.16, "outer": 0.5},
    "rectangle 2/3": {"shape": "rectangle", "height": 0.7, "width": 0.7},
}


def scan_of(side: int) -> gpu4d.DataCube:
    """Return a scan of counts in memory."""
    few = np.random.default_rng(0).poisson(3, (8, 8, side, side)).astype("uint16")
    return gpu4d.DataCube(np.tile(few, (side // 8, side // 8, 1, 1)))


def ask(connection: http.client.HTTPConnection, server: ViewServer, detector: dict) -> tuple[float, bytes]:
    """Return the seconds of a request, and its answer."""
    headers = {"Cookie": f"{server.cookie}={server.token}", "Content-Type": "application/json"}
    start = time.perf_counter()
    connection.request("POST", "/ask", json.dumps({"ask": "image", "detector": detector, "exact": True}), headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(body.decode())
    return time.perf_counter() - start, body


def in_page(side: int) -> None:
    """Print a table of times in the exported page."""
    if program() is None:
        raise SystemExit("--page needs Chromium: apt-get install chromium")
    x, y = np.meshgrid(*2 * [np.linspace(-DESCAN / 2, DESCAN / 2, side)], indexing="ij")
    cube = scan_of(side)
    cube.calibration.set(origin=np.stack([x, y], axis=-1) + (side - 1) / 2, how="benchmark")
    with tempfile.TemporaryDirectory() as folder:
        page = export_page(cube, Path(folder) / "page.html")
        browser = Browser(Path(folder) / "profile")
        try:
            start = time.perf_counter()
            browser.open(page.as_uri())
            browser.wait("globalThis.gpu4dView?.timing.images")
            took, (scan, detector) = time.perf_counter() - start, browser.run("[gpu4dView.about.scan[0], gpu4dView.about.detector[0]]")
            print(f"page of {page.stat().st_size / 1e6:.1f} MB: {scan}² positions, {detector}² pixels; it opened in {took:.1f} s")
            browser.run("gpu4dView.pattern.canvas.addEventListener('pointermove', (e) => (globalThis.moved = e.timeStamp), true)")
            for name, shape in DETECTORS.items():
                for follow in (False, True):
                    times = drag_in_page(browser, shape, detector, follow)
                    how = "follows" if follow else "at rest"
                    later = f"then median {np.median(times[1:]):6.1f}, longest {max(times[1:]):6.1f} ms"
                    print(f"{name:<20} {how} first {times[0]:6.1f} ms, {later}")
        finally:
            browser.close()


def drag_in_page(browser: Browser, shape: dict, side: int, follow: bool) -> list[float]:
    """Drag a detector by half a pixel at a time, and return the milliseconds from each event of the mouse to the image."""
    sizes = {key: value if key == "shape" else value * side for key, value in shape.items()} | {"center": [0.4 * side, 0.4 * side]}
    script = "Object.assign(gpu4dView.state.detector, {0}); gpu4dView.state.follow = {1}; gpu4dView.detectorMoved()"
    browser.run("{" + script.format(json.dumps(sizes), json.dumps(follow)) + "}")
    at = "(() => { const p = gpu4dView.pattern, r = p.canvas.getBoundingClientRect(), a = p.at([%f, %f]);"
    at += " return [r.x + a[0], r.y + a[1]] })()"
    times, where = [], browser.run(at % tuple(sizes["center"]))
    mouse = {"button": "left", "clickCount": 1}
    browser.call("Input.dispatchMouseEvent", type="mousePressed", x=where[0], y=where[1], buttons=1, **mouse)
    for step in range(1, PAGE_STEPS + 1):
        before, where = browser.run("gpu4dView.timing.images"), browser.run(at % (0.4 * side + 0.25 * step, 0.4 * side + 0.5 * step))
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=where[0], y=where[1], buttons=1, **mouse)
        browser.wait(f"gpu4dView.timing.images > {before}")
        times.append(browser.run("gpu4dView.timing.last - moved"))
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", x=where[0], y=where[1], buttons=0, **mouse)
    return times


def main() -> None:
    """Print a table of latencies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=128, help="positions and detector pixels along an axis")
    parser.add_argument("--page", action="store_true", help="time the exported page in a headless Chromium instead of the server")
    asked = parser.parse_args()
    if asked.page:
        in_page(asked.side)
    else:
        through_server(asked.side)


def through_server(side: int) -> None:
    """Print a table of times of requests to the server."""
    cube = scan_of(side)
    start = time.perf_counter()
    server = ViewServer(view_of(cube))
    print(f"{side}²×{side}² uint16, {cube.nbytes / 1e9:.2f} GB; the first look took {time.perf_counter() - start:.1f} s")
    server.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for name, shape in DETECTORS.items():
        sizes = {key: value if key == "shape" else value * side for key, value in shape.items()}
        times = []
        for step in range(STEPS):
            detector = {**sizes, "center": [0.3 * side + 0.5 * step, 0.4 * side + step]}
            seconds, body = ask(connection, server, detector)
            times.append(1e3 * seconds)
        image = np.frombuffer(body[4 + int.from_bytes(body[:4], "little") :], "<f8").reshape(cube.scan_shape)
        if not np.array_equal(image, np.asarray(gpu4d.virtual_image(cube, detector_from(detector)))):
            raise SystemExit(f"{name}: the image is not that of a sweep")
        print(f"{name:<20} first {times[0]:6.1f} ms, then median {np.median(times[1:]):6.1f}, longest {max(times[1:]):6.1f} ms")
    server.close()


if __name__ == "__main__":
    main()
