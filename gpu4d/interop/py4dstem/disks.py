"""Probes and Bragg vectors of py4DSTEM in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.pointlist import PointListArray
from gpu4d.errors import InputError
from gpu4d.interop.py4dstem._library import check_kind, library
from gpu4d.interop.py4dstem.scans import to_calibration
from gpu4d.probe.template_kernel import Template, template

if TYPE_CHECKING:
    import py4DSTEM

FIELDS = [("qx", np.float64), ("qy", np.float64), ("intensity", np.float64)]
UNITS = {"qx": "px", "qy": "px", "intensity": "counts/px"}


def template_from_probe(probe: py4DSTEM.Probe, *, kernel: bool = True) -> Template:
    """Return a probe of py4DSTEM as a template.

    Parameters
    ----------
    probe : py4DSTEM.Probe
    kernel : bool
        True takes the kernel that the probe has, unchanged, so that correlations are those of py4DSTEM. False makes a kernel of its vacuum
        image, as `gpu4d.probe.template` does. A probe without a kernel gets one anyway.

    Returns
    -------
    Template
        Its `probe` is the vacuum image, so that the likelihood can be fitted.

    Raises
    ------
    InputError
        It is no Probe of py4DSTEM.

    Examples
    --------
    >>> gpu4d.find_bragg_disks(cube, gpu4d.interop.py4dstem.template_from_probe(probe))  # doctest: +SKIP
    """
    check_kind(probe, "Probe", "probe")
    image = np.asarray(probe.probe, dtype=np.float64)
    found = np.asarray(probe.kernel, dtype=np.float64)
    made = template(image)
    if not kernel or not found.any():
        return made
    return Template(found, (0.0, 0.0), made.radius, made.edge, "kernel", image)


def to_probe(given: Template) -> py4DSTEM.Probe:
    """Return a template as a probe of py4DSTEM, with its kernel.

    Parameters
    ----------
    given : Template

    Returns
    -------
    py4DSTEM.Probe
        Without a vacuum image in the template, the probe is the positive part of the kernel, moved to the middle. A part-pixel offset of
        the template is not in the kernel: positions that py4DSTEM finds with it are smaller by `template.offset`.

    Raises
    ------
    InputError
        It is no Template, or py4DSTEM is not installed.

    Examples
    --------
    >>> gpu4d.interop.py4dstem.to_probe(gpu4d.probe.template(image)).kernel.shape  # doctest: +SKIP
    (128, 128)
    """
    py4dstem = library()
    if not isinstance(given, Template):
        raise InputError(f"template is a {type(given).__name__}: need a Template, as gpu4d.probe.template gives")
    middle = tuple(n // 2 for n in given.shape)
    image = np.roll(np.maximum(given.kernel, 0), middle, axis=(0, 1)) if given.probe is None else given.probe
    made = py4dstem.Probe(np.array(image, dtype=np.float64))
    made.kernel = np.array(given.kernel, dtype=np.float64)
    return made


def from_braggvectors(braggvectors: py4DSTEM.BraggVectors) -> PointListArray:
    """Return the raw Bragg vectors of py4DSTEM as lists of disks.

    Parameters
    ----------
    braggvectors : py4DSTEM.BraggVectors
        Its calibration stays with it: `from_calibration(braggvectors.calibration)`.

    Returns
    -------
    PointListArray
        Fields qx, qy (detector pixels) and intensity, of shape (Rx, Ry). It has no standard errors, because py4DSTEM measures none.

    Raises
    ------
    InputError
        They are no BraggVectors of py4DSTEM.

    Examples
    --------
    >>> disks = gpu4d.interop.py4dstem.from_braggvectors(braggvectors)  # doctest: +SKIP
    """
    check_kind(braggvectors, "BraggVectors", "braggvectors")
    shape = tuple(int(n) for n in braggvectors.Rshape)
    offsets, rows = flat_lists(braggvectors.raw, shape)
    return PointListArray(offsets, {name: np.ascontiguousarray(rows[name]) for name, _ in FIELDS}, shape, UNITS)


def flat_lists(lists: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets (positions + 1,) and all rows of lists of py4DSTEM, position after position."""
    parts = [lists[i, j].data for i, j in np.ndindex(*shape)]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
    return offsets, np.concatenate(parts) if parts else np.zeros(0, FIELDS)


def lists_of_rows(rows: np.ndarray, offsets: np.ndarray, shape: tuple[int, ...], name: str = "pointlistarray") -> Any:
    """Return rows as a PointListArray of py4DSTEM."""
    made = library().PointListArray(dtype=rows.dtype, shape=shape, name=name)
    for number, (i, j) in enumerate(np.ndindex(*shape)):
        made[i, j].data = rows[offsets[number] : offsets[number + 1]].copy()
    return made


def to_braggvectors(
    disks: PointListArray, detector_shape: tuple[int, int], calibration: Calibration | None = None, *, name: str = "braggvectors"
) -> py4DSTEM.BraggVectors:
    """Return lists of disks as BraggVectors of py4DSTEM.

    Parameters
    ----------
    disks : PointListArray of shape (Rx, Ry)
        Fields qx, qy and intensity. Others are left out.
    detector_shape : (int, int)
        (Qx, Qy), which py4DSTEM keeps with the vectors.
    calibration : Calibration, optional
        It is given to the vectors. What it knows of origin, ellipse, pixel and rotation is switched on, by py4DSTEM's `setcal`.
    name : str

    Returns
    -------
    py4DSTEM.BraggVectors

    Raises
    ------
    InputError
        The lists have other axes or lack a field, or py4DSTEM is not installed.

    Examples
    --------
    >>> gpu4d.interop.py4dstem.to_braggvectors(disks, cube.detector_shape, cube.calibration)  # doctest: +SKIP
    """
    py4dstem = library()
    if not isinstance(disks, PointListArray) or len(disks.shape) != 2:
        raise InputError(f"disks are a {type(disks).__name__}: need a PointListArray of shape (Rx, Ry), as find_bragg_disks gives")
    host = disks.to_host()
    rows = np.empty(len(host), FIELDS)
    for field, _ in FIELDS:
        rows[field] = host.flat(field)
    made = py4dstem.BraggVectors(host.shape, tuple(int(n) for n in detector_shape), name=name)
    made.set_raw_vectors(lists_of_rows(rows, np.asarray(host.offsets), host.shape, "_v_uncal"))
    if calibration is not None:
        to_calibration(calibration, made.calibration)
        known = calibration.known()
        made.setcal(center="origin" in known, ellipse="ellipse" in known, pixel="q_pixel" in known, rotate="rotation" in known)
    return made
