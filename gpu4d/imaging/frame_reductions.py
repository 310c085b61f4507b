"""Compute all simple reductions of a stack of patterns while reading it once, for sweeps that make several images."""

from __future__ import annotations

from typing import Any, NamedTuple

from gpu4d.imaging.first_moments import EXACT_MOMENT, LONGEST_EXACT, first_moments
from gpu4d.imaging.masked_sums import masked_sums
from gpu4d.imaging.pattern_sums import pattern_maximum, pattern_sums
from gpu4d.operation import KERNEL_FRAME, KERNEL_PIXELS, REAL, Twin, operation


class FrameReductions(NamedTuple):
    """Result of `frame_reductions`.

    Attributes
    ----------
    total : (Qx, Qy) int64 or float64
        Sum over patterns that are finite.
    maximum : (Qx, Qy) int64 or float64
        Largest value over patterns that are finite.
    count : () float64
        Number of patterns that are finite.
    masked : (n, m) int64 or float64
        Sum of every pattern under every mask.
    moments : (n, 3) int64 or float64
        Σ I, Σ qx I, Σ qy I of every pattern.
    """

    total: Any
    maximum: Any
    count: Any
    masked: Any
    moments: Any


@operation(
    cpu=Twin("gpu4d.cpu_fallback.frame_reductions", tuple(name for name in REAL if name != "uint64")),
    cuda=Twin("gpu4d.kernels.frame_reductions", KERNEL_PIXELS, frame=KERNEL_FRAME, longest=LONGEST_EXACT, moment=EXACT_MOMENT),
)
def frame_reductions(patterns: Any, masks: Any, /, *, mask: Any = None) -> FrameReductions:
    """Compute sum and maximum over patterns, sums of every pattern under masks, and its first moments.

    The numbers are those of `pattern_sums`, `pattern_maximum`, `masked_sums` and `first_moments`, but the patterns are read once.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real
    masks : (m, Qx, Qy) bool or real
        True where pixels count, or weights. m may be 0.
    mask : (Qx, Qy) bool, optional
        Pixels that count for the first moments. All by default.

    Returns
    -------
    FrameReductions
        total, maximum, count, masked, moments. Integer patterns of up to 32 bits (and bool masks) give int64, exact, with the
        exception of `first_moments`. A pattern with a NaN or an infinity is left out of total, maximum and count. Its own sums are
        NaN if it has a NaN under the mask.

    Examples
    --------
    >>> import numpy as np
    >>> found = frame_reductions(np.arange(8, dtype="uint16").reshape(2, 2, 2), np.eye(2, dtype=bool)[None])
    >>> found.total.tolist(), found.maximum.tolist(), float(found.count)
    ([[4, 6], [8, 10]], [[4, 5], [6, 7]], 2.0)
    >>> found.masked.tolist(), found.moments.tolist()
    ([[3], [11]], [[6, 5, 4], [22, 13, 12]])
    """
    total, count = pattern_sums.definition(patterns)
    maximum = pattern_maximum.definition(patterns)
    return FrameReductions(total, maximum, count, masked_sums.definition(patterns, masks), first_moments.definition(patterns, mask))
