"""Refine all peaks of many maps at once, and compute their standard errors: operations with arrays as arguments."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.bragg.find_disks import Maps
from gpu4d.bragg.refine import position_errors, refine_positions
from gpu4d.operation import Twin, operation

WIDEST = 128  # samples per pixel: the window of the kernel would not fit into 64 kB with more


def _too_fine(*given: Any, mode: str | None = "correlation", upsample: int = 16, **_: Any) -> str | None:
    """Return why the kernel cannot take this `upsample`, or None."""
    mode, upsample = (*given[4:6], *(mode, upsample)[len(given[4:6]) :])  # type: ignore[misc]
    return f"the kernel's window has at most {WIDEST} samples a pixel" if mode == "upsample" and upsample > WIDEST else None


@operation(cuda=Twin("gpu4d.kernels.refine_disks", check=_too_fine), cpu=Twin("gpu4d.cpu_fallback.refine_disks"))
def refine_disks(
    maps: Any, px: Any, py: Any, count: Any, /, mode: str | None = "correlation", upsample: int = 16, climb: bool = False
) -> tuple[Any, Any, Any]:
    """Find sub-pixel positions and heights of maxima of periodic maps.

    The maximum of the trigonometric interpolation is found by Newton steps on its exact value, gradient and Hessian. The twins take
    two steps from the maximum of the parabola. They end 2e-5 px from the limit.

    Parameters
    ----------
    maps : (n, Qx, Qy) real
    px, py : (n, K) int
        Whole pixels of the maxima.
    count : (n,) int
        Number of peaks among the K places.
    mode : {"correlation", "upsample", "parabola", None}
        As `refine` of `find_bragg_disks`.
    upsample : int
        Samples per pixel of "upsample".
    climb : bool
        True if the pixels are maxima of another map. Then go uphill to a maximum of this map first.

    Returns
    -------
    x, y, height : (n, K) float64
        NaN after the last peak.

    Examples
    --------
    >>> import numpy as np
    >>> i = np.arange(16)
    >>> map = (np.cos(np.pi / 8 * (i - 5.3))[:, None] + np.cos(np.pi / 8 * (i - 8.9))[None, :])[None]
    >>> x, y, height = refine_disks(map, np.asarray([[5]]), np.asarray([[9]]), np.asarray([1]))
    >>> round(float(x[0, 0]), 3), round(float(y[0, 0]), 3), round(float(height[0, 0]), 3)
    (5.3, 8.9, 2.0)
    """
    xp = arrays.namespace(maps, px, py, count)
    found = _found(count, px.shape[1])
    wx, wy = (arrays.as_float64(xp.where(found, p, xp.zeros_like(p))) for p in (px, py))
    refined = refine_positions(arrays.as_float64(maps), wx, wy, mode, upsample, climb=climb)
    nan = xp.full_like(wx, float("nan"))
    return tuple(xp.where(found, v, nan) for v in refined)  # type: ignore[return-value]


@operation(cuda=Twin("gpu4d.kernels.refine_disks"), cpu=Twin("gpu4d.cpu_fallback.refine_disks"))
def peak_errors(counts: Any, cross: Any, box: Any, x: Any, y: Any, count: Any, /, grid: bool = False) -> tuple[Any, Any]:
    """Compute the standard errors of maxima of n = 1 maps, from the counts.

    Cov = H⁻¹ G H⁻¹, with H the Hessian of the map at the maximum, and G = Σ I(q) ∇K ∇Kᵀ(q - r) the Poisson noise of its gradient.

    Parameters
    ----------
    counts : (n, Qx, Qy) real
        The patterns. Values that are not positive are taken as 0.
    cross : (n, Qx, Qy) real
        Their n = 1 maps.
    box : (4, 2 hx + 1, 2 hy + 1) real
        K², Kx², Kx Ky, Ky² of the template around its centre. The box must not be larger than the detector.
    x, y : (n, K) real
        Positions, pixels.
    count : (n,) int
        Number of peaks among the K places.
    grid : bool
        True if positions are whole pixels. Then 1/12 px² is added to the variances.

    Returns
    -------
    sx, sy : (n, K) float64, pixels
        NaN after the last peak, and where the map has no maximum.

    Examples
    --------
    >>> import numpy as np
    >>> i = np.arange(16)
    >>> cross = (np.cos(np.pi / 8 * (i - 5))[:, None] + np.cos(np.pi / 8 * (i - 9))[None, :])[None]
    >>> box, at = np.ones((4, 3, 3)) * np.asarray([1, 1, 0, 1])[:, None, None], np.asarray([[5.0]])
    >>> sx, sy = peak_errors(np.ones((1, 16, 16)), cross, box, at, at + 4, np.asarray([1]))
    >>> round(float(sx[0, 0]), 2) == round(3 / (np.pi / 8) ** 2, 2)
    True
    """
    xp = arrays.namespace(counts, cross, box, x, y, count)
    nx, ny = cross.shape[-2:]
    found = _found(count, x.shape[1])
    at_x, at_y = (arrays.as_float64(xp.where(found, v, xp.zeros_like(v))) for v in (x, y))
    width, height = box.shape[1:]
    wide = xp.zeros((4, width, ny - height), dtype=xp.float64, device=arrays.device(box))
    full = xp.concat([arrays.as_float64(box), wide], axis=2)
    full = xp.concat([full, xp.zeros((4, nx - width, ny), dtype=xp.float64, device=arrays.device(box))], axis=1)
    moments = xp.roll(full, (-(width // 2), -(height // 2)), axis=(-2, -1))
    c, m = arrays.as_float64(counts), arrays.as_float64(cross)
    maps = Maps(counts=c, hybrid=m, cross=m, refined=m, noise=m)
    errors = position_errors(maps, at_x, at_y, moments, available=True, grid=grid)
    nan = xp.full_like(at_x, float("nan"))
    return tuple(xp.where(found, v, nan) for v in errors)  # type: ignore[return-value]


def _found(count: Any, most: int) -> Any:
    """Return (n, K) bool: True at the peaks of each pattern."""
    xp = arrays.namespace(count)
    return xp.arange(most, dtype=count.dtype, device=arrays.device(count))[None, :] < count[:, None]
