"""Find disks on smoothed correlation maps, by the rules of py4DSTEM: the operation behind `gpu4d.interop.py4dstem.accelerate`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays, fft
from gpu4d.bragg.correlation_map import powered
from gpu4d.bragg.find_disks import local_maxima, strongest_first
from gpu4d.errors import InputError
from gpu4d.operation import Twin, operation

SUBPIXEL = ("pixel", "poly", "multicorr")
TRUNCATE = 4.0  # standard deviations at which the Gaussian ends
REACH = 1.5  # pixels: side of the window whose samples "multicorr" compares


@dataclass(frozen=True)
class SmoothedSearch:
    """Rules of a search, in the words of py4DSTEM's `find_Bragg_disks`.

    Attributes
    ----------
    power : float
        Power of the correlation map: `corrPower`.
    smoothing : float
        Standard deviation of the Gaussian that smooths the map before maxima are looked for, pixels: `sigma_cc`.
    subpixel : {"pixel", "poly", "multicorr"}
        "poly": two one-dimensional parabolas on the smoothed map. "multicorr": largest sample at 1/`upsample` px of the map that is not
        smoothed, in a window about the "poly" position, and two parabolas on the samples.
    upsample : int
        Samples per pixel of "multicorr": `upsample_factor`.
    min_absolute, min_relative : float
        Least height of the smoothed map: `minAbsoluteIntensity`, and `minRelativeIntensity` times the height of peak `relative_to`.
    relative_to : int
        Number of this peak, 0 for the strongest: `relativeToPeak`.
    min_spacing : float
        Least distance of two disks, pixels: `minPeakSpacing`. The stronger one is kept.
    edge : int
        Rows and columns at the border without disks: `edgeBoundary`, and at least 1.
    max_peaks : int
        Most disks of a pattern: `maxNumPeaks`. The strongest are kept.

    Examples
    --------
    >>> SmoothedSearch(min_spacing=12).subpixel
    'multicorr'
    """

    power: float = 1.0
    smoothing: float = 2.0
    subpixel: str = "multicorr"
    upsample: int = 16
    min_absolute: float = 0.0
    min_relative: float = 0.005
    relative_to: int = 0
    min_spacing: float = 60.0
    edge: int = 20
    max_peaks: int = 70

    def __post_init__(self) -> None:
        for field in fields(self):  # NumPy scalars become Python numbers, as in all options of operations
            if field.name != "subpixel":
                kind = int if field.name in ("upsample", "relative_to", "edge", "max_peaks") else float
                object.__setattr__(self, field.name, kind(getattr(self, field.name)))
        if self.subpixel not in SUBPIXEL:
            raise InputError(f"subpixel={self.subpixel!r}: need one of {', '.join(map(repr, SUBPIXEL))}")
        if self.upsample < 1 or self.max_peaks < 1:
            raise InputError(f"upsample is {self.upsample} and max_peaks {self.max_peaks}: both must be 1 or more")


class SmoothedDisks(NamedTuple):
    """Disks of n patterns. Places after the last disk have NaN.

    Attributes
    ----------
    count : (n,) int64
    qx, qy : (n, max_peaks) float64, pixels
    intensity : (n, max_peaks) float64
        Value of the smoothed map at the pixel, or interpolated between pixels at the "poly" position.
    """

    count: Any
    qx: Any
    qy: Any
    intensity: Any


@operation(cpu=Twin("gpu4d.cpu_fallback.find_smoothed_disks"))
def find_smoothed_disks(patterns: Any, spectrum: Any, /, *, search: SmoothedSearch = SmoothedSearch()) -> SmoothedDisks:
    """Find the disks of many patterns on smoothed correlation maps.

    The map is max(F⁻¹[m |m|^(power - 1)], 0), smoothed. Its maxima over eight neighbours pass, in this order: border, absolute threshold,
    threshold relative to one peak, spacing (strongest first), and count. Disks are sorted by the height of their pixel, and those of
    "multicorr" by their intensity. The twin computes in float32.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real
    spectrum : (Qx, Qy // 2 + 1) complex128
        Complex conjugate of the half-plane transform of the kernel, whose centre is pixel (0, 0).
    search : SmoothedSearch

    Returns
    -------
    SmoothedDisks
        Empty for a pattern with a NaN or an infinity, and for one without counts.

    Examples
    --------
    >>> import numpy as np
    >>> pattern = np.zeros((1, 32, 32))
    >>> pattern[0, 12, 20] = 1.0
    >>> disks = find_smoothed_disks(pattern, np.ones((32, 17), complex), search=SmoothedSearch(edge=4))
    >>> disks.count.tolist(), disks.qx[0, 0].round(3).item(), disks.qy[0, 0].round(3).item()
    ([1], 12.0, 20.0)
    """
    xp = arrays.namespace(patterns, spectrum)
    nx, ny = patterns.shape[1:]
    x = arrays.as_float64(patterns)
    good = xp.all(xp.isfinite(x), axis=(-2, -1))[:, None, None]
    product = powered(fft.rfft2(xp.where(good, x, xp.zeros_like(x))) * spectrum, search.power)
    clipped = fft.irfft2(product, (nx, ny))
    smooth = _smoothed(xp.where(clipped > 0, clipped, xp.zeros_like(clipped)), search.smoothing)
    score = _candidates(smooth, search)
    px, py, count = strongest_first(score, search.min_spacing, search.max_peaks)
    found = xp.arange(search.max_peaks, dtype=count.dtype, device=arrays.device(count))[None, :] < count[:, None]
    px, py = xp.where(found, px, xp.ones_like(px)), xp.where(found, py, xp.ones_like(py))
    qx, qy = px, py
    if search.subpixel != "pixel":
        qx, qy = px + _parabola(smooth, px, py, 1, 0), py + _parabola(smooth, px, py, 0, 1)
    height = _between(smooth, qx, qy)
    if search.subpixel == "multicorr":
        qx, qy = largest_sample(product / (nx * ny), (nx, ny), qx, qy, search.upsample)
        order = xp.argsort(xp.where(found, -height, xp.full_like(height, float("inf"))), axis=-1, stable=True)
        qx, qy, height = (arrays.gather(v, order) for v in (qx, qy, height))
    nan = xp.full_like(height, float("nan"))
    return SmoothedDisks(count, *(xp.where(found, v, nan) for v in (qx, qy, height)))


def _candidates(smooth: Any, search: SmoothedSearch) -> Any:
    """Return the height of every maximum that passes border and thresholds, and -inf elsewhere."""
    xp = arrays.namespace(smooth)
    n, nx, ny = smooth.shape
    none = xp.full_like(smooth, -float("inf"))
    allowed = arrays.from_numpy(away_from_border((nx, ny), search.edge), smooth)
    score = xp.where(local_maxima(smooth) & allowed & (smooth >= search.min_absolute), smooth, none)
    ranked = xp.sort(xp.reshape(score, (n, nx * ny)), axis=-1, descending=True)
    standard = ranked[:, min(search.relative_to, nx * ny - 1)][:, None, None]
    return xp.where(score >= search.min_relative * xp.where(standard > 0, standard, xp.zeros_like(standard)), score, none)


def away_from_border(shape: tuple[int, int], edge: int) -> np.ndarray:
    """Return (Qx, Qy) bool: False in `edge` rows and columns at the border, and in at least one."""
    allowed = np.zeros(shape, dtype=bool)
    edge = max(1, edge)
    allowed[edge:-edge, edge:-edge] = True
    return allowed


@lru_cache(maxsize=16)
def smoothing_matrix(n: int, sigma: float) -> np.ndarray:
    """Return the (n, n) float64 matrix of a Gaussian filter of n samples. Beyond the ends samples are mirrored: c b a | a b c.

    Examples
    --------
    >>> smoothing_matrix(3, 0.5).round(2).tolist()
    [[0.89, 0.11, 0.0], [0.11, 0.79, 0.11], [0.0, 0.11, 0.89]]
    """
    radius = int(TRUNCATE * sigma + 0.5)
    away = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (away / sigma) ** 2) if sigma > 0 else np.ones(1)
    matrix = np.zeros((n, n))
    for step, weight in zip(away, weights / weights.sum()):
        at = np.mod(np.arange(n) + step, 2 * n)
        np.add.at(matrix, (np.arange(n), np.where(at < n, at, 2 * n - 1 - at)), weight)
    return matrix


def _smoothed(maps: Any, sigma: float) -> Any:
    if not sigma > 0:
        return maps
    xp = arrays.namespace(maps)
    left, right = (arrays.from_numpy(smoothing_matrix(n, sigma), maps) for n in maps.shape[-2:])
    return xp.matmul(xp.matmul(left, maps), xp.matrix_transpose(right))


def _pixel(maps: Any, px: Any, py: Any) -> Any:
    """Return the values at whole pixels (n, K)."""
    xp = arrays.namespace(maps, px)
    n, nx, ny = maps.shape
    return arrays.gather(xp.reshape(maps, (n, nx * ny)), xp.astype(px, xp.int64) % nx * ny + xp.astype(py, xp.int64) % ny)


def _parabola(maps: Any, px: Any, py: Any, dx: int, dy: int) -> Any:
    """Return how far the top of the parabola through a maximum and its two neighbours along one axis is away."""
    here, before, after = _pixel(maps, px, py), _pixel(maps, px - dx, py - dy), _pixel(maps, px + dx, py + dy)
    return _vertex(before, here, after)


def _vertex(before: Any, here: Any, after: Any) -> Any:
    xp = arrays.namespace(here)
    bend = 4 * here - 2 * before - 2 * after
    return xp.where(bend != 0, (after - before) / xp.where(bend != 0, bend, xp.ones_like(bend)), xp.zeros_like(bend))


def _between(maps: Any, x: Any, y: Any) -> Any:
    """Return the values between pixels, linear along each axis."""
    xp = arrays.namespace(maps, x)
    ix, iy = xp.floor(x), xp.floor(y)
    wx, wy = x - ix, y - iy
    near = (1 - wy) * _pixel(maps, ix, iy) + wy * _pixel(maps, ix, iy + 1)
    far = (1 - wy) * _pixel(maps, ix + 1, iy) + wy * _pixel(maps, ix + 1, iy + 1)
    return (1 - wx) * near + wx * far


def window_of(upsample: int) -> tuple[int, int]:
    """Return the samples along a side of the window of "multicorr", and how many of them lie before its centre."""
    side = math.ceil(REACH * upsample)
    return side, side // 2


def largest_sample(spectrum: Any, shape: tuple[int, int], x: Any, y: Any, upsample: int) -> tuple[Any, Any]:
    """Return the positions of the largest samples about (x, y), moved to the top of two parabolas unless they lie at the window's rim."""
    xp = arrays.namespace(spectrum, x)
    side, before = window_of(upsample)
    offset = (xp.arange(side, dtype=xp.float64, device=arrays.device(x)) - before) / upsample
    cx, cy = (xp.round(xp.round(v * 2) / 2 * upsample) / upsample for v in (x, y))
    kx, ky = fft.frequencies(shape[0], beside=x), fft.frequencies(shape[1], half=True, beside=x)
    twice = xp.where((ky == 0) | (xp.abs(ky) == 0.5), xp.ones_like(ky), 2 * xp.ones_like(ky))  # the other half plane
    # The wave of both Nyquist frequencies is cos π(x + y) here, and not cos πx cos πy, as in `interpolate`.
    even = shape[0] % 2 == shape[1] % 2 == 0
    corner = xp.real(spectrum[:, shape[0] // 2, shape[1] // 2])[:, None, None] * (1.0 if even else 0.0)
    ats, bests = [], []
    for k in range(x.shape[1]):  # one disk of all patterns after the other: windows of all at once would fill the memory
        sx, sy = cx[:, k, None] + offset[None, :], cy[:, k, None] + offset[None, :]
        along_x = _waves(kx, cx[:, k], offset)
        along_y = _waves(ky, cy[:, k], offset) * xp.astype(twice, spectrum.dtype)
        window = xp.real(xp.matmul(xp.matmul(along_x, spectrum), xp.matrix_transpose(along_y)))
        window = window - corner * xp.sin(math.pi * sx)[:, :, None] * xp.sin(math.pi * sy)[:, None, :]
        best = xp.argmax(xp.reshape(window, (-1, side * side)), axis=-1)
        ats.append(best)
        bests.append(_steps(window, best, side))
    i, j = xp.stack(ats, axis=-1) // side, xp.stack(ats, axis=-1) % side
    dx, dy = (xp.stack([step[axis] for step in bests], axis=-1) for axis in (0, 1))
    return tuple(c + (xp.astype(at, xp.float64) - before + d) / upsample for c, at, d in ((cx, i, dx), (cy, j, dy)))  # type: ignore[return-value]


def _steps(window: Any, best: Any, side: int) -> tuple[Any, Any]:
    """Return the steps to the top of the parabolas through a sample and its neighbours along both axes; 0 at the rim."""
    xp = arrays.namespace(window)
    px, py = (xp.astype(v, xp.float64)[:, None] for v in (best // side, best % side))
    inside = ((px > 0) & (px < side - 1) & (py > 0) & (py < side - 1))[:, 0]
    zero = xp.zeros_like(px[:, 0])
    return tuple(xp.where(inside, _parabola(window, px, py, *axis)[:, 0], zero) for axis in ((1, 0), (0, 1)))  # type: ignore[return-value]


def _waves(k: Any, centre: Any, offset: Any) -> Any:
    """Return exp(2πi k t) at t = centre + offset, (n, samples, frequencies). A Nyquist wave is cos(π t), so that maps stay real."""
    xp = arrays.namespace(k, centre)
    waves = _turned(k, centre)[:, None, :] * _turned(k, offset)[None, :, :]
    nyquist = xp.broadcast_to(xp.abs(k) == 0.5, waves.shape)
    real = xp.cos(math.pi * (centre[:, None] + offset[None, :]))[:, :, None]
    return xp.where(nyquist, xp.astype(xp.broadcast_to(real, waves.shape), waves.dtype), waves)


def _turned(k: Any, t: Any) -> Any:
    """Return exp(2πi k t), (points, frequencies)."""
    xp = arrays.namespace(k, t)
    phase = 2 * math.pi * k * t[:, None]
    return xp.astype(xp.cos(phase), xp.complex128) + 1j * xp.astype(xp.sin(phase), xp.complex128)
