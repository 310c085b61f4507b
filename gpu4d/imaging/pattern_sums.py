"""Compute sum and maximum over patterns, pixel by pixel."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.operation import KERNEL_FRAME, KERNEL_PIXELS, REAL, Twin, operation


@operation(
    cpu=Twin("gpu4d.cpu_fallback.pattern_sums", REAL),
    cuda=Twin("gpu4d.kernels.pattern_sums", KERNEL_PIXELS, frame=KERNEL_FRAME),
)
def pattern_sums(patterns: Any, /, *, weights: Any = None) -> tuple[Any, Any]:
    """Sum the patterns that are finite, and count them.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real
    weights : (n,) float64, optional
        One weight for each pattern. 1 by default.

    Returns
    -------
    total : (Qx, Qy) int64 or float64
        int64, exact, for integer patterns of up to 32 bits without weights.
    count : () float64
        Sum of the weights of these patterns. Patterns with a NaN or an infinity are left out.

    Examples
    --------
    >>> import numpy as np
    >>> total, count = pattern_sums(np.ones((3, 2, 2), dtype="uint16"))
    >>> total.tolist(), float(count)
    ([[3, 3], [3, 3]], 3.0)
    """
    xp = arrays.namespace(patterns)
    where = arrays.device(patterns)
    x = arrays.as_sum_dtype(patterns)
    one = xp.ones((x.shape[0],), dtype=xp.float64, device=where) if weights is None else arrays.as_float64(weights)
    if arrays.is_integer(patterns):
        good = xp.ones((x.shape[0],), dtype=xp.bool, device=where)
    else:
        good = xp.all(xp.isfinite(x), axis=(-2, -1))
        x = xp.where(good[:, None, None], x, xp.zeros_like(x))
    one = xp.where(good, one, xp.zeros_like(one))
    if weights is not None:
        x = arrays.as_float64(x) * one[:, None, None]
    return xp.sum(x, axis=0), xp.sum(one)


@operation(
    cpu=Twin("gpu4d.cpu_fallback.pattern_sums", REAL),
    cuda=Twin("gpu4d.kernels.pattern_sums", KERNEL_PIXELS, frame=KERNEL_FRAME),
)
def pattern_maximum(patterns: Any, /) -> Any:
    """Find the largest value of every pixel over patterns that are finite.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real

    Returns
    -------
    (Qx, Qy) int64 for integer patterns of up to 32 bits, else float64
        If no pattern is finite or n is 0: the smallest int64, or -inf.

    Examples
    --------
    >>> import numpy as np
    >>> pattern_maximum(np.arange(8, dtype="uint8").reshape(2, 2, 2)).tolist()
    [[4, 5], [6, 7]]
    """
    xp = arrays.namespace(patterns)
    x = arrays.as_sum_dtype(patterns)
    least = xp.iinfo(x.dtype).min if arrays.is_integer(x) else -float("inf")
    floor = xp.full((1, *x.shape[1:]), least, dtype=x.dtype, device=arrays.device(patterns))
    if not arrays.is_integer(patterns):
        good = xp.all(xp.isfinite(x), axis=(-2, -1))
        x = xp.where(good[:, None, None], x, floor)
    return xp.max(xp.concat([floor, x]), axis=0)
