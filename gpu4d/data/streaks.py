"""Streaks along columns or rows of a detector: which pixels show them, and how much of what they show is subtracted from a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import pixel_mask, real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number

RADIUS = 0.9  # of half the detector: the middle of what the guide recommends (0.85 – 0.95)
ALONG = ("columns", "rows")  # streaks along the first axis, one value for each qy; along the second, one value for each qx


@on_host("image")
def edge_pixels(shape: tuple[int, int], radius: float = RADIUS, mask: ArrayLike | None = None) -> np.ndarray:
    """Find the pixels at the edge of a detector that no electron should reach: those outside of a circle about its middle.

    Parameters
    ----------
    shape : (Qx, Qy)
        Of the detector.
    radius : float
        Of the circle, over half the shorter side of the detector. The guide recommends 0.85 to 0.95 (`background_mask_radius`).
    mask : (Qx, Qy) bool, optional
        True where a pixel counts. Other pixels are not at the edge.

    Returns
    -------
    (Qx, Qy) bool

    Raises
    ------
    InputError
        A radius that is not positive, or no pixel is outside of the circle.

    Examples
    --------
    >>> edge_pixels((4, 4), 1.0).astype(int).tolist()
    [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    """
    radius = real_number(radius, "radius")
    nx, ny = shape
    x, y = np.arange(nx)[:, None] - (nx - 1) / 2, np.arange(ny) - (ny - 1) / 2
    outside = np.hypot(x, y) > radius * min(nx, ny) / 2
    valid = pixel_mask(mask, shape, "mask")
    edge: np.ndarray = outside if valid is None else outside & valid
    if not radius > 0 or not edge.any():
        raise InputError(f"radius={radius:g}: no pixel of a detector of {nx} × {ny} is outside of this circle: need 0.85 to 0.95")
    return edge


@dataclass(frozen=True, eq=False)
class Streaks(Storable, stored="edge: Qx Qy; share: line"):
    """What is subtracted from the lines of every single frame.

    Parameters
    ----------
    edge : (Qx, Qy) bool
        Pixels that no electron reaches.
    along : {"columns", "rows"}
        A column has one qy, a row one qx.
    share : float or (lines,) array
        Share of the mean of a line's edge pixels that is subtracted, 0 to 1. With the variance v of the streaks over the frames, the
        noise σ of a pixel, and n edge pixels in the line, v / (v + σ² / n) leaves the smallest error.
    clip : float
        Edge pixels that are farther from the background do not count, because they are hits. In the units of the raw frames.

    Raises
    ------
    InputError
        No edge pixel, shares of another number of lines or outside 0 … 1, a clip that is not positive.

    Examples
    --------
    >>> streaks = Streaks([[True, True, True], [False, False, False]], share=0.5)
    >>> streaks.weights.tolist(), streaks.description
    ([[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]], 'streaks of single frames along columns')
    """

    edge: np.ndarray | Sequence[Sequence[bool]]
    along: str = "columns"
    share: ArrayLike = 1.0
    clip: float = math.inf
    weights: np.ndarray = field(init=False, repr=False)  # (Qx, Qy) float64: the share at the edge, 0 elsewhere

    def __post_init__(self) -> None:
        edge = real_values(self.edge, "edge", "a mask (Qx, Qy) bool")
        if edge.ndim != 2 or edge.dtype.kind not in "biu" or not edge.any():
            raise InputError(f"edge is {edge.shape} {edge.dtype}: need a mask (Qx, Qy) bool, True at pixels that no electron reaches")
        if self.along not in ALONG:
            raise InputError(f"along={self.along!r}: need 'columns' (one value for each qy) or 'rows' (one for each qx)")
        edge, clip = edge.astype(bool), real_number(self.clip, "clip")
        share = real_values(self.share, "share").astype(np.float64)
        lines = edge.shape[1 - self.axis]
        if share.shape not in ((), (lines,)) or not ((share >= 0) & (share <= 1)).all():
            raise InputError(f"share is {share.shape}: need one number, or one for each of the {lines} {self.along}, from 0 to 1")
        if not clip > 0:
            raise InputError(f"clip={clip:g}: need a distance above 0")
        share = np.broadcast_to(share, (lines,)).copy()
        weights = np.where(edge, share if self.axis == 0 else share[:, None], 0.0)
        for name, value in (("edge", edge), ("share", share), ("clip", clip), ("weights", weights)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Streaks(along {self.along}, {int(np.sum(self.edge))} edge pixels, share {np.mean(self.share):.2g}, clip {self.clip:.3g})"

    @property
    def axis(self) -> int:
        """Axis of the detector that the streaks go along: 0 for columns, 1 for rows."""
        return ALONG.index(self.along)

    @property
    def description(self) -> str:
        return f"streaks of single frames along {self.along}"

    def swapped(self) -> Streaks:
        """Return the streaks of frames with exchanged axes."""
        return Streaks(np.asarray(self.edge).T, ALONG[1 - self.axis], self.share, self.clip)
