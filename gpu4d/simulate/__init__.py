"""Simulate scans whose truth is known, with a seed. The demo, the tests and the benchmarks use them."""

from gpu4d.simulate._raw_frames import RawFrames, raw_frames
from gpu4d.simulate.bragg import bragg_scan
from gpu4d.simulate.glass import amorphous_scan
from gpu4d.simulate.phase_object import phase_object_scan
from gpu4d.simulate.simulated import Simulated

__all__ = ["RawFrames", "Simulated", "amorphous_scan", "bragg_scan", "phase_object_scan", "raw_frames"]


def __dir__() -> list[str]:
    return list(__all__)
