"""Refinement of all peaks of many maps at once, and their standard errors: operations on arrays alone."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.bragg.find_disks import Maps
from gpu4d.bragg.refine import position_errors, refine_positions
from gpu4d.operation import Twin, operation

WIDEST = 128  # samples a pixel: the kernel's window of more would not fit into 64 kB


def _too_fine(*given: Any, mode: str | None = "correlation", upsample: int = 16, **_: Any) -> str | None:
    mode, upsample = (*given[4:6], *(mode, upsample)[len(given[4:6]) :])  # type: ignore[misc]
    return f"the kernel's window has at most {WIDEST} samples a pixel" if mode == "upsample" and upsample > WIDEST else None


@operation(cuda=Twin("gpu4d.kernels.refine_disks", check=_too_fine), cpu=Twin("gpu4d.cpu_fallback.refine_disks"))
def refine_disks(
    maps: Any, px: Any, py: Any, count: Any, /, mode: str | None = "correlation", upsample: int = 16, climb: bool = False
) -> tuple[Any, Any, Any]:
    """Sub-pixel positions and heights of maxima of periodic maps.

    The maximum of the trigonometric interpolation, by Newton steps on its exact value, gradient and Hessian; the twins take two
    from the parabola's maximum, which ends 2e-5 px from the limit.

    Parameters
    ----------
    maps : (n, Qx, Qy) real
    px, py : (n, K) int
        Whole pixels of the maxima.
    count : (n,) int
        How many of the K are peaks.
    mode : {"correlation", "upsample", "parabola", None}
        As `refine` of `find_bragg_disks`.
    upsample : int
        Samples per pixel of "upsample".
    climb : bool
        The pixels are maxima of another map: go uphill to one of this map first.

    Returns
    -------
    x, y, height : (n, K) float64
        NaN behind the last peak.

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
    """Standard errors of maxima of n = 1 maps, from the counts.

    Cov = H⁻¹ G H⁻¹: H the Hessian of the map at the maximum, G = Σ I(q) ∇K ∇Kᵀ(q - r) the Poisson noise of its gradient.

    Parameters
    ----------
    counts : (n, Qx, Qy) real
        The patterns; what is not positive counts as 0.
    cross : (n, Qx, Qy) real
        Their n = 1 maps.
    box : (4, 2 hx + 1, 2 hy + 1) real
        K², Kx², Kx Ky, Ky² of the template about its centre, no larger than the detector.
    x, y : (n, K) real
        Positions, pixels.
    count : (n,) int
    grid : bool
        Positions are whole pixels: 1/12 px² is added.

    Returns
    -------
    sx, sy : (n, K) float64, pixels
        NaN behind the last peak, and where the map has no maximum.

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
    """True for the peaks of each pattern, (n, K)."""
    xp = arrays.namespace(count)
    return xp.arange(most, dtype=count.dtype, device=arrays.device(count))[None, :] < count[:, None]
