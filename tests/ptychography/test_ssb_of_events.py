"""SSB of a scan that is kept as events: the bits of its patterns, and no pattern is made."""

import numpy as np

import gpu4d
from gpu4d.data import Events, EventSource


def test_ssb_is_that_of_the_patterns_to_the_last_bit(monkeypatch):
    scan = gpu4d.simulate.phase_object_scan((16, 16), (32, 32), dose=300.0, seed=2).cube
    data = np.asarray(scan.load().source.array)
    flat = data.reshape(-1, data.shape[2] * data.shape[3])
    position, pixels = np.nonzero(flat)
    offsets = np.searchsorted(position, np.arange(len(flat) + 1))
    source = EventSource(offsets, pixels, data.shape[:2], data.shape[2:], flat[position, pixels], data.dtype)
    expected = gpu4d.ssb(scan)
    made, original = [], Events.dense
    monkeypatch.setattr(Events, "dense", lambda self, dtype, out=None: made.append(len(self)) or original(self, dtype, out))
    found = gpu4d.ssb(gpu4d.DataCube(source, calibration=scan.calibration), device="cpu")
    assert np.asarray(found.phase).tobytes() == np.asarray(expected.phase).tobytes()
    assert np.isfinite(np.asarray(found.phase)).all() and np.ptp(np.asarray(found.phase)) > 0 and not made
