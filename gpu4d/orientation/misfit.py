"""Say how well orientations explain the disks: how far disks lie from reflections, and how much of their intensity is explained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpu4d import arrays, physics
from gpu4d.calibrate.origin import origin as measure_origin
from gpu4d.data.arguments import OriginLike, disk_lists, origins
from gpu4d.data.calibration import Calibration
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.orientation.library import excitation_error
from gpu4d.orientation.orientations import Orientations
from gpu4d.orientation.peaks import lab_frame, lab_peaks, reach_of

RADIUS = 0.05  # 1/Å: a disk farther from every reflection is not explained
REACH = 3.0  # excitation errors up to so many times 1/thickness: beyond, the shape factor leaves nothing
BLOCK = 1 << 21  # distances computed at once


@dataclass(frozen=True, eq=False)
class Misfit(Storable, stored="distance: Rx Ry [1/Å]; explained: Rx Ry"):
    """How well orientations explain the disks of each position.

    Attributes
    ----------
    distance : (Rx, Ry) float64
        Of explained disks from their reflections, rms, 1/Å. NaN where there is no orientation.
    explained : (Rx, Ry) float64
        Share of the disks' √intensity that lies on reflections of the grains found there, 0 … 1, without the unscattered beam. NaN where
        there is no orientation.
    """

    distance: np.ndarray
    explained: np.ndarray

    def __repr__(self) -> str:
        seen = np.isfinite(self.explained)
        if not seen.any():
            return "Misfit(no orientations)"
        distance, explained = (float(np.nanmedian(a)) for a in (self.distance, self.explained))
        return f"Misfit(medians of {int(seen.sum())} positions: {distance:.2g} 1/Å from the reflections, {100 * explained:.0f} % explained)"


@on_host("lists")
def orientation_misfit(
    disks: PointListArray,
    orientations: Orientations,
    *,
    calibration: Calibration,
    origin: OriginLike | None = None,
) -> Misfit:
    """Compare the disks of a scan with the reflections of the orientations that were found.

    A disk is explained if a reflection of one of the grains lies within 0.05 1/Å of it, and within three times 1/thickness of the
    Ewald sphere. This does not tell look-alikes apart, but a wrong structure or a wrong pixel size leaves disks unexplained.

    Parameters
    ----------
    disks : PointListArray
        Fields qx, qy (px), intensity.
    orientations : Orientations
        Of `match_orientations`, for these disks.
    calibration : Calibration
        Its energy, q_pixel, origin, ellipse, rotation and transpose are used, as by `match_orientations`.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        None: from the calibration, else measured by `gpu4d.calibrate.origin`.

    Returns
    -------
    Misfit

    Raises
    ------
    InputError
        No pixel size or energy, or orientations of a scan of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.orientation import match_orientations
    >>> from gpu4d.structures import Structure
    >>> h, k = 2 * np.mgrid[-2:3, -2:3].reshape(2, -1)
    >>> q = np.stack([h, k], -1) / 4.0786 / 0.02 + 64
    >>> one = PointListArray([0, 25], {"qx": q[:, 0], "qy": q[:, 1], "intensity": 9.0 / (1 + h * h + k * k)}, (1, 1))
    >>> known = Calibration(energy=200e3, q_pixel=0.02, origin=(64, 64))
    >>> found = match_orientations(one, Structure.standard("Au"), calibration=known, thickness=40.0)
    >>> misfit = orientation_misfit(one, found, calibration=known)
    >>> bool(misfit.distance[0, 0] < 1e-3), misfit.explained.tolist()
    (True, [[1.0]])
    """
    disk_lists(disks)
    if orientations.phase.shape != disks.shape:
        raise InputError(
            f"the disks are of a scan {disks.shape}, the orientations of {orientations.phase.shape}: need those of these disks"
        )
    pixel, energy = float(calibration.require("q_pixel")), float(calibration.require("energy"))
    given = origin if origin is not None else calibration.origin
    center = np.broadcast_to(origins(measure_origin(disks) if given is None else given, disks.shape), (*disks.shape, 2))
    frame = lab_frame(center, calibration, pixel)
    farthest, _ = reach_of(disks, frame)
    distance, explained = (np.full(disks.shape, np.nan).reshape(-1) for _ in range(2))
    if not farthest > 0:
        return Misfit(distance.reshape(disks.shape), explained.reshape(disks.shape))
    known = [np.asarray(s.reflections(1.05 * farthest + RADIUS).g) for s in orientations.structures]
    shortest = min(float(np.linalg.norm(g, axis=-1).min()) for g in known)
    peaks = lab_peaks(disks.to_host(), frame, 0.5 * shortest, 1.0, 0.0)
    table, counts = arrays.to_numpy(peaks.table), arrays.to_numpy(peaks.counts)
    nearest = np.full(table.shape[:2], np.inf)
    for grain in (orientations.grain, orientations.second):
        phase, turns = grain.phase.reshape(-1), grain.matrices.reshape(-1, 3, 3)
        for number, g in enumerate(known):
            rows = np.flatnonzero((phase == number) & (counts > 0))
            reach = REACH / orientations.thickness[number]
            size = max(1, BLOCK // max(1, table.shape[1] * len(g)))
            for start in range(0, len(rows), size):
                some = rows[start : start + size]
                near = _nearest(table[some, :, :2], turns[some] @ g.T, 1 / physics.wavelength(energy), reach)
                nearest[some] = np.minimum(nearest[some], near)
    there = np.arange(table.shape[1]) < counts[:, None]
    hit = there & (nearest < RADIUS)
    root = np.where(there, np.sqrt(table[..., 2]), 0.0)
    found = (orientations.grain.phase.reshape(-1) >= 0) & (counts > 0)
    hits, total = hit.sum(1), root.sum(1)
    square = np.where(hit, nearest, 0.0) ** 2
    explained[found] = (root * hit).sum(1)[found] / total[found]
    some_hit = found & (hits > 0)
    distance[some_hit] = np.sqrt(square.sum(1)[some_hit] / hits[some_hit])
    return Misfit(distance.reshape(disks.shape), explained.reshape(disks.shape))


def _nearest(q: np.ndarray, lab: np.ndarray, wave_number: float, reach: float) -> np.ndarray:
    """Return the distance (n, p) of peaks q (n, p, 2) from the nearest reflection of lab (n, 3, m) that is excited."""
    s = excitation_error(np.swapaxes(lab, 1, 2), wave_number)
    near = np.isfinite(s) & (np.abs(s) < reach)
    square = sum((q[..., i, None] - lab[:, None, i, :]) ** 2 for i in range(2))
    return np.sqrt(np.where(near[:, None, :], square, math.inf).min(axis=-1))
