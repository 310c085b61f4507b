"""Sum what a virtual detector takes that follows the unscattered beam from position to position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpu4d import arrays
from gpu4d.data.calibration import Calibration
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.imaging.detectors import Detector, Ellipse
from gpu4d.view.pixel_images import PixelImages, scaled

FOLLOWS = 0.5  # px: a beam that moves farther over the scan is followed from the beginning; less is seen in no image
TOGETHER = 16  # images of pixels at the edge: of 128² positions their places take 2 MB for each axis, which stay in the cache
MARGIN = 1e-6  # px, far above the rounding of places and far below a pixel: which pixels are compared at every position


def shifts_of(calibration: Calibration) -> np.ndarray | None:
    """Return how far the beam of every position is from its mean place, (Rx, Ry, 2) detector pixels. None without a map of origins.

    Positions whose origin is not known have NaN.
    """
    origin, mean = calibration.origin, calibration.origin_mean
    if origin is None or mean is None:
        return None
    places = np.asarray(arrays.to_numpy(origin), np.float64)
    return None if places.ndim == 1 else places - np.asarray(mean, np.float64)


def moves_enough(shifts: np.ndarray | None) -> bool:
    """Say whether the beam moves so far that a detector should follow it.

    Examples
    --------
    >>> moves_enough(np.array([[[0.0, 0.4]], [[0.0, -0.3]]])), moves_enough(None), moves_enough(np.zeros((2, 2, 2)))
    (True, False, False)
    """
    if shifts is None or not np.isfinite(shifts).any():
        return False
    return bool((np.nanmax(shifts, axis=(0, 1)) - np.nanmin(shifts, axis=(0, 1))).max() > FOLLOWS)


def centres(detector: Detector, shifts: np.ndarray) -> np.ndarray:
    """Return the centre of a detector at every position, (Rx, Ry, 2). Its own centre is that for the mean place of the beam."""
    assert detector.center is not None
    return np.asarray(detector.center, np.float64) + shifts


def unplaced(detector: Detector) -> Detector:
    """Return the same detector without a centre: `gpu4d.VirtualImage` then takes one from `origin`."""
    return Detector(detector.kind, None, detector.parameters)


def sum_following(
    images: PixelImages,
    detector: Detector,
    shifts: np.ndarray,
    ellipse: Ellipse | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the counts under a detector that follows the beam, (Rx, Ry) float64.

    Pixels that the detector takes at every position are summed as those of a detector at rest. Pixels near its edge are compared with its
    centre at each position. Sums of whole numbers are those of `gpu4d.VirtualImage` with these centres.

    Parameters
    ----------
    images : PixelImages
    detector : Detector
        With a centre, in pixels of the scan: that for the mean place of the beam.
    shifts : (Rx, Ry, 2) array
        As of `shifts_of`, in pixels of the scan. Positions with NaN have NaN.
    ellipse : (a, b, theta), optional
        As of `Detector.mask`.
    progress : callable, optional
        It is called between parts of the work with what is done and what there is to do, and may raise to end it.
    """
    small, moved = scaled(detector, images.bin), shifts / images.bin
    if images.bin > 1 and not _whole_mask(small, images, ellipse).any():  # it lies between the centres of binned pixels
        return images.sum_inside(images.inside(detector, ellipse))
    reach = _reach(moved, ellipse) + MARGIN
    always = _whole_mask(_resized(small, -reach), images, ellipse)
    edge = np.flatnonzero(_whole_mask(_resized(small, reach), images, ellipse) & ~always)
    total = images.sum_inside(always)
    places = centres(small, moved)
    for start in range(0, edge.size, TOGETHER):
        if progress is not None:
            progress(start, edge.size)
        total += _at_the_edge(images, small, edge[start : start + TOGETHER], places, ellipse)
    return np.where(np.isfinite(shifts).all(axis=-1), total, np.nan)


def _reach(shifts: np.ndarray, ellipse: Ellipse | None) -> float:
    """Return the largest distance of the beam from its mean place, as radii of a detector are counted."""
    matrix = np.eye(2) if ellipse is None else ellipse_matrix(ellipse)
    lengths = np.hypot(*np.moveaxis(shifts @ matrix.T, -1, 0)), np.hypot(shifts[..., 0], shifts[..., 1])
    return float(max(np.nanmax(length, initial=0.0) for length in lengths))


def _resized(detector: Detector, by: float) -> Detector | None:
    """Return a detector that is larger by some pixels on all sides, or smaller. None if nothing is left of it."""
    sizes = detector.parameters
    if detector.kind == "rectangle":
        grown: tuple[float, ...] = tuple(size + 2 * by for size in sizes)
        return Detector(detector.kind, detector.center, grown) if min(grown) > 0 else None
    outer = sizes[-1] + by
    if detector.kind == "disk" or sizes[0] - by < 0:
        return Detector("disk", detector.center, (outer,)) if outer > 0 else None
    return Detector(detector.kind, detector.center, (sizes[0] - by, outer)) if sizes[0] - by < outer else None


def _whole_mask(detector: Detector | None, images: PixelImages, ellipse: Ellipse | None) -> np.ndarray:
    """Return the pixels of a detector that count, (Qx, Qy) bool."""
    if detector is None:
        return np.zeros(images.detector_shape, bool)
    mask = detector.mask(images.detector_shape, None, ellipse)
    return mask if images.valid is None else mask & images.valid


def _at_the_edge(images: PixelImages, detector: Detector, rows: np.ndarray, places: np.ndarray, ellipse: Ellipse | None) -> np.ndarray:
    """Return the sum of some images, each where its pixel is inside of the detector, (Rx, Ry) float64."""
    xp, (x, y) = arrays.namespace(images.stack), np.divmod(rows, images.detector_shape[1])
    inside = detector.takes(x[:, None, None] - places[..., 0], y[:, None, None] - places[..., 1], images.detector_shape, ellipse)
    some = xp.take(images.stack, arrays.from_numpy(rows, images.stack), axis=0)
    some = xp.astype(some, xp.int64) if images.whole_numbers else arrays.as_float64(some)
    taken = xp.where(arrays.from_numpy(inside, images.stack), some, xp.zeros_like(some))
    return np.asarray(arrays.to_numpy(xp.sum(taken, axis=0)), np.float64)
