"""Compare strain with the brightness of the disks: where both change together, the strain may be an error of the positions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.crystal.strain import Strain
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.robust import robust_sigma

COMPONENTS = ("exx", "eyy", "exy")
LEAST_POSITIONS = 30  # with fewer, a rank correlation above 0.5 is found in noise
SURE = 4.0  # standard errors that the two halves must differ by


class _Together(NamedTuple):
    component: str
    correlation: float
    difference: float


class Together(_Together, Storable):
    """How a component of the strain changes with the brightness of the disks.

    Attributes
    ----------
    component : str
        "exx", "eyy" or "exy": the one with the largest correlation.
    correlation : float
        Rank correlation over the scan, -1 to 1. 0 where the difference below is not certain.
    difference : float
        Median strain of the brighter half of the positions minus that of the darker half.
    """

    __slots__ = ()


@on_host("map")
def strain_and_brightness(strain: Strain, disks: PointListArray) -> Together | None:
    """Compare strain with the summed height of the diffracted disks, position by position.

    Neighbours whose brightness changes can shift a disk, if they are not part of the fit. Such an error looks like strain. A specimen
    can also be strained where it is thicker. So this is a reason to look, and no proof of an error.

    Parameters
    ----------
    strain : Strain
    disks : PointListArray
        Of the same scan. The brightest disk of each position, which is the direct beam as a rule, is left out of the sum.

    Returns
    -------
    Together or None
        None if fewer than 30 positions have a strain, or if the brightness is the same everywhere.

    Raises
    ------
    InputError
        The scans differ in shape.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.bragg_scan((6, 6), dose=300.0)
    >>> disks = gpu4d.find_bragg_disks(scan.cube, scan.probe, progress=False)
    >>> strain = gpu4d.strain_map(gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks)))
    >>> abs(strain_and_brightness(strain, disks).correlation) < 0.5
    True
    """
    shape = np.asarray(strain.exx).shape
    if tuple(disks.shape) != shape:
        raise InputError(f"disks are of a scan of {tuple(disks.shape)} positions, the strain has {shape}: need the same scan")
    height, offsets = (arrays.to_numpy(v) for v in (disks.flat("intensity"), disks.offsets))
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    total = np.bincount(owner, height, len(offsets) - 1)
    highest = np.zeros(len(offsets) - 1)
    np.maximum.at(highest, owner, height)
    brightness = (total - highest).reshape(shape)
    found = [_compared(name, np.asarray(getattr(strain, name), np.float64), brightness) for name in COMPONENTS]
    return max((f for f in found if f is not None), key=lambda f: abs(f.correlation), default=None)


def _compared(name: str, part: np.ndarray, brightness: np.ndarray) -> Together | None:
    """Compare one component with the brightness."""
    seen = np.isfinite(part)
    value, bright = part[seen], brightness[seen]
    if value.size < LEAST_POSITIONS or not np.ptp(bright) > 0:
        return None
    of_value, of_bright = (np.argsort(np.argsort(v, kind="stable"), kind="stable") for v in (value, bright))
    half = bright > np.median(bright)
    parts = value[half], value[~half]
    difference = float(np.median(parts[0]) - np.median(parts[1]))
    error = 1.25 * np.sqrt(sum(robust_sigma(p) ** 2 / len(p) for p in parts))  # of a median: 1.25 σ / √n
    certain = abs(difference) > SURE * error
    return Together(name, float(np.corrcoef(of_value, of_bright)[0, 1]) if certain else 0.0, difference)
