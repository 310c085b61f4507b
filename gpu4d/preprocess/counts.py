"""Decide whether the values of a scan are electron counts."""

from __future__ import annotations

import numpy as np

from gpu4d.arrays import ArrayLike, DType
from gpu4d.data.arguments import real_values
from gpu4d.on_host import on_host

FEW_COUNTS = 50  # smallest median total of float patterns that are taken for counts; below it Poisson statistics would not hold


@on_host("map")
def in_counts(dtype: DType, totals: ArrayLike) -> bool:
    """Return True if values seem to be electron counts.

    Parameters
    ----------
    dtype : dtype
        Dtype of the patterns. Integer types are counts.
    totals : (Rx, Ry) real
        Sum of every pattern. Floats are taken for counts if the median is at least 50. NaN positions are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.preprocess import in_counts
    >>> in_counts(np.uint16, np.ones((2, 2))), in_counts(np.float32, np.ones((2, 2)))
    (True, False)
    """
    kind = np.dtype(str(dtype).split(".")[-1]) if not isinstance(dtype, type | np.dtype) else np.dtype(dtype)
    return kind.kind in "iu" or _median(totals) >= FEW_COUNTS


def _median(totals: ArrayLike) -> float:
    """Return the median of the values that are not NaN; NaN if there is none."""
    values = real_values(totals, "totals", "the sum of every pattern").astype(np.float64)
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else float("nan")
