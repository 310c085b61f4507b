"""Cut a row of frames into the rows of a scan, with a shape that is given or found."""

from __future__ import annotations

import warnings
from typing import TypeVar

from gpu4d.arrays import Array
from gpu4d.data.arguments import FlyBackAt
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.preprocess.scan_shape import as_cube, scan_shapes
from gpu4d.preprocess.views import like

Frames = TypeVar("Frames", DataCube, Array)


class ScanShapeWarning(UserWarning):
    """A scan was given a shape that its patterns suggest, and that no file and no user stated."""


def reshape(
    frames: Frames,
    scan_shape: tuple[int, int] | None = None,
    *,
    flyback: int = 0,
    flyback_at: FlyBackAt = "end",
    extra: tuple[int, int] = (0, 0),
) -> Frames:
    """Cut frames into the rows of a scan, without those of the fly-back. Nothing is copied where their memory allows it.

    Parameters
    ----------
    frames : DataCube, (n, Qx, Qy) or (Rx, Ry, Qx, Qy) array
        In the order in which they were recorded, row by row. `gpu4d.open(file, scan_shape="frames")` opens all frames of a file as one row.
    scan_shape : (int, int), optional
        (Rx, Ry) of the positions that stay. Without it the shape is found from the frames (`scan_shapes`), and taken only if they exclude
        all others.
    flyback : int
        Frames in each row that were recorded while the beam went back.
    flyback_at : {"end", "start"}
        Where they are in a row. At the end, the last row may lack them.
    extra : (int, int)
        Frames before the first row and after the last, which are left out.

    Returns
    -------
    DataCube or (Rx, Ry, Qx, Qy) array
        A lazy view of a cube; of an array, an array of the same library on the same device.

    Raises
    ------
    InputError
        The sum of all these is not the number of frames; or no shape was given and the frames do not tell one. The error lists the shapes
        that fit, with the evidence for each.

    Warns
    -----
    ScanShapeWarning
        The shape was found. It names it and the others that would fit.

    Examples
    --------
    >>> import numpy as np
    >>> frames = np.arange(14).reshape(14, 1, 1)
    >>> reshape(frames, (3, 3), flyback=2, extra=(1, 0))[..., 0, 0].tolist()
    [[1, 2, 3], [6, 7, 8], [11, 12, 13]]
    """
    cube = as_cube(frames)
    if scan_shape is not None:
        return like(frames, cube.reshape(scan_shape, flyback=flyback, flyback_at=flyback_at, extra=extra))
    if flyback or any(extra):
        raise InputError("flyback= and extra= belong to a scan_shape=(Rx, Ry): give it too, or leave all of them out")
    found = scan_shapes(cube)
    if not found.clear:
        raise InputError(f"the scan shape is not known: {found}. Give scan_shape=(Rx, Ry), and flyback= or extra= if there are such frames")
    best, others = found.candidates[0], found.candidates[1:]
    rest = f"; others that fit: {'; '.join(map(str, others[:4]))}" if others else ""
    warnings.warn(
        f"scan shape FOUND, not given: {best}. {found.frames} frames, {found.why}{rest}. Give scan_shape= to be sure", ScanShapeWarning, 2
    )
    given = {"flyback": best.flyback, "flyback_at": best.flyback_at, "extra": best.extra}
    return like(frames, cube.reshape(best.scan_shape, **given))  # type: ignore[arg-type]
