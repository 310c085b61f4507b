"""Bragg disks by py4DSTEM's rules: `find_Bragg_disks`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from gpu4d import fft
from gpu4d.bragg.find_smoothed_disks import SUBPIXEL, SmoothedDisks, SmoothedSearch, find_smoothed_disks
from gpu4d.device.threads import in_threads
from gpu4d.interop.py4dstem._library import library
from gpu4d.interop.py4dstem._replacing import Given, Place, Replacement, no_array, set_options
from gpu4d.interop.py4dstem.disks import FIELDS, lists_of_rows

PIECE = 128  # patterns that a thread searches at a time
UNTOUCHED = {"radial_bksb": False, "filter_function": None, "CUDA": False, "distributed": None, "ML": False}

NUMBERS = ("corrPower", "sigma_cc", "minAbsoluteIntensity", "minRelativeIntensity", "minPeakSpacing")
WHOLE = {"relativeToPeak": 0, "edgeBoundary": 0, "maxNumPeaks": 1, "upsample_factor": 3}  # and from where on they mean the same


def replacements() -> Iterable[Replacement]:
    """Return what replaces py4DSTEM's search. Its DataCube calls the same function, and keeps metadata and tree itself."""
    yield Replacement(Place(library("py4DSTEM.braggvectors.diskdetection"), "find_Bragg_disks"), _refuses, _find)


def _refuses(given: Given) -> str | None:
    reason = set_options(given, UNTOUCHED)
    if reason is not None:
        return reason
    template, data = given["template"], given["data"]
    if not isinstance(template, np.ndarray) or template.ndim != 2 or template.dtype.kind not in "biuf":
        return "the template is no real array (Qx, Qy)"
    if given["subpixel"] not in SUBPIXEL:
        return f"subpixel={given['subpixel']!r} is not known"
    reason = _unusual_number(given)
    if reason is not None:
        return reason
    patterns = data[0] if isinstance(data, tuple) else data
    patterns = patterns if isinstance(patterns, np.ndarray) else getattr(patterns, "data", None)
    reason = no_array(patterns)
    if reason is None and tuple(patterns.shape[-2:]) != template.shape:  # type: ignore[union-attr]
        reason = "template and patterns differ in shape"
    if reason is None and isinstance(data, tuple) and not _inside(data[1:], patterns.shape):  # type: ignore[union-attr]
        reason = "a position lies outside the scan"
    return reason


def _unusual_number(given: Given) -> str | None:
    """Return which number py4DSTEM refuses, or has a rule of its own for, or None."""
    for name in NUMBERS:
        if not isinstance(given[name], int | float | np.number):
            return f"{name} is no number"
    for name, least in WHOLE.items():
        if not isinstance(given[name], int | np.integer) or given[name] < least:
            return f"{name}={given[name]} is no whole number from {least} on"
    if not 0 <= given["corrPower"] <= 1:
        return "corrPower is not from 0 to 1"
    return None if given["sigma"] is None or isinstance(given["sigma"], int | float | np.number) else "sigma is no number"


def _inside(positions: tuple[Any, Any], shape: tuple[int, ...]) -> bool:
    """Say whether positions along both axes of the scan exist. Negative ones count from the end."""
    return all(np.all((-n <= np.asarray(at)) & (np.asarray(at) < n)) for at, n in zip(positions, shape))


def _find(own: Callable[..., Any], given: Given) -> Any:
    """Find disks, and return them in the type that py4DSTEM returns for these data."""
    data = given["data"]
    search, spectrum = _search_of(given), np.conj(fft.rfft2(np.asarray(given["template"], dtype=np.float64)))
    if isinstance(data, np.ndarray):
        found = _rows(data.reshape(-1, *data.shape[-2:]), given, search, spectrum)
        return _points(found)[0] if data.ndim == 2 else _points(found)
    if isinstance(data, tuple):
        cube, rx, ry = data
        patterns = np.stack([cube.data[x, y] for x, y in zip(np.atleast_1d(rx), np.atleast_1d(ry))])
        points = _points(_rows(patterns, given, search, spectrum))
        return points[0] if np.ndim(rx) == 0 else points
    shape = tuple(int(n) for n in data.data.shape)
    found = list(in_threads(lambda piece: _rows_of(piece, given, search, spectrum), _pieces(data.data)))
    rows = np.concatenate([part for part, _ in found])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([counts for _, counts in found]))])
    vectors = library().BraggVectors(shape[:2], shape[2:])
    vectors.set_raw_vectors(lists_of_rows(rows, offsets, shape[:2], "_v_uncal"))
    return vectors


def _pieces(data: np.ndarray) -> list[np.ndarray]:
    """Return patterns (n, Qx, Qy), some at a time, without a copy."""
    rows = [data.reshape(-1, *data.shape[2:])] if data.flags.c_contiguous else list(data)
    return [row[at : at + PIECE] for row in rows for at in range(0, len(row), PIECE)]


def _search_of(given: Given) -> SmoothedSearch:
    """Return the rules in our words. `sigma` is another name of `sigma_cc`."""
    smoothing = given["sigma_cc"] if given["sigma"] is None else given["sigma"]
    shape = given["template"].shape
    return SmoothedSearch(
        power=given["corrPower"],
        smoothing=max(0.0, smoothing or 0.0),
        subpixel=given["subpixel"],
        upsample=given["upsample_factor"],
        min_absolute=given["minAbsoluteIntensity"],
        min_relative=given["minRelativeIntensity"],
        relative_to=given["relativeToPeak"],
        min_spacing=given["minPeakSpacing"],
        edge=given["edgeBoundary"],
        max_peaks=min(int(given["maxNumPeaks"]), shape[0] * shape[1] // 4 + 1),
    )


def _rows(patterns: np.ndarray, given: Given, search: SmoothedSearch, spectrum: np.ndarray) -> list[np.ndarray]:
    """Return the rows (qx, qy, intensity) of each pattern (n, Qx, Qy)."""
    pieces = [patterns[i : i + PIECE] for i in range(0, len(patterns), PIECE)]
    found = list(in_threads(lambda piece: _rows_of(piece, given, search, spectrum), pieces))
    return [part for rows, counts in found for part in np.split(rows, np.cumsum(counts)[:-1])]


def _rows_of(patterns: np.ndarray, given: Given, search: SmoothedSearch, spectrum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of some patterns together, and how many each has."""
    sigma = given["sigma_dp"]
    if sigma:  # in the dtype of the patterns, as py4DSTEM does it: whole numbers stay whole
        patterns = gaussian_filter(patterns, (0, sigma, sigma))
    return _table(find_smoothed_disks(patterns, spectrum, search=search))


def _table(disks: SmoothedDisks) -> tuple[np.ndarray, np.ndarray]:
    kept = np.arange(disks.qx.shape[1])[None, :] < disks.count[:, None]
    rows = np.empty(int(disks.count.sum()), FIELDS)
    for name, _ in FIELDS:
        rows[name] = getattr(disks, name)[kept]
    return rows, disks.count


def _points(rows: list[np.ndarray]) -> list[Any]:
    made = library("py4DSTEM.data").QPoints
    return [made(part) for part in rows]
