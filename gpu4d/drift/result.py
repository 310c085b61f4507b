"""Hold measured positions of scans, and draw pictures at them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.data.slices import RealSlice
from gpu4d.data.storable import Storable
from gpu4d.drift.scan_frame import ScanFrame
from gpu4d.drift.scattered_average import scattered_average
from gpu4d.errors import InputError

BELIEVED = 5.0  # standard deviations of an agreement by chance: the search looks at thousands of drifts and displacements


@dataclass
class ScanDrift(Storable, stored="positions errors: Rx Ry xy; shifts shift_errors: row xy; drift drift_error: xy; r_pixel: [Å]"):
    """Where a scan's positions lie on the specimen, measured in one scan or in a pair of them.

    Attributes
    ----------
    positions : tuple of (Rx, Ry, 2) float64
        Of each scan, in the axes of the first one. Nominal positions of the first scan start at (0, 0), and its mean shift is zero.
    errors : tuple of (Rx, Ry, 2) float64
        Standard errors of the positions, relative to the mean of their own scan.
    shifts, shift_errors : tuple of (rows, 2) float64
        Shift of every row from its nominal place, and its standard error, as above.
    drift, drift_error : tuple of (2,) float64
        Steady part: how far the place under the beam moves from the start of a scan to its end. For one scan NaN: it does not tell.
    walk, jitter : float
        Standard deviation along an axis of what a row adds to the shift of the one before, and of what each has of its own.
    agreement : float
        Correlation of each side's values with what the other predicts: two scans, or even and odd rows of one.
    significance : float
        The agreement over the standard deviation that it had by chance.
    gained : float
        Logarithm of the evidence for shifts of single rows over steady drift alone.
    pictures : tuple of str
        Which pictures were compared.
    r_pixel : float
        Step of the first scan. All lengths are in Å; in steps if no r_pixel was known, and r_pixel is 1.
    units : {"Å", "px"}
    decisions, warnings : list of str
        Sentences for the user.
    """

    positions: tuple[np.ndarray, ...]
    errors: tuple[np.ndarray, ...]
    shifts: tuple[np.ndarray, ...]
    shift_errors: tuple[np.ndarray, ...]
    drift: tuple[np.ndarray, ...]
    drift_error: tuple[np.ndarray, ...]
    walk: float
    jitter: float
    agreement: float
    significance: float
    gained: float
    pictures: tuple[str, ...]
    r_pixel: float
    units: str
    frames: tuple[ScanFrame, ...]
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def believed(self) -> bool:
        """Whether both sides agree by more than chance would have it."""
        return self.significance >= BELIEVED

    def positions_in_own_axes(self, scan: int = 0) -> np.ndarray:
        """Return the positions (Rx, Ry, 2) of a scan in its own axes, nominally from (0, 0), as `Calibration.positions` takes them.

        Parameters
        ----------
        scan : {0, 1}
            First or second.
        """
        frame = self._frame(scan)
        unturned = frame.matrix / frame.step
        corner = (np.array(frame.shape) - 1) / 2 * frame.step * self.r_pixel
        own = self.positions[scan] @ unturned
        return own - own.mean((0, 1)) + corner

    def corrected(self, image: ArrayLike, scan: int = 0) -> RealSlice:
        """Draw a picture or map of one scan at the measured positions.

        Parameters
        ----------
        image : (Rx, Ry) or (Rx, Ry, n) array
            Values at the positions of the scan, NaN where there is none.
        scan : {0, 1}
            The scan to which they belong.

        Returns
        -------
        RealSlice
            On the nominal grid of the first scan: `scattered_average` of the values. NaN where there are too few. Several maps are
            planes (n, Rx, Ry).
        """
        return self._drawn([real_values(image, "image", "(Rx, Ry) or (Rx, Ry, n)")], [scan], "corrected")

    def average(self, first: ArrayLike, second: ArrayLike) -> RealSlice:
        """Draw one picture from the values of both scans, as `corrected` does.

        Parameters
        ----------
        first, second : (Rx, Ry) or (Rx, Ry, n) arrays
            Values at the positions of both scans.
        """
        if len(self.positions) < 2:
            raise InputError("average needs two scans, and one was measured: corrected(image) draws its picture")
        given = [real_values(image, name, "(Rx, Ry) or (Rx, Ry, n)") for image, name in ((first, "first"), (second, "second"))]
        return self._drawn(given, [0, 1], "average")

    def coverage(self) -> np.ndarray:
        """Return how well all positions cover the nominal grid of the first scan, (Rx, Ry): 1 as one scan does without drift."""
        places = np.concatenate([each.reshape(-1, 2) for each in self.positions])
        return scattered_average(np.zeros(len(places)), places, step=self.r_pixel, shape=self.frames[0].shape)[1]

    def _drawn(self, images: list[np.ndarray], scans: list[int], name: str) -> RealSlice:
        for image, scan in zip(images, scans):
            shape = self._frame(scan).shape
            if image.ndim not in (2, 3) or image.shape[:2] != shape:
                raise InputError(f"an image of shape {image.shape} is not of a scan of {shape}: need (Rx, Ry) or (Rx, Ry, n)")
        if len({image.shape[2:] for image in images}) > 1:
            raise InputError(f"images have shapes {' and '.join(str(image.shape) for image in images)}: need as many planes of both scans")
        values = np.concatenate([image.reshape(-1, *image.shape[2:]) for image in images])
        places = np.concatenate([self.positions[scan].reshape(-1, 2) for scan in scans])
        drawn, _ = scattered_average(values, places, step=self.r_pixel, shape=self.frames[0].shape)
        planes = np.moveaxis(drawn, -1, 0) if drawn.ndim == 3 else drawn
        return RealSlice.calibrated(planes, name, "", self.r_pixel if self.units == "Å" else None)

    def _frame(self, scan: int) -> ScanFrame:
        if scan not in range(len(self.frames)):
            raise InputError(f"scan={scan!r}: need {' or '.join(map(str, range(len(self.frames))))}, there are {len(self.frames)} scans")
        return self.frames[scan]

    def __repr__(self) -> str:
        n = len(self.positions)
        steady = "; ".join(f"({d[0]:.3g}, {d[1]:.3g}) {self.units}" for d in self.drift) if n == 2 else "not told by one scan"
        rows = f"walk {self.walk:.2g}, jitter {self.jitter:.2g} {self.units} per row"
        words = f", {len(self.warnings)} warning{'s' * (len(self.warnings) > 1)}" if self.warnings else ""
        return f"ScanDrift({n} scan{'s' * (n > 1)}, drift {steady}, {rows}, agreement {self.agreement:.3g}{words})"
