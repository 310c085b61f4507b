"""Sum the counts of every pattern under masks, and under disks and annuli that follow its origin."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.operation import KERNEL_FRAME, KERNEL_PIXELS, REAL, Twin, operation


@operation(
    cpu=Twin("gpu4d.cpu_fallback.masked_sums", REAL),
    cuda=Twin("gpu4d.kernels.masked_sums", KERNEL_PIXELS, frame=KERNEL_FRAME),
)
def masked_sums(patterns: Any, masks: Any, /) -> Any:
    """Sum every pattern under every mask.

    S[n, m] = Σ_q I[n, q] M[m, q]

    Parameters
    ----------
    patterns : (n, Qx, Qy) real
        Counts in any integer or floating dtype.
    masks : (m, Qx, Qy) bool or real
        True where pixels count, or weights.

    Returns
    -------
    (n, m) int64 or float64
        int64, exact, for integer patterns of up to 32 bits and bool masks, else float64. A NaN under a mask gives NaN for that
        pattern and mask. A NaN elsewhere has no effect.

    Examples
    --------
    >>> import numpy as np
    >>> masked_sums(np.ones((1, 3, 3), dtype="uint16"), np.eye(3, dtype=bool)[None]).tolist()
    [[3]]
    """
    xp = arrays.namespace(patterns, masks)
    n, pixels = patterns.shape[0], patterns.shape[1] * patterns.shape[2]
    flat = xp.reshape(arrays.as_sum_dtype(patterns), (n, pixels))
    rows = []
    for m in range(masks.shape[0]):
        mask = xp.reshape(masks[m, ...], (1, pixels))
        if xp.isdtype(mask.dtype, "bool"):
            rows.append(xp.sum(xp.where(mask, flat, xp.zeros_like(flat)), axis=-1))
        else:
            weight = arrays.as_float64(mask)
            product = xp.where(weight != 0, arrays.as_float64(flat) * weight, xp.zeros_like(weight))
            rows.append(xp.sum(product, axis=-1))
    if not rows:
        return xp.zeros((n, 0), dtype=flat.dtype, device=arrays.device(flat))
    return xp.stack(rows, axis=-1)


@operation(
    cpu=Twin("gpu4d.cpu_fallback.masked_sums", REAL),
    cuda=Twin("gpu4d.kernels.masked_sums", KERNEL_PIXELS, frame=KERNEL_FRAME),
)
def annular_sums(patterns: Any, centers: Any, radii: Any, /, *, mask: Any = None) -> Any:
    """Sum every pattern over disks and annuli around its own centre.

    S[n, m] = Σ_q I[n, q] [ri_m² < |q - c_n|² < ro_m²], where ri < 0 gives a full disk

    Parameters
    ----------
    patterns : (n, Qx, Qy) real
    centers : (n, 2) float64
        (qx, qy) of each pattern, pixels. NaN gives NaN.
    radii : (m, 2) float64
        Inner and outer radius, pixels.
    mask : (Qx, Qy) bool, optional
        True where the detector counts.

    Returns
    -------
    (n, m) float64
        NaN if a pixel that counts is NaN, or if the centre is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> annular_sums(np.ones((1, 5, 5), dtype="uint8"), np.array([[2.0, 2.0]]), np.array([[-1.0, 1.1], [1.1, 2.1]])).tolist()
    [[5.0, 8.0]]
    """
    xp = arrays.namespace(patterns, centers, radii)
    where = arrays.device(patterns)
    x = xp.arange(patterns.shape[1], dtype=xp.float64, device=where)[None, :, None] - centers[:, 0][:, None, None]
    y = xp.arange(patterns.shape[2], dtype=xp.float64, device=where)[None, None, :] - centers[:, 1][:, None, None]
    r2 = x * x + y * y
    counts = arrays.as_float64(patterns)
    if mask is not None:
        counts = xp.where(mask[None, :, :], counts, xp.zeros_like(counts))
    zero = xp.zeros_like(counts)
    columns = []
    for m in range(radii.shape[0]):
        inner, outer = radii[m, 0], radii[m, 1]
        inside = (r2 < outer * outer) & ((inner < 0) | (r2 > inner * inner))
        columns.append(xp.sum(xp.where(inside, counts, zero), axis=(-2, -1)))
    total = xp.stack(columns, axis=-1) if columns else xp.zeros((counts.shape[0], 0), dtype=counts.dtype, device=where)
    known = xp.all(xp.isfinite(centers), axis=-1)
    return xp.where(known[:, None], total, xp.full_like(total, float("nan")))
