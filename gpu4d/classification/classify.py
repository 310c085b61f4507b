"""Classify the patterns of a scan by their Bragg disks."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from gpu4d.calibrate.origin import origin as measure_origin
from gpu4d.classification.classes import Classes
from gpu4d.classification.distinct import distinct_parts
from gpu4d.classification.factorise import scikit_learn
from gpu4d.classification.result import measured_classes
from gpu4d.classification.search import METHODS, Search
from gpu4d.data import DataCube, PointListArray
from gpu4d.data.arguments import OriginLike, disk_lists, origins, scan_mask
from gpu4d.errors import InputError, did_you_mean
from gpu4d.on_host import on_host
from gpu4d.probe.template_kernel import TemplateLike
from gpu4d.real_arrays import real_number
from gpu4d.streaming.engine import SweepOptions


@on_host("sample")
def classify(
    disks: PointListArray,
    cube: DataCube | None = None,
    *,
    template: TemplateLike | None = None,
    radius: float | None = None,
    origin: OriginLike | None = None,
    classes: int | None = None,
    method: str = "clusters",
    parts: int = 12,
    tolerance: float = 0.3,
    smooth: float | str = "auto",
    **options: Unpack[SweepOptions],
) -> Classes:
    """Classify patterns by which reflections they show, and measure the share of every class at every position.

    1. Reflections are the maxima of the Bragg vector map. With the scan given, those that show only in mean patterns are added, and the
       counts of all reflections are read from the patterns, so that disks too faint to be found count too.
    2. The scan is split into more parts than it can have classes.
    3. A part is given up if a mixture of the others explains its counts, up to noise, thickness and bending. What bending does is seen
       in the parts themselves: it makes I(g) and I(-g) differ. So a bent crystal stays one class, and a part that shows reflections that
       no other has is a class. Sums of Friedel pairs are compared, because bending changes them least.
    4. Shares are the most probable ones for Poisson counts, from sums over reflections that the same classes show.

    Parameters
    ----------
    disks : PointListArray
        Fields qx, qy, intensity.
    cube : DataCube, optional
        The scan of these disks. Without it only found disks count, and positions without disks are one class of their own.
    template : Template or (Qx, Qy) array, optional
        As for `find_bragg_disks`. Default: a disk of the measured radius.
    radius : float, optional
        Radius of the disks, pixels. Default: that of the template, or measured. Needed if neither template nor cube is given.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Default: the calibrated origin of the cube, else `gpu4d.calibrate.origin`.
    classes : int, optional
        Number of classes, at least 1. Default: as many as the counts tell apart. If fewer or more are asked for, `warnings` says what that
        costs. There are at most as many as `parts`: if more are asked for, `warnings` says how many could be made.
    method : {"clusters", "nmf", "domains"}
        How the scan is split. "clusters": k-means. "nmf": the guide's non-negative matrix factorisation, started from patterns that share
        disks. "domains": closed regions in which neighbouring patterns are similar.
    parts : int
        Number of parts. More find rarer classes.
    tolerance : float
        Relative change of a reflection that tells no classes apart.
    smooth : float or "auto"
        Standard deviation of smoothing before shares are measured, in positions. "auto": what predicts one half of the counts best from
        the other. 0: every position by its own counts.
    **options
        Options of `gpu4d.sweep`: where (the positions to classify), device, memory, progress.

    Returns
    -------
    Classes
        Fractions with standard errors, labels, mean patterns, and `report()`. It carries the guide's caveat.

    Raises
    ------
    InputError
        scikit-learn is not installed, an option is not known, or there is nothing to classify.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.bragg_scan((6, 6), (64, 64), spacing=15.0, radius=4.0, vacuum_rows=2, strain=None, seed=1)
    >>> disks = gpu4d.find_bragg_disks(scan.cube, scan.probe)
    >>> found = gpu4d.classify(disks, scan.cube, template=scan.probe, parts=3)
    >>> found.kinds, [int((found.label == j).sum()) for j in range(2)]
    (('crystal', 'no disks'), [24, 12])
    """
    scikit_learn("cluster")
    _check(disks, cube, method, smooth)
    if classes is not None and real_number(classes, "classes", whole=True) < 1:
        raise InputError(f"classes={classes}: need at least 1, or None for as many as the counts tell apart")
    mask = scan_mask(options.get("where"), disks.shape)
    search = Search(disks, cube, _origin(disks, cube, origin), mask, method, real_number(parts, "parts", whole=True), dict(options))
    search.find_radius(template, radius)
    features, sums = search.look()
    first = np.unique(features.pair_of_spot, return_index=True)[1]
    kept = distinct_parts(sums, features.spots[first], real_number(tolerance, "tolerance"), classes)
    return measured_classes(search, features, kept, smooth, float(tolerance), classes)


def _origin(disks: PointListArray, cube: DataCube | None, given: OriginLike | None) -> np.ndarray:
    """Return the origin of every position, (Rx, Ry, 2)."""
    if given is None and cube is not None:
        given = cube.calibration.origin
    if given is None:
        given = measure_origin(disks)
    return np.broadcast_to(origins(given, disks.shape), (*disks.shape, 2)).astype(np.float64)


def _check(disks: Any, cube: Any, method: str, smooth: Any) -> None:
    disk_lists(disks)
    if cube is not None and not isinstance(cube, DataCube):
        raise InputError(f"cube is a {type(cube).__name__}: need the DataCube in which the disks were found")
    if cube is not None and tuple(cube.shape[:2]) != disks.shape:
        raise InputError(
            f"the disks are of a scan {disks.shape}, the cube is {tuple(cube.shape[:2])}: need the cube in which they were found"
        )
    if method not in METHODS:
        raise InputError(f"method={method!r}: need one of {', '.join(METHODS)}{did_you_mean(str(method), METHODS)}")
    if smooth != "auto" and not 0 <= real_number(smooth, "smooth") < np.inf:
        raise InputError(f"smooth={smooth!r}: need 'auto', or a standard deviation in positions, 0 for none")
