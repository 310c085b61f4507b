"""Disks close to each other as py4DSTEM and LiberTEM-blobfinder locate them, on the patterns of the studies `crowded` and `dense`.

``python benchmarks/precision.py OUT --only crowded dense --peers`` runs it. docs/explanation/precision.md says how the peers are used.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from gpu4d.benchmarks import crowded
from gpu4d.benchmarks.disk_scenes import Found, Scene, find, matched
from gpu4d.benchmarks.peers import environments
from gpu4d.benchmarks.peers.environments import ENVIRONMENTS
from gpu4d.benchmarks.peers.worker import Worker, arrays_of

import gpu4d
from gpu4d.probe import template

HERE = pathlib.Path(__file__).resolve().parent
SHARE = 4  # of the patterns of a point one in so many, the first ones: rms errors are good to 6 % then
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # name: peer, options of its task
    "py4DSTEM, trench 1-1.5 R": ("py4DSTEM", {"trench": 1.5, "smooth": 0.0}),
    "py4DSTEM, trench 1-2 R, smoothed": ("py4DSTEM", {"trench": 2.0, "smooth": 2.0}),
    "blobfinder, RadialGradient": ("LiberTEM", {"pattern": "RadialGradient"}),
    "blobfinder, BackgroundSubtraction": ("LiberTEM", {"pattern": "BackgroundSubtraction"}),
}

Locate = Callable[[str, Scene], Found]  # a method by its name, on a scene
Start = Callable[[str, pathlib.Path], Worker]  # peer, folder of its inputs
Row = dict[str, Any]


class Peers:
    """A process for each peer, in its own environment; made where it is not there."""

    def __init__(self, stack: ExitStack, start: Start | None = None) -> None:
        self.folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu4d-peers-")))
        self.workers = {name: (start or _start)(name, self.folder) for name in dict.fromkeys(peer for peer, _ in METHODS.values())}
        for worker in self.workers.values():
            stack.callback(worker.close)
        self._scenes = 0

    def versions(self) -> str:
        about = [worker.ask("about")["about"] for worker in self.workers.values()]
        return "; ".join(", ".join(f"{name} {version}" for name, version in found.items()) for found in about)

    def given(self, some: Scene) -> Locate:
        """Write a scene for the peers. Returns the function that locates its disks by a method."""
        self._scenes += 1
        name = f"scene{self._scenes}.npz"
        disks = some.positions.shape[1]
        np.savez(self.folder / name, patterns=some.patterns, probe=some.probe(), radius=some.profile.radius, disks=disks)

        def locate(method: str, some: Scene) -> Found:
            if method in crowded.METHODS:
                return find(some, template(some.probe()), **crowded.METHODS[method])
            peer, options = METHODS[method]
            saved = self.folder / "found.npz"
            self.workers[peer].run("close disks", {"scene": name, **options}, saved)
            return matched(_points(**arrays_of(saved)), some.positions)

        return locate


def _start(peer: str, folder: pathlib.Path) -> Worker:
    environment = ENVIRONMENTS[peer]
    python = environments.python_of(environment, environments.default_folder())
    return Worker(python, HERE / environment.script, folder, one_thread=True, log=folder / f"{peer}.log")


def _points(points: np.ndarray, starts: np.ndarray) -> gpu4d.PointListArray:
    """Lists of a peer, which knows no standard errors."""
    none = np.full(len(points), np.nan)
    return gpu4d.PointListArray(starts, {"qx": points[:, 0], "qy": points[:, 1], "sx": none, "sy": none}, (len(starts) - 1,))


def crowded_peers(patterns: int, start: Start | None = None) -> Iterator[Row]:
    """Two disks, as in `crowded`, by gpu4d and by other tools: errors over the joint bound."""
    with ExitStack() as stack:
        peers = Peers(stack, start)
        print(f"\n{peers.versions()}")
        for labels, every in crowded.pair_scenes(patterns):
            least = crowded.bound(every, crowded.window(every))
            some = every.part(slice(max(1, patterns // SHARE)))
            locate = peers.given(some)
            for method in (*crowded.METHODS, *METHODS):
                yield {**labels, "method": method, **crowded.judged_pair(some, locate(method, some), least)}


def dense_peers(patterns: int, start: Start | None = None) -> Iterator[Row]:
    """25 disks, as in `dense`, by gpu4d and by other tools."""
    with ExitStack() as stack:
        peers = Peers(stack, start)
        for labels, some in crowded.dense_scenes(patterns):
            locate = peers.given(some)
            for method in (*crowded.METHODS, *METHODS):
                yield {**labels, "method": method, **crowded.judged_lattice(locate(method, some))}


STUDIES: dict[str, Callable[[int], Iterator[Row]]] = {"crowded": crowded_peers, "dense": dense_peers}
