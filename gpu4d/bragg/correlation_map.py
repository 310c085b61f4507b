"""Compute correlation maps from the spectrum of a template, with any power from 0 (phase) to 1 (cross correlation)."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays, fft
from gpu4d.operation import operation


@operation()
def correlation_map(patterns: Any, spectrum: Any, /, *, power: float = 0.85) -> Any:
    """Compute `hybrid_correlation` without its checks.

    The patterns are (n, Qx, Qy). The spectrum (Qx, Qy // 2 + 1) comes from `template_spectrum`.

    Examples
    --------
    >>> import numpy as np
    >>> correlation_map(np.zeros((1, 4, 4)), np.ones((4, 3), dtype=complex)).max().item()
    0.0
    """
    xp = arrays.namespace(patterns, spectrum)
    x = arrays.as_float64(patterns)
    good = xp.all(xp.isfinite(x), axis=(-2, -1))[:, None, None]
    m = fft.rfft2(xp.where(good, x, xp.zeros_like(x))) * spectrum
    c = fft.irfft2(powered(m, power), patterns.shape[-2:])
    return xp.where(good, c, xp.full_like(c, float("nan")))


def powered(m: Any, power: float) -> Any:
    """Return m |m|^(n-1), and 0 where m is 0."""
    if power == 1.0:
        return m
    xp = arrays.namespace(m)
    size = xp.abs(m)
    some = size > 0
    scale = xp.where(some, xp.where(some, size, xp.ones_like(size)) ** (power - 1.0), xp.zeros_like(size))
    return m * xp.astype(scale, m.dtype)
