"""Draw the drift of scans: pictures as they were scanned, their average at the measured positions, and the shifts of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.place import Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gpu4d.drift.result import ScanDrift

COLOURS = (("#39618f", "#c3d3e6"), ("#b3500b", "#eed3bd"))  # of x and y: line, band
NAMES = ("first", "second")


@canvas.styled
def drift(
    found: ScanDrift, images: Sequence[ArrayLike] = (), title: str = "Drift", *, ax: Sequence[Axes] | np.ndarray | None = None
) -> np.ndarray:
    """Draw pictures before and after, and the shifts of all rows with their standard errors.

    Parameters
    ----------
    found : ScanDrift
    images : sequence of (Rx, Ry) arrays
        One picture of each scan, at its nominal positions. Without them the shifts alone are drawn.
    title : str
        Title of the picture at the measured positions.
    ax : sequence of matplotlib Axes, optional
        Axes to draw into, one for each picture and for the shifts of each scan. By default a new figure is made, which is `figure` of the
        returned array.

    Returns
    -------
    (n,) array of matplotlib.axes.Axes

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> noise = np.random.default_rng(0).normal(size=(16, 16))
    >>> axes = drift(gpu4d.scan_drift(noise), [noise])
    >>> [ax.get_title(loc="left") for ax in axes]
    ['first scan', 'Drift', 'shifts of rows']
    """
    scans = len(found.positions)
    if len(images) not in (0, scans):
        raise InputError(f"images has {len(images)} pictures: need one of each scan, {scans}, or none")
    planes = [canvas.plane(image, f"images[{i}]") for i, image in enumerate(images)]
    drawn = [*zip((f"{NAMES[i]} scan" for i in range(len(planes))), planes, strict=True)]
    if planes:
        corrected = found.average(*planes) if scans == 2 else found.corrected(planes[0])
        drawn.append((title, np.asarray(corrected)))
    number = len(drawn) + scans
    place = Place(found.frames[0].shape, 1, number, ax=ax, count=number)
    limits = canvas.robust_range(np.concatenate([plane.ravel() for plane in planes])) if planes else (0.0, 1.0)
    for panel, (name, plane) in zip(place.panels, drawn):
        canvas.show(panel, plane, name, "", "gray", limits, bar=plane is drawn[-1][1])
        canvas.scale_bar(panel, plane.shape, found.r_pixel, found.units)
        canvas.axis_marks(panel)
        canvas.note_missing(panel, plane)
    for scan in range(scans):
        panel, rows = place.panels[len(drawn) + scan], np.arange(len(found.shifts[scan]))
        for axis, (line, band) in enumerate(COLOURS):
            shift, error = found.shifts[scan][:, axis], found.shift_errors[scan][:, axis]
            panel.fill_between(rows, shift - error, shift + error, color=band, lw=0)
            panel.plot(rows, shift, color=line, lw=1.3, label="xy"[axis])
        panel.set_title(f"shifts of the {NAMES[scan]} scan's rows" if scans == 2 else "shifts of rows", loc="left", pad=7)
        panel.set_xlabel("row")
        panel.set_ylabel(f"shift ± standard error ({found.units})")
        panel.legend(frameon=False)
    return place.result
