"""Fluctuation microscopy of regions, and maps of it from windows of positions."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gpu4d.amorphous._fem import FEM, electrons, from_statistics, visited
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number
from gpu4d.rings import RingProfiles


@on_host("map")
def fem_regions(
    statistics: RingProfiles,
    labels: ArrayLike,
    *,
    normalise: Literal["total"] | None = None,
    inner: float | None = None,
    counts_per_electron: float = 1.0,
) -> dict[int, FEM]:
    """Measure the normalised variances of every region of a scan.

    Parameters
    ----------
    statistics : RingProfiles
        Of `RingStatistics`.
    labels : (Rx, Ry) int
        Region of every position; negative where it belongs to none. Such as the label map of `gpu4d.classify`.
    normalise, inner, counts_per_electron
        As of `gpu4d.fem`.

    Returns
    -------
    dict of int to FEM
        By label. Regions of less than two positions that were visited and have an origin are left out.

    Raises
    ------
    InputError
        Labels are no whole numbers in the shape of the scan.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> counts = np.random.default_rng(0).poisson(20.0, (6, 6, 16, 16)).astype("uint16")
    >>> found = gpu4d.sweep(gpu4d.DataCube(counts), gpu4d.RingStatistics((8, 8)))
    >>> regions = fem_regions(found, np.arange(36).reshape(6, 6) // 18)
    >>> {label: one.positions for label, one in regions.items()}
    {0: 18, 1: 18}
    """
    host = real_values(labels, "labels", "whole numbers (Rx, Ry)")
    if host.shape != statistics.pixels.shape[:2] or not (host == np.round(host)).all():
        raise InputError(f"labels are {host.shape}: need whole numbers in the shape of the scan, {statistics.pixels.shape[:2]}")
    seen = visited(statistics)
    gain = float(real_number(counts_per_electron, "counts_per_electron"))
    found = {}
    for label in np.unique(host[host >= 0]).astype(int).tolist():
        if (seen & (host == label)).sum() >= 2:
            found[label] = from_statistics(statistics, where=host == label, normalise=normalise, inner=inner, gain=gain)
    return found


def fem_map(
    statistics: RingProfiles,
    window: int = 5,
    *,
    variant: Literal["annular_mean", "rings", "ring_ensemble"] = "annular_mean",
    counts_per_electron: float = 1.0,
) -> np.ndarray:
    """Map a normalised variance: at every position that of the positions in a window about it.

    Parameters
    ----------
    statistics : RingProfiles
        Of `RingStatistics`.
    window : int
        Odd side of the window, positions. A variance of p positions is known to about √(2 / p) of its value.
    variant : {"annular_mean", "rings", "ring_ensemble"}
        As the fields of `FEM`, without counting noise.
    counts_per_electron : float

    Returns
    -------
    (Rx, Ry, n_r) float64
        NaN where less than two positions of a window count; "rings" needs one. At the edges of the scan, windows are smaller.

    Raises
    ------
    InputError
        The window is no odd number from 1 on, or the variant is not known.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> counts = np.random.default_rng(0).poisson(20.0, (6, 6, 16, 16)).astype("uint16")
    >>> found = gpu4d.sweep(gpu4d.DataCube(counts), gpu4d.RingStatistics((8, 8)))
    >>> fem_map(found, 3).shape
    (6, 6, 8)
    """
    from scipy.ndimage import uniform_filter

    side = real_number(window, "window", whole=True)
    if side < 1 or side % 2 == 0:
        raise InputError(f"window={window}: need an odd number of positions from 1 on")
    if variant not in ("annular_mean", "rings", "ring_ensemble"):
        raise InputError(f'variant={variant!r}: need "annular_mean", "rings" or "ring_ensemble"')
    shape = statistics.pixels.shape
    gain = float(real_number(counts_per_electron, "counts_per_electron"))
    rings = electrons(statistics, np.ones(shape[:2], bool), gain)

    def window_sums(values: np.ndarray) -> np.ndarray:
        clean = np.nan_to_num(values.astype(np.float64)).reshape(shape)
        return uniform_filter(clean, (side, side, 1), mode="constant") * side**2

    with np.errstate(invalid="ignore", divide="ignore"):
        if variant == "rings":
            within = rings.within
            n = np.rint(window_sums(np.isfinite(within)))
            return np.where(n > 0, window_sums(within) / n, np.nan)
        a, b = rings.mean, rings.square_of_mean if variant == "annular_mean" else rings.mean_of_square
        n = np.rint(window_sums(np.isfinite(a)))
        pairs = window_sums(a) ** 2 - window_sums(a**2)
        return np.where(n > 1, (n - 1) * window_sums(b) / pairs - 1, np.nan)
