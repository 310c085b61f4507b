"""Whether the values of a scan are electron counts."""

from __future__ import annotations

import numpy as np

from gpu4d.arrays import ArrayLike, DType, to_numpy

FEW_COUNTS = 50  # a float pattern with a smaller total is not in counts: Poisson statistics do not apply


def in_counts(dtype: DType, totals: ArrayLike) -> bool:
    """Say whether values are electron counts, as far as one can see.

    Parameters
    ----------
    dtype : dtype
        Of the patterns. Whole-number types are counts.
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
    return kind.kind in "iu" or float(np.nanmedian(to_numpy(totals))) >= FEW_COUNTS
