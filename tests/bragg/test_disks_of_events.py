"""Bragg disks of a scan that is kept as events: those of its patterns, without whole tiles of patterns."""

import importlib

import numpy as np
import pytest

import gpu4d
from gpu4d.data import Events, EventSource
from gpu4d.streaming import plan


@pytest.fixture(scope="module")
def scan():
    return gpu4d.simulate.bragg_scan((5, 7), (48, 52), dose=4.0, radius=4.0, spacing=14.0, seed=3).cube


@pytest.fixture(scope="module")
def events(scan):
    data = scan.load().source.array
    flat = data.reshape(-1, data.shape[2] * data.shape[3])
    position, pixels = np.nonzero(flat)
    offsets = np.searchsorted(position, np.arange(len(flat) + 1))
    source = EventSource(offsets, pixels, data.shape[:2], data.shape[2:], flat[position, pixels], data.dtype)
    return gpu4d.DataCube(source, calibration=scan.calibration)


@pytest.mark.parametrize("refine", ["likelihood", "correlation"])
@pytest.mark.parametrize("masked", [False, True])
def test_disks_are_those_of_the_patterns_to_the_last_bit(scan, events, refine, masked, monkeypatch):
    monkeypatch.setattr(importlib.import_module("gpu4d.bragg.disk_lists"), "MADE", 3 * 48 * 52 * 2)
    made, original = [], Events.dense
    monkeypatch.setattr(Events, "dense", lambda self, dtype, out=None: made.append(len(self)) or original(self, dtype, out))
    probe = gpu4d.probe.synthetic(scan.detector_shape, 4.0)
    where = np.random.default_rng(0).random(scan.scan_shape) < 0.6 if masked else None
    expected = gpu4d.sweep(scan, gpu4d.BraggDisks(probe, refine=refine), where=where)
    assert not made and expected.counts.sum() > 30
    found = gpu4d.sweep(events, gpu4d.BraggDisks(probe, refine=refine), where=where, device="cpu")
    assert np.array_equal(found.offsets, expected.offsets)
    assert all(found.flat(name).tobytes() == expected.flat(name).tobytes() for name in ("qx", "qy", "intensity", "sx", "sy"))
    assert made and max(made) == 3, "a few patterns at a time"


def test_a_search_with_images_makes_no_tile_of_patterns(events):
    probe = gpu4d.probe.synthetic(events.detector_shape, 4.0)
    asked = {"disks": gpu4d.BraggDisks(probe), "image": gpu4d.VirtualImage(gpu4d.detectors.disk(4.0)), "mean": gpu4d.MeanPattern()}
    assert plan(events, asked, device="cpu").events_only
