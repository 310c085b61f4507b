"""Hold what the steps of a calibration share, and sum the scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.structures import Structure
from gpu4d.workflow.clean import measured_background
from gpu4d.workflow.leave_out import bad_beside_beam, leave_out, nan_in_most
from gpu4d.workflow.recipe.recipe import Recipe
from gpu4d.workflow.record import Record


@dataclass
class Work:
    """A calibration that is being measured.

    Attributes
    ----------
    cube : DataCube
        Its calibration is completed in place.
    recipe : Recipe
    record : Record
        Receives the progress.
    crystals : list of Structure
        Known crystals in the specimen. Empty if none was named.
    said : list of str
        What could not be measured, and why; and what the user should know.
    near : float or None
        Pixel size that the user or the file says, 1/Å. It tells crystals and rings apart.
    mean : (Qx, Qy) float64
        Mean pattern.
    total : (Rx, Ry) float64
        Counts of each pattern.
    com : (Rx, Ry, 2) float64
        Centre of mass of each pattern, px.
    """

    cube: DataCube
    recipe: Recipe
    record: Record
    crystals: list[Structure]
    said: list[str] = field(default_factory=list)
    near: float | None = None
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    total: np.ndarray = field(default_factory=lambda: np.zeros(0))
    com: np.ndarray = field(default_factory=lambda: np.zeros(0))


def sum_scan(work: Work) -> None:
    """Read the scan once, and once more if it has bad pixels. Bad pixels leave the detector mask of the cube."""
    keep = work.recipe.input.bad_pixels == "keep"
    if not keep:
        _without(work, *nan_in_most(work.cube))
    found = _one_pass(work)
    if not keep:
        mean, most = (np.asarray(found[name], dtype=np.float64) for name in ("mean", "max"))
        measured = measured_background(work.cube)
        error = 0.0 if measured is None else measured.error
        bad = bad_beside_beam(mean, int(np.prod(work.cube.scan_shape)), most, error)
        if bad.too_many:
            work.said.append(bad.too_many)
        elif _without(work, bad.pixels, bad.why):
            found = _one_pass(work)
    work.mean, work.total = np.asarray(found["mean"], dtype=np.float64), np.asarray(found["total"], dtype=np.float64)
    work.com = np.moveaxis(np.asarray(found["com"], dtype=np.float64), 0, -1)


def _without(work: Work, bad: np.ndarray, why: str) -> bool:
    """Leave pixels out, and say so. Return whether there are any that counted so far."""
    left = leave_out(work.cube, bad)
    if left is None:
        return False
    work.cube = left.cube
    work.said.append(f"{left.said}: {why}")
    return True


def _one_pass(work: Work) -> Any:
    """Return sums over the scan and over its patterns."""
    import gpu4d

    whole = gpu4d.detectors.from_array(np.ones(work.cube.detector_shape, bool))
    asked: dict[str, Any] = {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern(), "com": gpu4d.CenterOfMass()}
    asked["total"] = gpu4d.VirtualImage(whole)
    compute = work.recipe.compute
    with work.record.stage("mean pattern and centre of mass") as progress:
        return gpu4d.sweep(work.cube, asked, progress=progress, device=compute.device, memory=compute.memory)
