"""A scan larger than its budget: private memory is sampled while the sweep runs, in a process of its own."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

import gpu4d

SWEEP = """
import json, sys, threading
import numpy as np, gpu4d

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

peak, stop = [0], threading.Event()
def watch():
    while not stop.wait(0.005):
        peak[0] = max(peak[0], status("RssAnon"))

path, budget, probe = sys.argv[1], int(sys.argv[2]), np.load(sys.argv[3])
watcher = threading.Thread(target=watch)
watcher.start()
reductions = {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern(), "com": gpu4d.CenterOfMass(),
              "images": gpu4d.VirtualImage([gpu4d.detectors.disk(9.0), gpu4d.detectors.annulus(10, 40)]),
              "disks": gpu4d.BraggDisks(probe)}
out = gpu4d.sweep(gpu4d.open(path), reductions, memory=budget)
stop.set()
watcher.join()
# VmHWM, not ru_maxrss: that one starts from the memory of the process which started this one
print(json.dumps({"anonymous": peak[0], "maxrss": status("VmHWM"),
                  "sum": float(np.asarray(out["mean"]).sum()), "points": len(out["disks"])}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize("layout", ["contiguous", "gzip"])
def test_scan_four_times_the_budget(tmp_path, layout):
    small = gpu4d.simulate.bragg_scan((8, 8), (128, 128), seed=1)
    frames = np.asarray(small.cube.source.array)
    options = {} if layout == "contiguous" else {"chunks": (4, 4, 128, 128), "compression": "gzip", "compression_opts": 1, "shuffle": True}
    path, probe = tmp_path / "scan.h5", tmp_path / "probe.npy"
    with h5py.File(path, "w") as f:
        data = f.create_dataset("data", (64, 64, 128, 128), "u2", **options)
        for row in range(0, 64, 8):
            data[row : row + 8] = np.tile(frames, (1, 8, 1, 1))
    np.save(probe, small.probe)
    size = 64 * 64 * 128 * 128 * 2
    budget = size // 4
    run = subprocess.run([sys.executable, "-c", SWEEP, path, str(budget), probe], capture_output=True, text=True, check=True)
    seen = json.loads(run.stdout)
    assert seen["anonymous"] <= budget + 300e6
    if layout == "gzip":  # nothing is mapped: resident memory is private memory
        assert seen["maxrss"] <= budget + 300e6
    assert seen["sum"] == pytest.approx(frames.mean((0, 1), dtype=float).sum(), rel=1e-12)
    assert seen["points"] == 64 * len(gpu4d.find_bragg_disks(small.cube, small.probe))


class _Read:
    """A source in no memory, which notes how many bytes it was asked for at once."""

    resident, description = False, "made up"

    def __init__(self, shape, blocks):
        self.shape, self.blocks, self.dtype = shape, blocks, np.dtype(np.uint16)
        self.most, self.times = 0, np.zeros(shape[:2], int)

    def read(self, rows, columns, out=None):
        number = np.arange(rows.start, rows.stop)[:, None] * self.shape[1] + np.arange(columns.start, columns.stop)
        frames = np.empty((*number.shape, *self.shape[2:]), np.uint16)
        frames[...] = number[..., None, None] % 1000
        self.most = max(self.most, frames.nbytes)
        self.times[rows, columns] += 1
        return frames


@pytest.mark.parametrize("blocks", [(1, 1), (3, 4)])
@pytest.mark.parametrize("view", ["crop", "bin", "both"])
def test_views_read_little_at_once(view, blocks):
    """Memory is planned for what a view keeps: it must not read all it drops at once."""
    whole = gpu4d.DataCube(_Read((48, 60, 128, 128), blocks))
    cube = whole.crop(rx=(5, 48), qx=(60, 68), qy=(0, 8)) if view == "crop" else whole.bin(detector=16, scan=3)
    cube = cube.crop(ry=(0, 20)) if view == "both" else cube
    got = np.asarray(gpu4d.sweep(cube, gpu4d.VirtualImage(np.ones((8, 8), bool)), memory="60 MB").data)
    number = (np.arange(48)[:, None] * 60 + np.arange(60)) % 1000
    expected = 64 * number[5:] if view == "crop" else 128 * 128 * number.reshape(16, 3, 20, 3).sum((1, 3))
    assert np.array_equal(got, expected)
    assert whole.source.most <= 8 << 20
    assert whole.source.times.max() == 1, "no pattern is read twice"
