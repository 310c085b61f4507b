"""Local lattices by py4DSTEM's rules: `StrainMap.fit_basis_vectors` and the functions beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gpu4d.interop.py4dstem._library import library
from gpu4d.interop.py4dstem._replacing import Given, Place, Replacement
from gpu4d.interop.py4dstem.disks import FIELDS, flat_lists, lists_of_rows

INDEXED = [*FIELDS, ("g1_ind", np.int64), ("g2_ind", np.int64)]
LABELS = ["x0", "y0", "g1x", "g1y", "g2x", "g2y", "error", "mask"]
LEAST = 5  # disks at a position of a strain map that has a fit
AT_A_TIME = 1 << 20  # distances between disks and nodes that are in memory together


def replacements() -> Iterable[Replacement]:
    """Return what replaces indexing and fitting. Strain from the fitted vectors is quick in py4DSTEM, and stays."""
    module, strain = library("py4DSTEM.process.strain.latticevectors"), library("py4DSTEM.process.strain.strain")
    yield Replacement(Place(strain.StrainMap, "fit_basis_vectors"), _no_basis, _fit_basis_vectors)
    yield Replacement(Place(module, "add_indices_to_braggvectors"), _no_vectors, _add_indices)
    yield Replacement(Place(module, "fit_lattice_vectors_all_DPs"), _no_lists, _fit_all)


def _no_basis(given: Given) -> str | None:
    strainmap = given["self"]
    if not hasattr(strainmap, "braggdirections"):
        return "the basis vectors were not chosen"
    if given["max_peak_spacing"] is None and not hasattr(strainmap, "max_peak_spacing"):
        return "the largest distance of disks from the lattice was not set"
    return _no_mask(given["mask"], strainmap.braggvectors.Rshape)


def _no_vectors(given: Given) -> str | None:
    vectors = given["braggpeaks"]
    return _no_mask(given["mask"], vectors.Rshape) if hasattr(vectors, "raw") else "the disks are no BraggVectors"


def _no_mask(mask: Any, shape: tuple[int, int]) -> str | None:
    """Return why a mask is none of positions, which py4DSTEM refuses, or None."""
    if mask is None or (isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == tuple(shape)):
        return None
    return "the mask is no array of bool in the shape of the scan"


def _no_lists(given: Given) -> str | None:
    names = getattr(given["braggpeaks"], "dtype", np.dtype(float)).names or ()
    if not {"qx", "qy", "intensity", "g1_ind", "g2_ind"} <= set(names):
        return "the disks have no indices g1_ind and g2_ind"
    return "the disks have an index_mask" if "index_mask" in names else None


def _fit_basis_vectors(own: Callable[..., Any], given: Given) -> Any:
    strainmap = given["self"]
    vectors, shape = strainmap.braggvectors, tuple(strainmap.braggvectors.Rshape)
    if given["max_peak_spacing"] is not None:
        strainmap.set_max_peak_spacing(given["max_peak_spacing"], **given["vis_params"])
    mask = np.ones(shape, bool) if given["mask"] is None else given["mask"]
    state = vectors.calstate
    offsets, rows = calibrated(vectors, center=state["center"], ellipse=state["ellipse"], pixel=False, rotate=state["rotate"])
    offsets, rows = _indexed(offsets, rows, strainmap.braggdirections.data, strainmap.max_peak_spacing, mask)
    fits = _fits(offsets, rows, shape, LEAST)
    strainmap.mask = fits[7] > 0  # the mean over it is the reference of the strain, so no position without a fit may be in it
    strainmap.bragg_vectors_indexed = lists_of_rows(rows, offsets, shape)
    strainmap.g1g2_map = _map_of(fits)
    return (strainmap.bragg_vectors_indexed, strainmap.g1g2_map) if given["returncalc"] else None


def _add_indices(own: Callable[..., Any], given: Given) -> Any:
    vectors = given["braggpeaks"]
    shape, state = tuple(vectors.Rshape), vectors.calstate
    offsets, rows = calibrated(vectors, **state)
    rows["qx"] -= given["qx_shift"]
    rows["qy"] -= given["qy_shift"]
    mask = np.ones(shape, bool) if given["mask"] is None else given["mask"]
    offsets, rows = _indexed(offsets, rows, given["lattice"].data, given["maxPeakSpacing"], mask)
    return lists_of_rows(rows, offsets, shape)


def _fit_all(own: Callable[..., Any], given: Given) -> Any:
    lists = given["braggpeaks"]
    shape = tuple(lists.shape)
    offsets, rows = flat_lists(lists, shape)
    found = _fits(offsets, rows, shape, given["minNumPeaks"])
    for number, name in enumerate(("x0", "y0")):
        found[number] -= np.where(found[7] > 0, given[name], 0)
    return _map_of(found)


def calibrated(vectors: Any, *, center: bool, ellipse: bool, pixel: bool, rotate: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets and rows (qx, qy, intensity) of all Bragg vectors, calibrated by py4DSTEM's formulas.

    They are origin, ellipse, pixel size, then rotation of (qx, qy), or of (qy, qx) if the axes are exchanged.
    """
    shape, calibration = tuple(vectors.Rshape), vectors.calibration
    offsets, raw = flat_lists(vectors.raw, shape)
    q = np.stack([raw["qx"], raw["qy"]], -1)
    if center:
        origin = np.stack([np.broadcast_to(v, shape).reshape(-1) for v in calibration.get_origin()], -1)
        q -= np.repeat(origin, np.diff(offsets), axis=0)
    if ellipse:
        a, b, theta = (np.broadcast_to(v, shape).reshape(-1) for v in calibration.get_ellipse())
        major = np.repeat(np.stack([np.cos(theta), np.sin(theta), 1 - b / a], -1), np.diff(offsets), axis=0)
        along = (q * major[:, :2]).sum(1) * major[:, 2]
        q -= along[:, None] * major[:, :2]
    if pixel:
        q *= calibration.get_Q_pixel_size()
    if rotate:
        angle = calibration.get_QR_rotation()
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        q = (q[:, ::-1] if calibration.get_QR_flip() else q) @ turn.T
    rows = np.empty(len(raw), FIELDS)
    rows["qx"], rows["qy"], rows["intensity"] = q[:, 0], q[:, 1], raw["intensity"]
    return offsets, rows


def _indexed(offsets: np.ndarray, rows: np.ndarray, nodes: np.ndarray, reach: float, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets and rows of the disks nearer than `reach` to a node, with the indices of that node, at positions of the mask."""
    nearest, near = np.zeros(len(rows), np.int64), np.zeros(len(rows), bool)
    step = max(1, AT_A_TIME // max(1, len(nodes)))
    for at in range(0, len(rows) if len(nodes) else 0, step):
        part = slice(at, at + step)
        square = (rows["qx"][part, None] - nodes["qx"]) ** 2 + (rows["qy"][part, None] - nodes["qy"]) ** 2
        nearest[part] = square.argmin(1)
        near[part] = square.min(1) < reach**2
    position = np.repeat(np.arange(mask.size), np.diff(offsets))
    near &= mask.reshape(-1)[position]
    kept = np.empty(int(near.sum()), INDEXED)
    for name, _ in FIELDS:
        kept[name] = rows[name][near]
    kept["g1_ind"], kept["g2_ind"] = nodes["g1_ind"][nearest[near]], nodes["g2_ind"][nearest[near]]
    counts = np.bincount(position[near], minlength=mask.size)
    return np.concatenate([[0], np.cumsum(counts)]), kept


def _fits(offsets: np.ndarray, rows: np.ndarray, shape: tuple[int, ...], least: int) -> np.ndarray:
    """Fit q = x₀ + h g1 + k g2 at every position, rows weighted by the intensity: (8, Rx, Ry), in the order of LABELS; 0 without a fit.

    The error is the mean distance of the disks from the lattice, weighted by their intensity.
    """
    n = int(np.prod(shape))
    position = np.repeat(np.arange(n), np.diff(offsets))
    design = np.stack([np.ones(len(rows)), rows["g1_ind"], rows["g2_ind"]], -1)
    q, weight = np.stack([rows["qx"], rows["qy"]], -1), rows["intensity"]
    per_position = lambda values: np.bincount(position, values, n)  # noqa: E731
    square = weight**2
    normal = np.stack([per_position(square * design[:, i] * design[:, j]) for i in range(3) for j in range(3)], -1).reshape(n, 3, 3)
    right = np.stack([per_position(square * design[:, i] * q[:, c]) for i in range(3) for c in range(2)], -1).reshape(n, 3, 2)
    good = np.diff(offsets) >= least
    flat = np.linalg.matrix_rank(normal) < 3
    solved = np.empty((n, 3, 2))
    solved[~flat] = np.linalg.solve(normal[~flat], right[~flat])
    if flat.any():  # disks on one line: the shortest solution, as least squares give it
        solved[flat] = np.linalg.pinv(normal[flat], hermitian=True) @ right[flat]
    away = np.hypot(*(q - np.einsum("pi,pic->pc", design, solved[position])).T)
    total = per_position(weight)
    error = per_position(weight * away) / np.where(total > 0, total, 1)
    parts = [solved[:, 0, 0], solved[:, 0, 1], solved[:, 1, 0], solved[:, 1, 1], solved[:, 2, 0], solved[:, 2, 1], error]
    return np.stack([*(np.where(good, part, 0.0) for part in parts), good.astype(float)]).reshape(8, *shape)


def _map_of(values: np.ndarray) -> Any:
    return library("py4DSTEM.data").RealSlice(data=values, slicelabels=LABELS, name="g1g2_map")
