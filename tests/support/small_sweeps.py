"""A small scan, and every reduction of it."""

import numpy as np

import gpu4d
from gpu4d.data import ArraySource


class Slow(ArraySource):
    """An array that answers as a chunked file does: it fills buffers, in blocks of its own."""

    def __init__(self, array, blocks):
        super().__init__(array)
        self.blocks, self.reads, self.resident = blocks, [], False
        self._data = array
        del self.array

    def read(self, rows, columns, out=None):
        self.reads.append((rows, columns))
        frames = self._data[rows, columns]
        if out is None:
            return frames.copy()
        out[...] = frames
        return out


def scan(dtype="uint16", shape=(13, 9, 17, 20), seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(4.0, shape)
    return counts.astype(dtype) if np.dtype(dtype).kind in "iu" else (counts * 0.37 + rng.random(shape)).astype(dtype)


def all_reductions(shape=(17, 20)):
    rng = np.random.default_rng(1)
    weights = rng.random((13, 9))
    origin = np.stack(np.meshgrid(np.linspace(7, 9, 13), np.linspace(8, 11, 9), indexing="ij"), -1)
    probe = gpu4d.probe.synthetic(shape, 2.5)
    return {
        "image": gpu4d.VirtualImage(
            {"bf": gpu4d.detectors.disk(4.0), "mask": rng.random(shape) > 0.5, "weights": rng.random(shape)}, origin
        ),
        "mean": gpu4d.MeanPattern(),
        "weighted": gpu4d.MeanPattern(weights=weights),
        "aligned": gpu4d.MeanPattern(weights=weights, origin=origin),
        "max": gpu4d.MaxPattern(),
        "com": gpu4d.CenterOfMass(),
        "disks": gpu4d.BraggDisks(probe, min_significance=1.0),
    }


def as_bytes(result):
    if hasattr(result, "offsets"):
        return (result.offsets.tobytes(), *(result.flat(f).tobytes() for f in result.fields))
    return np.asarray(result).tobytes()


class TwoPasses:
    """Standard deviation the textbook way: the mean in a first pass, squares about it in a second."""

    def bytes_needed(self, scan, n_frames):
        return 0

    def passes(self, scan, budget):
        return 2

    def start(self, scan, device, pass_=0):
        self.pass_ = pass_
        if pass_ == 0:
            self.n = self.total = self.squares = 0.0

    def update(self, frames, positions):
        if self.pass_ == 0:
            self.n, self.total = self.n + frames.size, self.total + frames.sum(dtype=float)
        else:
            self.squares += ((frames - self.total / self.n) ** 2).sum()

    def state(self):
        return {}

    def restore(self, state): ...

    def merge(self, state): ...

    def finish(self):
        return np.sqrt(self.squares / self.n)
