"""The vacuum probe of a run: named, averaged over a vacuum region, or made like the bright-field disk."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d.data.datacube import diffraction_slice
from gpu4d.workflow import inputs
from gpu4d.workflow.analysis import Analysis


def measured(a: Analysis) -> np.ndarray | None:
    """The probe that was handed in, or that of the vacuum region; None where neither is named."""
    import gpu4d

    region = a.recipe.probe.vacuum_region
    if a.given_probe is not None:
        a.probe_origin = f"image {a.recipe.probe.file}" if a.recipe.probe.file else "given"
        return a.given_probe
    if region is None:
        return None
    where = inputs.region_mask(region, a.cube.scan_shape, "probe.vacuum_region")
    image = np.asarray(gpu4d.probe.from_vacuum(a.cube, where, **a.sweep_options))
    a.probe_origin = f"aligned mean of {int(where.sum())} patterns in vacuum"
    return np.where(np.isfinite(image), image, 0.0)


def synthetic(a: Analysis, disk: Any) -> np.ndarray:
    """A disk like a measured one."""
    import gpu4d

    a.probe_origin = f"synthetic disk like the bright-field disk: radius {disk.radius:.2f} px, edge {disk.edge:.2f} px"
    return gpu4d.probe.synthetic(a.cube.detector_shape, disk.radius, center=(disk.qx, disk.qy), edge=max(disk.edge, 0.5))


def use(a: Analysis, image: np.ndarray) -> None:
    """Make the template of a probe."""
    import gpu4d

    a.template = gpu4d.probe.template(image, kind=a.recipe.probe.template)
    a.products["probe"] = diffraction_slice(a.template.probe, "probe", "counts", a.calibration)
