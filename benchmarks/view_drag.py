"""Time how fast the image of the viewer follows a detector that is dragged, through HTTP: python -m benchmarks.view_drag [--side 128].

Each row is a detector that moves by a pixel at a time, over a scan of side² positions and side² detector pixels: 0.5 GB of uint16 at 128.
The time is that from sending a request to having its values, as the page does it, on one connection. Painting is not in it. The last
image of each row is compared with that of a sweep.
"""

from __future__ import annotations

import argparse
import http.client
import json
import time

import numpy as np

import gpu4d
from gpu4d.view import ViewServer, detector_from, view_of

STEPS = 40
DETECTORS = {
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


def main() -> None:
    """Print a table of latencies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=128, help="positions and detector pixels along an axis")
    side = parser.parse_args().side
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
