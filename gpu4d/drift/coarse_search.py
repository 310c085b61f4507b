"""Search for the steady drift and the displacement of two scans from scratch: by correlation, coarse to fine."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are used

from gpu4d import fft
from gpu4d.drift.scan_frame import ScanFrame

LARGEST = 64  # values a side of the pictures in which all drifts are tried; larger ones are binned first
COARSE = 2.0  # values: from one tried drift to the next. Half of it is the largest error at the ends of the scan, less than a detail
KEPT = 5  # of the tried drifts: how many are refined
LEAST_OVERLAP = 0.2  # of a scan: displacements that leave less are not believed
APART = 3.0  # values: maxima nearer than this are the same


@dataclass(frozen=True)
class SteadyDrift:
    """A drift that makes two scans agree.

    Attributes
    ----------
    drift : (2,) float64
        How far the place under the beam moves from the start of a scan to its end. Steps of the first scan.
    displacement : (2,) float64
        Of the second scan's middle from the first one's, steps of the first scan.
    correlation : float
        Of both pictures.
    rival : float
        Largest correlation at another displacement, with this drift, over this one.
    """

    drift: np.ndarray
    displacement: np.ndarray
    correlation: float
    rival: float


def search(frames: list[ScanFrame], pictures: list[np.ndarray], farthest: float) -> SteadyDrift:
    """Search for the drift, the same in both scans, up to `farthest` steps a scan, and the displacement, up to half a scan.

    Parameters
    ----------
    frames : list of two ScanFrame
    pictures : list of two (nx, ny, n) float64
        Filtered, with mean 0, 0 where missing.
    """
    side = max(max(frame.shape) for frame in frames)
    level = 2 ** max(0, math.ceil(math.log2(side / LARGEST)))
    number = math.floor(farthest / (COARSE * level))
    line = COARSE * level * np.arange(-number, number + 1)
    tried: list[np.ndarray] = [np.array(v) for v in itertools.product(line, line) if math.hypot(*v) <= farthest + 1e-9]
    while True:
        views = [_binned(picture, level) for picture in pictures]
        found = sorted(((*_best(frames, views, level, v), v) for v in tried), key=lambda each: -each[0])
        spacing = COARSE * level / 2
        tried = [v + spacing * np.array(d) for *_, v in found[:KEPT] for d in itertools.product((-1, 0, 1), repeat=2)]
        found = sorted([*found, *((*_best(frames, views, level, v), v) for v in tried)], key=lambda each: -each[0])
        if level == 1:
            _, displacement, correlation, rival, v = found[0]
            return SteadyDrift(v, displacement, correlation, rival)
        level //= 2
        tried = [v for *_, v in found[:KEPT]]


def _binned(picture: np.ndarray, by: int) -> np.ndarray:
    """Return means over blocks of by × by values, planes first (n, nx, ny)."""
    nx, ny = (n // by for n in picture.shape[:2])
    cells = picture[: nx * by, : ny * by].reshape(nx, by, ny, by, -1)
    return np.ascontiguousarray(np.moveaxis(cells.mean((1, 3)), -1, 0))


def steady_matrix(frame: ScanFrame, drift: np.ndarray) -> np.ndarray:
    """Return the matrix (2, 2) of places relative to the middle, for numbers of positions, with a steady drift over the scan."""
    when = np.zeros(2)
    when[1 - frame.fast] = 1 / frame.rows
    when[frame.fast] = 1 / (frame.rows * frame.shape[frame.fast])
    return frame.matrix + np.outer(drift, when)


def _best(frames: list[ScanFrame], views: list[np.ndarray], level: int, drift: np.ndarray) -> tuple[float, np.ndarray, float, float]:
    """Return how much better than nothing the best displacement is, itself, its correlation, and the next one's share of that."""
    corners = np.array(list(itertools.product((-0.5, 0.5), repeat=2)))
    reach = [np.abs(corners * frame.shape @ steady_matrix(frame, drift).T).max(0) for frame in frames]
    half = np.ceil(np.max(reach, axis=0) / level).astype(int)
    shape = [fft.next_fast_len(int(4 * h + 2), real=True) for h in half]  # twice the picture: nothing is wrapped round
    moved, masks = zip(*(_in_place(frame, view, level, drift, half, shape) for frame, view in zip(frames, views)))
    spectra, covered = [fft.rfft2(each) for each in moved], [fft.rfft2(each) for each in masks]
    energy = [fft.rfft2((each**2).sum(0)) for each in moved]
    product = [(spectra[0] * np.conj(spectra[1])).sum(0), energy[0] * np.conj(covered[1]), covered[0] * np.conj(energy[1])]
    top, left, right, overlap = (fft.irfft2(each, (shape[0], shape[1])) for each in (*product, covered[0] * np.conj(covered[1])))
    lags = [np.where(np.arange(n) > n // 2, np.arange(n) - n, np.arange(n)) for n in shape]
    enough = (overlap > LEAST_OVERLAP * masks[0].sum()) & (left > 1e-9 * left.max()) & (right > 1e-9 * right.max())
    near = np.hypot(lags[0][:, None], lags[1]) <= half.max()
    size = np.where(enough & near, top / np.sqrt(np.where(enough, left * right, 1.0)), 0.0)
    score = -overlap * np.log1p(-(np.clip(size, 0, 0.999999) ** 2))
    at = np.unravel_index(int(score.argmax()), score.shape)
    best = np.array([lags[0][at[0]], lags[1][at[1]]], dtype=float)
    peaks = (size >= scipy.ndimage.maximum_filter(size, 3, mode="wrap")) & (np.hypot(lags[0][:, None] - best[0], lags[1] - best[1]) > APART)
    rival = float(size[peaks].max(initial=0.0) / size[at]) if size[at] > 0 else math.inf
    return float(score[at]) * level**2, best * level, float(size[at]), rival


def _in_place(
    frame: ScanFrame, view: np.ndarray, level: int, drift: np.ndarray, half: np.ndarray, shape: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture (n, *shape) on a grid of places with its middle at `half`, 0 outside the scan, and where it is (*shape)."""
    inverse = np.linalg.inv(steady_matrix(frame, drift))  # of a place on the grid, in values: the same for any level
    middle = ((np.array(frame.shape) - 1) / 2 - (level - 1) / 2) / level
    offset = middle - inverse @ half
    size = tuple(int(2 * h + 1) for h in half)
    planes = [scipy.ndimage.affine_transform(plane, inverse, offset, size, order=1, cval=0.0) for plane in view]
    inside = scipy.ndimage.affine_transform(np.ones(view.shape[1:]), inverse, offset, size, order=1, cval=0.0)
    room = [(0, n - m) for n, m in zip(shape, size)]
    return np.pad(np.stack(planes), [(0, 0), *room]), np.pad((inside > 0.5).astype(float), room)
