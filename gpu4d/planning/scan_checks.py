"""Judge what concerns every technique: time, drift, data rate, dose, counts in a pixel, and how the detector was calibrated."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gpu4d.planning.acquisition import Acquisition
from gpu4d.planning.beam import Dose, Probe
from gpu4d.planning.check import Check, length
from gpu4d.planning.volume import DISK_RATE, Volume, binary, duration
from gpu4d.sizes import format_bytes

COUNTING = 1.0  # electrons in a pixel of a pattern, below which single electrons can be told apart and events are smaller than frames
EVENT_BYTES = 4  # of a counted electron: its pixel


def scan_checks(a: Acquisition, volume: Volume, probe: Probe | None, dose: Dose | None) -> Iterator[Check]:
    """Yield the checks of a scan as such."""
    words = f"{binary(volume.bytes)} ({format_bytes(volume.bytes)}), about {binary(volume.with_metadata)} with results and metadata"
    yield Check("scan", "size", None, float(volume.bytes), words, "", "4.1")
    words = f"{format_bytes(volume.memory)} in a pass: maps and a few patterns. Reading takes {duration(volume.read_seconds)} at 1 GB/s"
    yield Check("scan", "memory", None, float(volume.memory), words, "", "4.2, Q24")
    if volume.seconds is not None and volume.rate is not None:
        yield Check("scan", "time", None, volume.seconds, duration(volume.seconds), "", "pitfall 5")
        fits = volume.rate <= DISK_RATE
        advice = f"bin or crop on the camera, or a dwell time of {duration(volume.pattern_bytes / DISK_RATE)} or more"
        yield Check("scan", "data rate", fits, volume.rate, f"{format_bytes(volume.rate)}/s, a disk takes 1 GB/s", advice, "4.1, Q24")
        yield from _drift(a, volume.seconds)
    if dose is not None:
        yield from _dose(a, dose, probe)
    if a.camera_length is not None and a.pixel is not None:
        words = f"{a.pixel:.4g} 1/Å from a nominal camera length, which is wrong by 5 to 10 %"
        yield Check("scan", "detector pixel", False, a.pixel, words, "record a standard (Au) and run `gpu4d calibrate`", "pitfall 2")


def _drift(a: Acquisition, seconds: float) -> Iterator[Check]:
    if a.drift is None or a.step is None:
        return
    moved = a.drift * seconds / 60
    advice = (
        f"scan in {duration(60 * a.step / a.drift)} or less, record two scans at 90° and correct with `gpu4d.scan_drift`" if a.drift else ""
    )
    yield Check(
        "scan", "drift", moved <= a.step, moved, f"{length(moved)} while it is recorded, a step is {length(a.step)}", advice, "pitfall 5"
    )


def _dose(a: Acquisition, dose: Dose, probe: Probe | None) -> Iterator[Check]:
    pixels = math.prod(a.detector_shape)
    yield Check(
        "scan", "electrons", None, dose.electrons, f"{dose.electrons:.3g} in a pattern, {dose.electrons / pixels:.2g} a pixel", "", "5.2"
    )
    parts = [f"{dose.scan:.3g} e/Å² over the square of the step"] if dose.scan is not None else []
    parts += (
        [f"{dose.probe:.3g} e/Å² over the probe of {length(probe.diameter)} in one exposure"] if dose.probe is not None and probe else []
    )
    if dose.most is not None:
        passed = None if a.dose_limit is None else dose.most <= a.dose_limit
        limit = "" if a.dose_limit is None else f"; the specimen bears {a.dose_limit:.3g}"
        advice = (
            f"{dose.most / a.dose_limit:.3g} times less current or dwell time, or larger steps and a larger probe" if a.dose_limit else ""
        )
        yield Check("scan", "dose", passed, dose.most, ", ".join(parts) + limit, advice, "pitfall 5")
    if a.disk_radius is not None and np.dtype(str(a.dtype)).kind == "u":
        most = dose.electrons / (math.pi * a.disk_radius**2)
        top = float(np.iinfo(str(a.dtype)).max)
        words = f"{most:.3g} electrons a pixel in the vacuum disk, {a.dtype} holds {top:.6g}"
        yield Check("scan", "range of the counter", most <= top, most, words, "a larger type, a shorter dwell time, or less current", "2")
    if dose.electrons < COUNTING * pixels / 10:
        frame = pixels * np.dtype(str(a.dtype)).itemsize
        words = f"as events about {frame / (EVENT_BYTES * dose.electrons):.3g} times smaller than as frames"
        yield Check("scan", "electron counting", None, dose.electrons / pixels, words, "", "5.2, Q7")
