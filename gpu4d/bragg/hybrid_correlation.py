"""Compute hybrid correlations, between cross correlation (n = 1) and phase correlation (n = 0)."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays, fft
from gpu4d.arrays import ArrayT
from gpu4d.bragg.correlation_map import correlation_map
from gpu4d.cache import kept_by_content
from gpu4d.errors import InputError
from gpu4d.probe.template_kernel import Template, TemplateLike, as_template
from gpu4d.real_arrays import real_array, real_number

LARGEST_KEPT = 1 << 12  # pixels: to compare the kernels of larger templates takes as long as to transform them


def hybrid_correlation(patterns: ArrayT, template: TemplateLike, power: float = 0.85) -> ArrayT:
    """Correlate patterns with a template.

    C = F⁻¹[ m / |m|^(1-n) ],  m = conj(F template) · F pattern

    Where m = 0, the quotient is 0.

    Parameters
    ----------
    patterns : (..., Qx, Qy) real array
    template : Template or (Qx, Qy) array
        An array is taken as a vacuum probe (`gpu4d.probe.template`).
    power : float
        n, 0 … 1: 1 is cross correlation, 0 is phase correlation. 0.85 finds disks well. 1 locates them best.

    Returns
    -------
    (..., Qx, Qy) float64
        Peaks lie at the centres of the disks. Values may be negative. For n = 1 and a unit-sum template the height is in counts per
        pixel. Zero for empty patterns, NaN for patterns with a NaN or an infinity.

    References
    ----------
    Pekin et al., Ultramicroscopy 176 (2017) 170; Savitzky et al., Microsc. Microanal. 27 (2021) 712.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.probe import synthetic, template
    >>> t = template(synthetic((32, 32), 4.0))
    >>> c = hybrid_correlation(synthetic((32, 32), 4.0, center=(12, 20)), t)
    >>> [int(i) for i in np.unravel_index(c.argmax(), c.shape)]
    [12, 20]
    """
    patterns, template = real_array(patterns, "patterns", "an array (..., Qx, Qy)"), as_template(template)
    check_patterns(patterns, template, power)
    xp = arrays.namespace(patterns)
    spectrum = arrays.from_numpy(_spectrum_of(template), patterns)
    flat = xp.reshape(patterns, (-1, *patterns.shape[-2:]))
    return xp.reshape(correlation_map(flat, spectrum, power=float(power)), patterns.shape)


def _spectrum_of(template: Template) -> np.ndarray:
    """Return `template_spectrum`, which is kept for small templates: making it takes longer than correlating one small pattern."""
    if template.kernel.size > LARGEST_KEPT:
        return template_spectrum(template)
    return _kept_spectrum(template.kernel.astype(np.float64, copy=False).tobytes(), template.shape, template.offset)


@kept_by_content(maxsize=16)
def _kept_spectrum(kernel: bytes, shape: tuple[int, int], offset: tuple[float, float]) -> np.ndarray:
    return template_spectrum(Template(np.frombuffer(kernel).reshape(shape), offset, 0.0))


def template_spectrum(template: Template) -> np.ndarray:
    """Return conj F(template), half plane, corrected for the template's part-pixel offset: (Qx, Qy // 2 + 1) complex128."""
    nx, ny = template.shape
    kx, ky = fft.frequencies(nx), fft.frequencies(ny, half=True)
    ramp = _shift(kx, template.offset[0])[:, None] * _shift(ky, template.offset[1])[None, :]
    return np.conj(fft.rfft2(template.kernel)) * ramp


def _shift(k: np.ndarray, offset: float) -> np.ndarray:
    """Return exp(-2πi k o). At the Nyquist frequency return its real part, so that a real template stays real."""
    ramp = np.exp(-2j * np.pi * k * offset)
    return np.where(np.abs(k) == 0.5, ramp.real, ramp)


def check_patterns(patterns: Any, template: Template, power: float) -> None:
    """Raise InputError if patterns cannot be correlated with a template, or if the power is not 0 … 1."""
    if not arrays.is_array(patterns) or len(patterns.shape) < 2:
        raise InputError(f"patterns is {getattr(patterns, 'shape', type(patterns).__name__)}, need an array (..., Qx, Qy)")
    if tuple(patterns.shape[-2:]) != template.shape:
        raise InputError(
            f"the template is {template.shape}, the patterns are {tuple(patterns.shape[-2:])}: "
            "make the template from a probe of the same detector, crop and binning"
        )
    if not 0.0 <= real_number(power, "power") <= 1.0:
        raise InputError(f"power={power}: need a number from 0 (phase correlation) to 1 (cross correlation)")
