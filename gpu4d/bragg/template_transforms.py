"""Compute the spectrum of a template, and the windows over which its noise is summed. Both are cached for later searches."""

from __future__ import annotations

import numpy as np

from gpu4d import fft
from gpu4d.bragg.hybrid_correlation import template_spectrum
from gpu4d.cache import kept_by_content
from gpu4d.probe.template_kernel import Template

HELD_MOMENT = 0.99  # part of a template's noise inside its window: the rest is half a per cent of a standard error
FAINT = 1e-4  # of the largest K²: pixels with less are left out of the noise. Where only they see counts, z would be rounding over nothing
LARGEST_KEPT = 1 << 19  # pixels: transforms of larger templates (above 24 MB) are not cached


def template_transforms(template: Template) -> tuple[np.ndarray, np.ndarray]:
    """Return `template_spectrum` and `template_moments`. They must not be changed, because twins cache tables made from them.

    The result is cached, and returned again for a template with the same kernel. For 514² = (2 · 257)² pixels, four transforms in
    float64 take 60 ms, as long as the search of forty patterns.
    """
    given = template.kernel.astype(np.float64).tobytes(), template.shape, template.offset
    return (_kept_transforms if template.kernel.size <= LARGEST_KEPT else _transforms)(*given)


def _transforms(kernel: bytes, shape: tuple[int, int], offset: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the two results of `template_transforms` from the bytes of a float64 kernel."""
    template = Template(np.frombuffer(kernel).reshape(shape), offset, 0.0)
    made = template_spectrum(template), template_moments(template)
    for array in made:
        array.flags.writeable = False
    return made


_kept_transforms = kept_by_content(maxsize=8)(_transforms)


def template_moments(template: Template) -> np.ndarray:
    """Return K², Kx², Kx Ky, Ky² of the template and its band-limited derivatives, (4, Qx, Qy), corner-centred.

    The derivative of a sharp disk rings far out, with little weight. So values are set to 0 outside the square around the centre that
    holds `HELD_MOMENT` of each, and K² where it is below `FAINT`. The rest is scaled to its full sum. Sums over the template then need
    only a small window. Row and column -n/2 of an even size have no partner at +n/2, so they are set to 0 too.
    """
    kernel, shape = template.kernel, template.shape
    kx, ky = fft.frequencies(shape[0]), fft.frequencies(shape[1], half=True)
    f = fft.rfft2(kernel)
    slopes = [np.where(np.abs(k) == 0.5, 0.0, 2j * np.pi * k) for k in (kx[:, None], ky[None, :])]
    dx, dy = (fft.irfft2(f * s, shape) for s in slopes)
    out = np.stack([kernel**2, dx * dx, dx * dy, dy * dy])
    away = np.maximum(*np.meshgrid(*(np.abs(np.fft.fftfreq(n, 1.0 / n)) for n in shape), indexing="ij"))
    reach = 0.0
    for moment in out[[0, 1, 3]]:
        inside = np.cumsum(np.bincount(away.astype(int).ravel(), moment.ravel()))
        reach = max(reach, float(np.searchsorted(inside, HELD_MOMENT * inside[-1])))
    paired = np.logical_and(*np.meshgrid(*(2 * np.abs(np.fft.fftfreq(n)) < 1 for n in shape), indexing="ij"))
    window = np.where((away <= reach) & paired, out, 0.0)
    window[0] = np.where(window[0] < FAINT * window[0].max(), 0.0, window[0])
    share = np.stack([window[i].sum() / out[i].sum() for i in (0, 1, 3)])
    return window / share[[0, 1, 1, 2], None, None]
