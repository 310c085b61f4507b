"""Measure the zero point of the likelihood fit: its difference from the correlation on the probe itself.

Both estimators should place a disk at the same point. On a probe that is not round or not even they do not. So the difference is
measured on the probe and subtracted from every fitted position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpu4d import fft
from gpu4d.bragg.hybrid_correlation import template_spectrum
from gpu4d.bragg.likelihood.poisson_fit import DiskProfile, disk_profile, poisson_fit
from gpu4d.bragg.refine import refine_positions
from gpu4d.cache import kept_by_content
from gpu4d.operation import using
from gpu4d.probe.shape.disk_shape import not_radial
from gpu4d.probe.shape.grid_profile import GridProfile, grid_profile
from gpu4d.probe.shape.radial_profile import radial_profile, shape_of
from gpu4d.probe.template_kernel import LEAST_PATTERN, Template, pattern_inside

AGREED = 0.01  # px: most that the two estimators may differ on the probe itself
AGREED_PATTERN = 0.02  # px: the same for a patterned probe, whose correlation is farther from the bound where disks overlap
CLEAN = 0.001  # px: with less noise than this the image itself is used, because its smooth model leaves out detail
# px: sub-pixel positions at which the estimators are compared
PHASES = ((0.0, 0.0), (0.25, 0.5), (0.5, 0.25), (-0.25, 0.4), (0.4, -0.3), (-0.4, -0.15), (0.15, -0.45), (-0.15, 0.2))
PLATEAU, GROUND, STEPS = 1e4, 0.02, 10  # of the fit of a probe: counts per pixel, background as a part of them, number of steps


class Zero(NamedTuple):
    """Difference of the two estimators on a probe.

    Attributes
    ----------
    shift : (float, float), pixels
        Position by the likelihood minus position by the correlation.
    doubt : str or None
        Reason why the likelihood fit is not reliable with this probe, or None.
    """

    shift: tuple[float, float]
    doubt: str | None


class _Probe(NamedTuple):
    """A noise-free model of a probe.

    Attributes
    ----------
    radius, centre : pixels
    plateau : float
        Intensity of a pixel inside the disk.
    noise : float
        Standard error of a position due to the image's noise, pixels.
    shape : callable
        Intensity at x, y relative to the centre.
    doubt : str or None
        Reason why `shape` is not reliable, or None.
    """

    radius: float
    centre: np.ndarray
    plateau: float
    noise: float
    shape: Callable[[np.ndarray, np.ndarray], np.ndarray]
    doubt: str | None


def zero_point(template: Template, parameters: int) -> Zero:
    """Measure the difference of the likelihood fit from the correlation on a probe, and judge whether the fit is reliable with it.

    The result is cached, and returned again for a template of the same content and the same number of parameters.
    """
    if template.probe is None or template.fine is not None:
        # With a fine image both estimators have the same zero point, except on uneven disks: 0.003 px on average at 40 % of slope.
        return Zero((0.0, 0.0), None)
    probe, kernel = (image.astype(np.float64).tobytes() for image in (template.probe, template.kernel))
    return _zero_point(probe, kernel, template.shape, template.offset, parameters)


@kept_by_content(maxsize=8)
def _zero_point(probe: bytes, kernel: bytes, shape: tuple[int, int], offset: tuple[float, float], parameters: int) -> Zero:
    """Compare both estimators on a noise-free model of the probe in the middle of the detector.

    The correlation uses the kernel of this smooth probe, with the template's trench. Noise of the vacuum image would move the maximum,
    and look like a difference of the estimators. An image with hardly any noise is used itself.
    """
    image, given = (np.frombuffer(b).reshape(shape) for b in (probe, kernel))
    round_ = not_radial(probe, shape) is None
    known = _round(image, probe) if round_ else _by_grid(image, probe, parameters)
    middle = np.array(shape) // 2
    at = known.centre - np.floor(known.centre) + middle
    x, y = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    if known.noise < CLEAN:
        smooth = np.maximum(np.roll(image, tuple((middle - np.floor(known.centre)).astype(int)), (0, 1)) / known.plateau, 0.0)
    else:
        smooth = known.shape(x - at[0], y - at[1])
    raw = _summit(image, Template(given, offset, known.radius))
    origin = np.rint(raw - offset)  # the pixel of the probe that the kernel has at [0, 0]
    trench = given - np.roll(image, tuple(-origin.astype(int)), (0, 1)) / image.sum()
    moved = origin + middle - np.floor(known.centre)
    peak = np.roll(smooth, tuple(-moved.astype(int)), (0, 1)) / smooth.sum()
    mapped = Template(peak + trench, offset, known.radius)
    table = disk_profile(image)
    by_fit = _fits(smooth[None], at[None], table, parameters)[0]
    if not np.isfinite(by_fit).all():
        return Zero((0.0, 0.0), known.doubt or "the fit of the probe itself fails")
    doubt = known.doubt
    if round_:
        shift = by_fit - _summit(smooth, mapped)
        apart = float(np.hypot(*(shift + moved + offset - at)))
        reason = f"the probe is uneven: likelihood and correlation place it {apart:.3f} px apart"
    else:  # for a form with corners the zero of the correlation depends on the sub-pixel position: take the mean
        copies = [at + phase for phase in PHASES]
        shift = np.mean([c - _summit(known.shape(x - c[0], y - c[1]), mapped) for c in copies], 0)
        apart = float(np.hypot(*(by_fit - at)))
        reason = f"a fit with the grid profile of the probe places the probe itself {apart:.3f} px off its centre"
    if doubt is None and apart > AGREED + known.noise / 2:
        doubt = reason
    return Zero((float(shift[0]), float(shift[1])), doubt)


def _round(image: np.ndarray, probe: bytes) -> _Probe:
    """Model a round and even probe by its radial profile."""
    radial = radial_profile(probe, image.shape)
    form = shape_of(image, radial)
    return _Probe(radial.disk.radius, np.array(radial.disk[:2]), form.plateau, form.noise, form.image, None)


def _by_grid(image: np.ndarray, probe: bytes, parameters: int) -> _Probe:
    """Model a probe that is not round or not even, with the reason why its grid profile may be too uncertain."""
    profile = grid_profile(probe, image.shape)
    disk, value = profile.disk, profile.value
    x, y = np.arange(image.shape[0])[:, None] - disk.qx, np.arange(image.shape[1])[None, :] - disk.qy
    here = value(x, y)
    slopes = [(value(x + d, y + e) - value(x - d, y - e)) / 0.2 for d, e in ((0.1, 0.0), (0.0, 0.1))]
    noise = profile.noise / np.sqrt(min((s**2 / np.maximum(here, GROUND)).sum() for s in slopes))
    unknown = _unknown(profile, image, parameters)
    patterned = pattern_inside(image, (disk.qx, disk.qy), disk.radius) > LEAST_PATTERN
    doubt = (
        None
        if unknown <= (AGREED_PATTERN if patterned else AGREED)
        else f"the probe is not round, and its image determines it between the pixels only to {unknown:.3f} px"
    )
    plateau = float((image * here).sum() / (here * here).sum())
    return _Probe(disk.radius, np.array(disk[:2]), plateau, float(noise), value, doubt)


def _unknown(profile: GridProfile, image: np.ndarray, parameters: int) -> float:
    """Return the rms error of the fit on shifted copies of another shape that fits the image equally well, pixels.

    The common shift of the copies is subtracted.
    """
    table = disk_profile(image)
    half = int(np.ceil(table.reach)) + 2
    at = half + np.asarray(PHASES)
    x, y = (np.arange(2 * half + 1.0) - at[:, i, None] for i in (0, 1))
    missed = _fits(profile.other(x[:, :, None], y[:, None, :]), at, table, parameters) - at
    return float(np.sqrt(((missed - missed.mean(0)) ** 2).mean()))


def _fits(smooth: np.ndarray, at: np.ndarray, table: DiskProfile, parameters: int) -> np.ndarray:
    """Fit one disk in each image (n, Qx, Qy) of plateau 1, starting at `at`. Return positions (n, 2), NaN where the fit fails."""
    counts, one = PLATEAU * (np.maximum(smooth, 0.0) + GROUND), np.ones(len(at), np.int64)
    with using("definition"):
        fit = poisson_fit(counts, at[:, :1], at[:, 1:], one, table.table, table.pixels, parameters=parameters, iterations=STEPS)
    return np.where(fit.ok, np.concatenate([fit.x, fit.y], 1), np.nan)


def _summit(image: np.ndarray, template: Template) -> np.ndarray:
    """Return the exact maximum of an image's n = 1 map, pixels."""
    cross = fft.irfft2(fft.rfft2(image) * template_spectrum(template), image.shape)[None]
    x, y = (np.full((1, 1), float(i)) for i in np.unravel_index(cross[0].argmax(), image.shape))
    x, y, _ = refine_positions(cross, x, y, "correlation", 2, climb=False)
    return np.array([x[0, 0], y[0, 0]])
