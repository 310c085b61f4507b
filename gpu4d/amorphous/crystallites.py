"""Find crystallites in a glass: positions whose rings fluctuate more than those of the glass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from gpu4d.amorphous._fem import disk_radius
from gpu4d.amorphous.spot_fluctuation import SpotFluctuation, SpotRings
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import RealSlice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats, real_number
from gpu4d.rings import RingStatistics
from gpu4d.robust import MAD_TO_SIGMA
from gpu4d.streaming.engine import SweepOptions, sweep

CLEAR_OF_BEAM = 4.0  # radii of a disk: rings from here on do not overlap the bright-field disk and its slope
# A power of a ring's variance is nearly Gaussian in a glass. That of speckle, ⟨x²⟩ / ⟨x⟩² − 1 of exponentially distributed x, has the
# skew γ = 5c for a relative scatter c (from the Laguerre polynomial of second order); the power 1 − γ / 3c = −2/3 has none. Counting
# noise, a χ², needs the power 1/3. The mean over rings takes out a part of the skew. With −1/5, the means of simulated glasses have the
# tails of a Gaussian to 3.5 standard deviations; lower powers bring bright spots nearer to the glass.
POWER = -0.2
SMALLEST = 0.1  # of the median: a ring whose variance with its noise is less is as even as that
LEAST_SHARE = 0.02  # a ring of counting noise alone still has some weight: else nothing is left of a faint scan
FEWEST = 20  # positions whose scatter tells what the glass does


@dataclass(frozen=True, eq=False)
class Crystallites(Storable, stored="mask labels: Rx Ry; peaks: crystallite xy; strength sizes: crystallite"):
    """Positions of a scan whose rings fluctuate more than the glass.

    Attributes
    ----------
    significance : RealSlice (Rx, Ry)
        Standard deviations of the glass above its median. NaN where a position does not count.
    mask : (Rx, Ry) bool
        True where the significance is above `threshold`.
    labels : (Rx, Ry) int
        0 for glass, else the number of the crystallite: neighbours above the threshold are one.
    peaks : (m, 2) int
        Position of the greatest significance of every crystallite.
    strength : (m,) float64
        That significance.
    sizes : (m,) int
        Positions of every crystallite.
    variance : RealSlice (Rx, Ry)
        Normalised variance within the rings after smoothing by the disk, without counting noise: the mean over the rings, weighted by
        1 / (its variance over the positions).
    threshold : float
        Standard deviations.
    false_positives : float
        Expected number of positions of pure glass above the threshold in the scan.
    """

    significance: RealSlice
    mask: np.ndarray
    labels: np.ndarray
    peaks: np.ndarray
    strength: np.ndarray
    sizes: np.ndarray
    variance: RealSlice
    threshold: float
    false_positives: float

    def __len__(self) -> int:
        """Number of crystallites."""
        return len(self.peaks)

    def __repr__(self) -> str:
        share = self.mask.mean()
        return (
            f"Crystallites({len(self)} found in {share:.1%} of {self.mask.size} positions, above {self.threshold:.2f} standard deviations: "
            f"{self.false_positives:g} positions of glass expected)"
        )


@on_host("fits")
def find_crystallites(
    cube: DataCube,
    origin: OriginLike | None = None,
    *,
    disk: float | None = None,
    radii: tuple[float, float] | None = None,
    false_positives: float = 0.5,
    ellipse: tuple[float, float, float] | None = None,
    mask: ArrayLike | None = None,
    **sweep_options: Unpack[SweepOptions],
) -> Crystallites:
    """Find positions whose rings fluctuate more than those of the glass, with a known number of false ones.

    Parameters
    ----------
    cube : DataCube
        In electrons, so that the counting noise is known.
    origin, ellipse, mask
        As in `gpu4d.radial_profile`.
    disk : float, optional
        Radius of a Bragg disk, detector pixels; by default the calibrated radius of the probe, or that of the semi-angle.
    radii : (float, float), optional
        Rings between these radii count, detector pixels; by default from four radii of the disk to half of the detector.
    false_positives : float
        Expected number of positions of pure glass that are taken for a crystallite, in the whole scan.
    **sweep_options
        Of `gpu4d.sweep`: device, memory, where, progress. The scan is read twice.

    Returns
    -------
    Crystallites

    Raises
    ------
    InputError
        The disk is not known, no ring is left, less than 20 positions count, or a number is out of range.

    Notes
    -----
    The first pass gives the median profile of the glass. In the second, patterns are smoothed by the disk and divided by what the profile
    gives there. In every ring, V = ⟨x²⟩ / ⟨x⟩² − 1 of these ratios, without counting noise. The power −1/5 of V with the noise added is
    nearly Gaussian in the glass. Its median over the positions and its scatter below the median, where crystallites are not, make it a
    number of standard deviations. The mean over the rings has weights by the share of V that is not noise, and is put in standard
    deviations again.
    The threshold is that of a Gaussian: in simulated glasses there were 0.9 to 1.5 times as many false positions as are asked for.
    More than half of the positions must be glass.

    A strained ring is uneven about the profile of the others. From strain of about five of its standard errors at one position on,
    the most strained positions are found too: fit the ring there (`gpu4d.amorphous_strain`); it explains them, and no crystallite.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> rng = np.random.default_rng(0)
    >>> patterns = np.full((8, 8, 48, 48), 6.0)
    >>> patterns[3, 4, 38:42, 22:26] = 60.0                   # a spot, 16 px from the beam
    >>> cube = gpu4d.DataCube(rng.poisson(patterns).astype("uint16"))
    >>> found = find_crystallites(cube, (23.5, 23.5), disk=2.0, false_positives=0.01)
    >>> found.peaks.tolist()
    [[3, 4]]
    """
    from scipy import ndimage
    from scipy.special import ndtri

    expected = float(real_number(false_positives, "false_positives"))
    radius = disk_radius(cube.calibration) if disk is None else float(real_number(disk, "disk"))
    if radius is None:
        raise InputError("the radius of a disk is not known: give disk= in pixels, or calibrate probe_radius, or semiangle and pixel")
    rings: dict[str, Any] = {"ellipse": ellipse, "mask": mask}
    profile = sweep(cube, RingStatistics(origin, **rings), **sweep_options)
    flat = profile.mean.reshape(-1, len(profile.radius))
    flat = flat[np.isfinite(flat).any(axis=1)]
    n = len(flat)
    if n < FEWEST:
        raise InputError(f"{n} positions count: need at least {FEWEST}, to know how the glass fluctuates")
    if not 0 < expected < n:
        raise InputError(f"false_positives={false_positives}: need more than 0 and less than the {n} positions")
    glass = np.array([np.median(column[np.isfinite(column)]) if np.isfinite(column).any() else np.nan for column in flat.T])
    spots = sweep(cube, SpotFluctuation(glass, radius, origin, **rings), **sweep_options)
    low, high = (CLEAR_OF_BEAM * radius, np.inf) if radii is None else floats(radii, 2, "radii")
    significance, variance = _combined(spots, (spots.radius >= low) & (spots.radius < high), (low, high))
    threshold = float(-ndtri(expected / n))
    above = np.nan_to_num(significance, nan=-np.inf) > threshold
    labels, found = ndimage.label(above, np.ones((3, 3)))
    numbers = np.arange(1, found + 1)
    peaks = np.array(ndimage.maximum_position(np.nan_to_num(significance), labels, numbers), np.int64).reshape(-1, 2)
    step = cube.calibration.r_pixel
    pictures = [
        RealSlice(data, name, units, step, "Å" if step else "px")
        for data, name, units in ((significance, "significance", "standard deviations"), (variance, "spot variance", "normalised variance"))
    ]
    sizes = np.bincount(labels.ravel(), minlength=found + 1)[1:]
    return Crystallites(pictures[0], above, labels, peaks, significance[tuple(peaks.T)], sizes, pictures[1], threshold, expected)


def _combined(spots: SpotRings, used: np.ndarray, limits: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the significance of every position and its variance, (Rx, Ry), from all rings that are used."""
    known = used & np.isfinite(spots.variance).any(axis=(0, 1))
    if not known.any():
        raise InputError(f"no ring between {limits[0]:.1f} and {limits[1]:.1f} px has pixels that count: give radii=")
    variance, noise = spots.variance[..., known], np.nanmedian(spots.noise[..., known], axis=(0, 1))
    middle = np.nanmedian(variance, axis=(0, 1))
    scatter = MAD_TO_SIGMA * np.nanmedian(np.abs(variance - middle), axis=(0, 1))
    if not (scatter > 0).any():
        raise InputError(
            "all patterns are the same: need patterns of a glass as they were recorded, whose fluctuations are known from their scatter"
        )
    variance, noise, middle, scatter = variance[..., scatter > 0], noise[scatter > 0], middle[scatter > 0], scatter[scatter > 0]
    even = -(np.maximum(variance + noise, SMALLEST * np.abs(middle + noise)) ** POWER)
    speckle = np.clip(middle / (middle + noise), LEAST_SHARE, 1.0)  # share of the variance that is not counting noise
    significance = _in_deviations(_weighted(_in_deviations(even), speckle))
    return significance, _weighted(variance, 1 / scatter**2)


def _weighted(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the weighted mean over the last axis of the values that are not NaN."""
    there = np.isfinite(values) * weight
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum(values * weight, axis=-1) / there.sum(axis=-1)


def _in_deviations(values: np.ndarray) -> np.ndarray:
    """Return values (Rx, Ry, ...) in standard deviations from their median over the positions, from the half below it."""
    middle = np.nanmedian(values, axis=(0, 1))
    below = np.minimum(values - middle, 0.0)
    number = np.maximum((below < 0).sum(axis=(0, 1)), 1)
    spread = np.sqrt(np.nansum(below**2, axis=(0, 1)) / number)
    return (values - middle) / np.where(spread > 0, spread, np.inf)
