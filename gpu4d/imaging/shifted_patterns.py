"""Patterns moved by part pixels, for aligned averages."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.imaging.pattern_sums import twin_cannot
from gpu4d.operation import operation


def _kernel_cannot(patterns: Any, *_: Any, **__: Any) -> str | None:
    from gpu4d.kernels.pixels import unsupported

    return unsupported(patterns)


@operation(
    cpu="gpu4d.cpu_fallback.shifted_patterns",
    cuda="gpu4d.kernels.shifted_patterns",
    unsupported=twin_cannot,
    cuda_unsupported=_kernel_cannot,
)
def shifted_patterns(patterns: Any, shifts: Any, /) -> Any:
    """Move every pattern by its own shift, bilinearly: no ringing at sharp disk edges, counts are kept.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real
    shifts : (n, 2) float64
        Pixels; a feature at q goes to q + shift. Patterns wrap round; a NaN shift gives NaN.

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
    """Linear interpolation of row q at q - shift along one axis."""
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
