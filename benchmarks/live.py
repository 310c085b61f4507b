"""Time mean pattern, centre of mass and two images of a live scan: is a source of 10 kHz kept up with, and how far does it go?

    python benchmarks/live.py [--rate 10000] [--scan 128] [--detector 64] [--rounds 5] [--json figures.json]

Patterns come from a generator in the same process, or through a socket from a process of its own, which sends them by its own clock. The
results are compared with those of a sweep first, to the last bit. "kept up" says how long after its last pattern was due the scan was
reduced, as a part of the time that it takes, and how late the source was at most, because it had to wait. Then the clock is left out:
the patterns per second that go through, against a sweep of the same patterns in memory in the same round. "cores" is the processor time
of this process for the patterns of a second at the given rate: it says what is needed also where other programs use the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import gpu4d
from gpu4d.io.live import FrameSender, SocketSource

REPEATED = 61  # different patterns


class Row(NamedTuple):
    """One way in which patterns come."""

    way: str
    portion: int  # patterns that are handed over together
    behind: float  # of the scan's time: how long after the last pattern was due the results were there
    latest: float  # s: most that the source was late
    cores: float  # processors that this process needs at the source's rate
    rate: float  # patterns per second without a clock
    of_sweep: float  # of the rate of a sweep in memory


class Camera:
    """Patterns by a clock of its own, or as fast as they are taken."""

    def __init__(self, shape: tuple[int, int, int, int], portion: int, rate: float | None):
        self.total, self.portion, self.rate = shape[0] * shape[1], portion, rate
        some = np.random.default_rng(1).poisson(6.0, (REPEATED, *shape[2:])).astype("uint16")
        self.patterns = some[np.arange(REPEATED + portion) % REPEATED]  # so that each portion is a view
        self.latest = 0.0
        self.started = time.perf_counter()

    def portions(self) -> Iterator[np.ndarray]:
        self.started = time.perf_counter()
        for first in range(0, self.total, self.portion):
            n = min(self.portion, self.total - first)
            if self.rate is not None:
                early = self.started + (first + n) / self.rate - time.perf_counter()
                if early > 0:
                    time.sleep(early)
                self.latest = max(self.latest, -early)
            at = first % REPEATED
            yield self.patterns[at : at + n]

    def scan(self, shape: tuple[int, int, int, int]) -> np.ndarray:
        """All patterns in memory."""
        return self.patterns[np.arange(self.total) % REPEATED].reshape(shape)


def reductions(detector: int) -> dict[str, Any]:
    """What is asked for."""
    middle = (detector - 1) / 2
    images = {"bf": gpu4d.detectors.disk(detector / 8), "adf": gpu4d.detectors.annulus(detector / 8, detector / 2)}
    return {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass(), "images": gpu4d.VirtualImage(images, (middle, middle))}


def send(scan: int, detector: int, portion: int, rate: float) -> None:
    """Be the other program: send one scan, and print when its last pattern was due and how late the source was."""
    shape = (scan, scan, detector, detector)
    camera = Camera(shape, portion, rate or None)
    with FrameSender() as sender:
        print(sender.address, flush=True)
        sender.begin(shape, "uint16")
        for frames in camera.portions():
            sender.send(frames)
        sender.end()
    print(camera.started, camera.latest, flush=True)


def once(way: str, shape: tuple[int, int, int, int], portion: int, rate: float | None) -> tuple[Any, float, float]:
    """Take one scan. Return its results, its seconds from the first pattern on, and how late the source was at most."""
    if way == "generator":
        camera = Camera(shape, portion, rate)
        out = gpu4d.live(camera.portions(), reductions(shape[2]), gpu4d.data.live_scan(shape, "uint16"), device="cpu")
        return out, time.perf_counter() - camera.started, camera.latest
    command = [
        sys.executable,
        __file__,
        "--send",
        str(portion),
        "--scan",
        str(shape[0]),
        "--detector",
        str(shape[2]),
        "--rate",
        str(rate or 0),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as camera_process:
        assert camera_process.stdout is not None
        with SocketSource(camera_process.stdout.readline().strip()) as source:
            out = gpu4d.live(source, reductions(shape[2]), device="cpu")
            end = time.perf_counter()
        started, latest = map(float, camera_process.stdout.readline().split())  # processes share this clock on Linux
    return out, end - started, latest


def run(shape: tuple[int, int, int, int], rate: float, rounds: int) -> list[Row]:
    """Check the answers, then time every way."""
    total, data = shape[0] * shape[1], Camera(shape, 1, None).scan(shape)
    cube = gpu4d.DataCube(data)
    want = gpu4d.sweep(cube, reductions(shape[2]))
    rows = []
    for way, portion in (("generator", 1), ("generator", shape[1]), ("socket", 1), ("socket", shape[1])):
        out, _, _ = once(way, shape, portion, None)
        for name in ("mean", "com"):
            assert np.asarray(out[name]).tobytes() == np.asarray(want[name]).tobytes(), f"{way}: {name} is not that of a sweep: not timed"
        timed = [once(way, shape, portion, rate)[1:] for _ in range(rounds)]
        behind = [(seconds - total / rate) * rate / total for seconds, _ in timed]
        rates, ratios, cores = [], [], []
        for _ in range(rounds):
            start = time.perf_counter()
            gpu4d.sweep(cube, reductions(shape[2]))
            swept = time.perf_counter() - start
            before = time.process_time()
            seconds = once(way, shape, portion, None)[1]
            cores.append((time.process_time() - before) / total * rate)
            rates.append(total / seconds)
            ratios.append(swept / seconds)
        latest = max(late for _, late in timed)
        rows.append(Row(way, portion, statistics.median(behind), latest, *map(statistics.median, (cores, rates, ratios))))
    return rows


def table(rows: list[Row], rate: float, nbytes: int) -> str:
    lines = [
        f"{'source':12}{'portion':>9}{f'behind at {rate:g} Hz':>20}{'source late':>13}{'cores':>8}{'at most':>18}{'':12}{'of a sweep':>12}"
    ]
    for row in rows:
        most = f"{row.rate / 1e3:10.1f} kHz{row.rate * nbytes / 1e9:10.2f} GB/s"
        kept_up = f"{100 * row.behind:18.2f} %{1e3 * row.latest:10.1f} ms{row.cores:8.2f}"
        lines.append(f"{row.way:12}{row.portion:9}{kept_up}{most:>30}{row.of_sweep:12.2f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=10_000.0, help="patterns per second of the source's clock")
    parser.add_argument("--scan", type=int, default=128)
    parser.add_argument("--detector", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--send", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.send:
        send(given.scan, given.detector, given.send, given.rate)
        return
    shape = (given.scan, given.scan, given.detector, given.detector)
    print(f"{' x '.join(map(str, shape))} uint16, {np.prod(shape) * 2 / 1e6:.0f} MB, {len(os.sched_getaffinity(0))} cores", flush=True)
    rows = run(shape, given.rate, given.rounds)
    print(table(rows, given.rate, given.detector**2 * 2))
    if given.json:
        given.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))


if __name__ == "__main__":
    main()
