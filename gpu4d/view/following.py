"""Sum what a virtual detector takes that follows the unscattered beam from position to position."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.data.calibration import Calibration
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.imaging.detectors import Detector, Ellipse
from gpu4d.view.pixel_images import PixelImages, pool, scaled

FOLLOWS = 0.5  # px: a beam that moves farther over the scan is followed from the beginning; less is seen in no image
FINEST = 0.25  # px: side of the squares of beam places that are looked at together; smaller ones hold too few positions to be worth it
ACROSS = 8  # such squares along an axis at most
MARGIN = 1e-6  # px, far above the rounding of places: pixels nearer to the edge of a detector are compared at each position


class Group(NamedTuple):
    """Positions whose beam is nearly in the same place.

    Attributes
    ----------
    positions : (n,) int
        In the flat scan.
    middle : (2,) float64
        Shift of the beam that stands for all, px.
    """

    positions: np.ndarray
    middle: np.ndarray


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


def groups_of(shifts: np.ndarray) -> list[Group]:
    """Group positions by the place of their beam. Positions whose beam is not known are in no group."""
    flat = shifts.reshape(-1, 2)
    known = np.flatnonzero(np.isfinite(flat).all(axis=-1))
    if not known.size:
        return []
    side = max(FINEST, float(np.ptp(flat[known], axis=0).max()) / ACROSS)
    squares = np.rint(flat[known] / side).astype(np.int64)
    _, which = np.unique(squares, axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    parts = np.split(known[order], np.flatnonzero(np.diff(which.ravel()[order])) + 1)
    return [Group(part, (flat[part].min(axis=0) + flat[part].max(axis=0)) / 2) for part in parts]


def sum_following(
    images: PixelImages,
    detector: Detector,
    shifts: np.ndarray,
    groups: list[Group],
    ellipse: Ellipse | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the counts under a detector that follows the beam, (Rx, Ry) float64.

    The sum of the detector at rest is corrected by pixels near its edge. Where all positions of a group have such a pixel inside, or
    outside, they are not compared one by one. Sums of whole numbers are those of `gpu4d.VirtualImage` with these centres.

    Parameters
    ----------
    images : PixelImages
    detector : Detector
        With a centre, in pixels of the scan: that for the mean place of the beam. A disk, an annulus or a rectangle.
    shifts : (Rx, Ry, 2) array
        As of `shifts_of`, in pixels of the scan. Positions with NaN have NaN.
    groups : list of Group
        As of `groups_of` for these shifts.
    ellipse : (a, b, theta), optional
        As of `Detector.mask`.
    progress : callable, optional
        It is called between parts of the work with what is done and what there is to do, and may raise to end it.
    """
    small = scaled(detector, images.bin)
    rest = images.inside(detector, ellipse)
    if images.bin > 1 and not small.mask(images.detector_shape, None, ellipse).any():  # it lies between the centres of binned pixels
        return images.sum_inside(rest)
    work = _Edge.of(images, small, shifts / images.bin, rest, ellipse)
    total = images.sum_inside(work.inside).reshape(-1)
    done = np.full(total.shape, np.nan)

    def correct(number: int) -> None:
        if progress is not None:
            progress(number, len(groups))
        here = groups[number].positions
        done[here] = total[here] + work.correction(here, groups[number].middle / images.bin)

    list(pool().map(correct, range(len(groups))))
    return done.reshape(shifts.shape[:2])


class _Edge(NamedTuple):
    """Pixels near the edge of a detector, (n,) each, and what corrects a sum that takes some of them, `own`, at all positions."""

    detector: Detector
    ellipse: Ellipse | None
    inside: np.ndarray  # (Qx, Qy) bool: pixels of the sum
    x: np.ndarray
    y: np.ndarray
    own: np.ndarray
    rows: np.ndarray  # of their images in `values`, which has a row of positions for each
    values: np.ndarray
    places: np.ndarray  # (positions, 2): centre of the detector at each

    @classmethod
    def of(cls, images: PixelImages, detector: Detector, shifts: np.ndarray, rest: np.ndarray, ellipse: Ellipse | None) -> _Edge:
        shape, places = images.detector_shape, centres(detector, shifts).reshape(-1, 2)
        (cx, cy), (x, y) = detector.center_for(shape), np.indices(shape).reshape(2, -1)
        deep, reach = depth(detector, x - cx, y - cy, ellipse), _reach(shifts, ellipse)
        valid = np.ones(x.shape, bool) if images.valid is None else images.valid.ravel()
        # A NaN cannot be taken away again, so sums of floats begin with pixels that are inside everywhere.
        inside = rest.ravel() if images.whole_numbers else valid & (deep > reach)
        edge = np.flatnonzero(valid & (np.abs(deep) <= reach))
        if isinstance(images.stack, np.ndarray):
            rows, values = edge, np.asarray(images.stack)
        else:
            some = arrays.namespace(images.stack).take(images.stack, arrays.from_numpy(edge, images.stack), axis=0)
            rows, values = np.arange(edge.size), arrays.to_numpy(some)
        return cls(detector, ellipse, inside.reshape(shape), x[edge], y[edge], inside[edge], rows, values.reshape(len(values), -1), places)

    def correction(self, here: np.ndarray, middle: np.ndarray) -> np.ndarray:
        """Return what must be added to the sum at some positions, (n,) float64. Their beam is near the shift `middle`."""
        cx, cy = np.asarray(self.detector.center) + middle
        reach = _reach(self.places[here] - (cx, cy), self.ellipse)
        deep = depth(self.detector, self.x - cx, self.y - cy, self.ellipse)
        whole, none = deep > reach, deep < -reach
        found = self._taken(~self.own & whole, here).sum(axis=0) - self._taken(self.own & none, here).sum(axis=0)
        near = ~whole & ~none
        u, v = (axis[near, None] - self.places[here, k] for k, axis in enumerate((self.x, self.y)))
        own = self.own[near, None]
        differs = self.detector.takes(u, v, (0, 0), self.ellipse) != own
        values = self._taken(near, here)
        return found + np.where(differs, np.where(own, -values, values), 0).sum(axis=0)

    def _taken(self, which: np.ndarray, here: np.ndarray) -> np.ndarray:
        """Return the values of some of the pixels at some positions, signed: whole numbers as int64."""
        index = self.rows[which, None] * self.values.shape[1] + here
        kind = np.int64 if self.values.dtype.kind in "biu" else np.float64
        return self.values.reshape(-1).take(index).astype(kind)


def depth(detector: Detector, x: np.ndarray, y: np.ndarray, ellipse: Ellipse | None) -> np.ndarray:
    """Return how far inside a disk, an annulus or a rectangle points are that lie at x, y from its centre, px. Outside it is negative."""
    if detector.kind == "rectangle":
        height, width = detector.parameters
        return np.minimum(height / 2 - np.abs(x), width / 2 - np.abs(y))
    m = np.eye(2) if ellipse is None else ellipse_matrix(ellipse)
    r = np.hypot(m[0, 0] * x + m[0, 1] * y, m[1, 0] * x + m[1, 1] * y)
    outer = detector.parameters[-1] - r
    return outer if detector.kind == "disk" else np.minimum(outer, r - detector.parameters[0])


def _reach(shifts: np.ndarray, ellipse: Ellipse | None) -> float:
    """Return the longest of some shifts, as depths in a detector are counted, and a margin."""
    m = np.eye(2) if ellipse is None else ellipse_matrix(ellipse)
    lengths = np.linalg.norm(shifts, axis=-1), np.linalg.norm(shifts @ m.T, axis=-1)
    return MARGIN + float(max(np.max(length[np.isfinite(length)], initial=0.0) for length in lengths))
