"""Compute the shape of a disk between the pixels, from a vacuum image of the probe or from a fine image."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpu4d.cache import kept_by_content
from gpu4d.errors import InputError
from gpu4d.probe.measure_disk import Disk
from gpu4d.probe.shape.fine_image import FineImage
from gpu4d.probe.shape.grid_profile import grid_profile
from gpu4d.probe.shape.radial_profile import STEP, RadialProfile, Shape, radial_profile, shape_of, usual_reach

FINE = 1e-3  # px between the points of a tabulated radial profile: the error is 2e-6 of the height at the sharpest edge
UNEVEN = 0.03  # radii rms: largest distance of the rim from a circle, measured by rays; clean circles with sharp edges reach 0.023
OVAL = 0.05  # widths of the edge, rms: largest harmonics of the rim for which a radial profile is used
RIM_NOISE, RAY_NOISE = 2.5, 8.0  # times the noise of ten harmonics: largest values of both measures that were seen on circles
AGREED = 0.01  # px: most that a slope inside may move the centre of the radial profile from the centre of the rim
GROUND = 0.02  # of the plateau: the background in that fit
PATTERN, ALIKE = 0.03, 4.0  # least residual of a pattern inside (rms, of the plateau); least correlation of neighbours (standard errors)


class DiskShape(NamedTuple):
    """Intensity of a disk at any point.

    Attributes
    ----------
    disk : Disk
        Centre in the image from which it was measured, radius and edge.
    value : callable
        Returns the intensity at x, y relative to the centre, pixels. It is 1 on the plateau.
    """

    disk: Disk
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]


@kept_by_content(maxsize=8)
def disk_shape(pixels: bytes, shape: tuple[int, int]) -> DiskShape:
    """Return the shape of the disk in a vacuum image float64.

    It is the radial profile if the probe is round and even (`not_radial`), else the grid profile.
    """
    if not_radial(pixels, shape) is not None:
        return DiskShape(*grid_profile(pixels, shape)[:2])
    disk, _, radial = radial_profile(pixels, shape)
    profile = tabulated(radial, 3.0 * disk.radius + 20.0)
    return DiskShape(disk, lambda x, y: profile(np.hypot(x, y)))


def tabulated(function: Callable[[np.ndarray], np.ndarray], end: float) -> Callable[[np.ndarray], np.ndarray]:
    """Tabulate a function of the radius up to `end`, and return its interpolation, as by `np.interp` to the last bit.

    The points have one spacing, so that the interval of a radius is computed. `np.interp` searches for it.
    """
    at = np.arange(0.0, end, FINE)
    values, last = function(at), len(at) - 1
    slopes = np.append(np.diff(values) / np.diff(at), 0.0)  # 0 after the last point

    def interpolated(r: np.ndarray) -> np.ndarray:
        k = np.minimum(r * (1 / FINE), last).astype(np.intp)
        k -= r < at[k]  # rounding may have led to the next interval
        k += (k < last) & (r >= at[np.minimum(k + 1, last)])
        return slopes[k] * (np.minimum(r, at[-1]) - at[k]) + values[k]

    return interpolated


def fine_shape(fine: FineImage, disk: Disk) -> DiskShape:
    """Return the shape of a disk from an image on a grid finer than pixels, as `refine_template` makes it."""
    return DiskShape(disk, fine.interpolator())


@kept_by_content(maxsize=8)
def not_radial(pixels: bytes, shape: tuple[int, int]) -> str | None:
    """Return why a probe is not round and even. Return None if the noise of its image explains every difference.

    A probe is not round if its rim is not a circle. It is not even if the centre of its radial profile is not the centre of the rim,
    or if the intensity inside differs from the profile.
    """
    image = np.frombuffer(pixels).reshape(shape)
    try:
        radial = radial_profile(pixels, shape)
    except InputError as error:
        return str(error)
    form, residual = shape_of(image, radial), radial.disk.residual
    oval = OVAL * radial.disk.edge
    if form.rim**2 > oval**2 + (RIM_NOISE * form.noise) ** 2 or residual > UNEVEN * radial.disk.radius + RAY_NOISE * form.noise:
        return f"the probe's rim deviates {max(form.rim, residual):.2f} px rms from a circle"
    drawn = _drawn(radial, form)
    if drawn > AGREED + form.noise / 2:
        return f"the probe is uneven: its intensity inside moves a fit {drawn:.3f} px from the centre of the rim"
    return _pattern(image, radial, form)


def _grid(radial: RadialProfile, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of all pixels relative to the centre of the profile."""
    return tuple(np.meshgrid(*(np.arange(n) - q for n, q in zip(shape, radial.center)), indexing="ij"))  # type: ignore[return-value]


def _drawn(radial: RadialProfile, form: Shape) -> float:
    """Return how far slopes inside the probe move a fit without parameters for them, pixels. Noise is left out.

    Two fits are compared, without and with slopes inside. Amplitude, background and its slopes are fitted in both. An error of
    `measure_disk` in the centre moves both by the same amount.
    """
    half = int(np.ceil(usual_reach(radial.disk)))
    at = np.arange(-half, half + 1.0)
    x, y = (a[np.hypot(*np.meshgrid(at, at)) <= half] for a in np.meshgrid(at, at, indexing="ij"))
    r = np.hypot(x, y)
    height = radial.value(r)
    fall = (radial.value(np.maximum(r - STEP / 2, 0.0)) - radial.value(r + STEP / 2)) / STEP / np.maximum(r, STEP)
    terms = np.stack([fall * x, fall * y, height, np.ones_like(r), x, y, *(height * t * p for p in (1, r * r) for t in (x, y))], -1)
    root = 1 / np.sqrt(np.maximum(height, 0.0) + GROUND)
    rest = (form.image(x, y) - height) * root
    even, sloping = (np.linalg.lstsq(terms[:, :n] * root[:, None], rest, rcond=None)[0][:2] for n in (6, 10))
    return float(np.hypot(*(even - sloping)))


def _pattern(image: np.ndarray, radial: RadialProfile, form: Shape) -> str | None:
    """Return a message if there is a pattern inside, else None.

    In a pattern the residuals of neighbouring pixels correlate. In noise they do not.
    """
    x, y = _grid(radial, image.shape)
    inside = np.hypot(x, y) < radial.disk.radius - radial.disk.edge
    left = np.where(inside, image / form.plateau - form.image(x, y), 0.0)
    square, together, pairs = float((left**2).sum()), 0.0, 0
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        together += float((left[a] * left[b]).sum())
        pairs += int((inside[a] & inside[b]).sum())
    if pairs == 0 or square == 0.0:
        return None
    alike = together / square * inside.sum() / pairs
    size = np.sqrt(square / inside.sum() * max(alike, 0.0))
    if size < PATTERN or alike * np.sqrt(pairs) < ALIKE:
        return None
    return f"the probe is patterned: the residual of its radial profile is {size:.0%} of the intensity inside"
