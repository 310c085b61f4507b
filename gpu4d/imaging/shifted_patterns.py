"""Move patterns by fractions of a pixel, for aligned averages."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.operation import KERNEL_FRAME, KERNEL_PIXELS, REAL, Twin, operation


@operation(
    cpu=Twin("gpu4d.cpu_fallback.shifted_patterns", REAL),
    cuda=Twin("gpu4d.kernels.shifted_patterns", KERNEL_PIXELS, frame=KERNEL_FRAME),
)
def shifted_patterns(patterns: Any, shifts: Any, /) -> Any:
    """Move every pattern by its own shift, with bilinear interpolation.

    This makes no ringing at sharp disk edges, and keeps the sum of counts.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real
    shifts : (n, 2) float64
        Pixels. A feature at q moves to q + shift. Patterns are continued periodically. A NaN shift gives NaN.

    Returns
    -------
    (n, Qx, Qy) float64

    Examples
    --------
    >>> import numpy as np
    >>> shifted_patterns(np.eye(3)[None], np.array([[0.0, 1.0]]))[0].tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    xp = arrays.namespace(patterns, shifts)
    out = arrays.as_float64(patterns)
    for axis in (0, 1):
        out = _along(xp, out, arrays.as_float64(shifts)[:, axis], axis + 1)
    return out


def _along(xp: Any, x: Any, shift: Any, axis: int) -> Any:
    """Interpolate linearly at q - shift along one axis."""
    size = x.shape[axis]
    known = xp.isfinite(shift)
    whole = xp.floor(xp.where(known, shift, xp.zeros_like(shift)))
    part = shift - whole
    index = xp.arange(size, dtype=xp.int64, device=arrays.device(x))[None, :] - xp.astype(whole, xp.int64)[:, None]
    near, far = index % size, (index - 1) % size
    x = xp.moveaxis(x, axis, -1)
    shape = x.shape
    pick = lambda i: xp.take_along_axis(x, xp.broadcast_to(i[:, None, :], shape), axis=-1)  # noqa: E731
    moved = pick(near) * (1 - part)[:, None, None] + pick(far) * part[:, None, None]
    return xp.moveaxis(moved, -1, axis)
