"""What a disk looks like between the pixels, from what is known of the probe."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gpu4d.bragg.radial_profile import radial_profile
from gpu4d.probe.fine_image import FineImage
from gpu4d.probe.measure_disk import Disk

FINE = 1e-3  # px between the points a radial profile is interpolated from: 2e-6 of the height of the sharpest edge


class DiskShape(NamedTuple):
    """Intensity of a disk at any point.

    Attributes
    ----------
    disk : Disk
        Its centre in the image it was measured from, radius and edge.
    value : callable
        From x, y relative to the centre, pixels, to the intensity, 1 on the plateau.
    """

    disk: Disk
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]


@lru_cache(maxsize=8)
def disk_shape(pixels: bytes, shape: tuple[int, int]) -> DiskShape:
    """Of a vacuum image float64: its radial profile."""
    disk, radial = radial_profile(pixels, shape)
    far = np.arange(0.0, 3.0 * disk.radius + 20.0, FINE)
    values = radial(far)
    return DiskShape(disk, lambda x, y: np.interp(np.hypot(x, y), far, values))


def fine_shape(fine: FineImage, disk: Disk) -> DiskShape:
    """Of a disk that a scan has shown between the pixels."""
    return DiskShape(disk, fine.interpolator())
