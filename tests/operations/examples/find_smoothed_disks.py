"""Example inputs of `find_smoothed_disks`."""

from typing import Any

import numpy as np
from operations.comparing import Example
from operations.patterns import bragg_frames, with_gaps


def examples() -> list[Example]:
    """Each way of refining, powers, widths of the Gaussian, thresholds, sides that are odd, long and not square, gaps."""
    from gpu4d import fft
    from gpu4d.bragg.find_smoothed_disks import SmoothedSearch
    from gpu4d.probe import synthetic, template

    def one(label: str, patterns: np.ndarray, **rules: Any) -> Example:
        spectrum = np.conj(fft.rfft2(template(synthetic(patterns.shape[1:], 3.2)).kernel))
        rules = {"min_spacing": 4.8, "edge": 4, "max_peaks": 12, "min_relative": 0.02, **rules}
        # count, positions to 2e-4 px, height
        return Example(label, (patterns, spectrum), {"search": SmoothedSearch(**rules)}, double=1e-9, twin=(0.0, 5e-6, 5e-6, 1e-5))

    counts = bragg_frames((41, 48), 3)
    return [
        one("defaults", counts),
        one("even", bragg_frames((32, 44), 2), power=0.85),
        one("odd", bragg_frames((35, 33), 2), upsample=7, smoothing=1.2),
        one("poly", counts, subpixel="poly", smoothing=0.0),
        one("pixel", counts, subpixel="pixel", power=0.7),
        one("thresholds", counts, subpixel="poly", min_relative=0.4, relative_to=1, min_absolute=1.0),
        one("few", counts, max_peaks=2),
        one("wide", bragg_frames((24, 27), 1), smoothing=9.0, subpixel="poly", min_spacing=0.0),
        one("gaps", with_gaps(bragg_frames((35, 33), 4, "float32"))),
        one("none", counts[:0]),
        one("one", bragg_frames((32, 44), 1, "uint8"), edge=0),
    ]
