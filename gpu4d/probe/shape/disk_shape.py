"""What a disk looks like between the pixels, from what is known of the probe."""

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

FINE = 1e-3  # px between the points a radial profile is interpolated from: 2e-6 of the height of the sharpest edge
UNEVEN = 0.03  # radii rms from a circle that rays find: clean circles with sharp edges reach 0.023
OVAL = 0.05  # widths of the edge, rms, that the rim's harmonics may have: farther off, the radial profile is the wrong disk
RIM_NOISE, RAY_NOISE = 2.5, 8.0  # the most that both measures of it have been seen to exceed the noise of ten harmonics by, on circles
AGREED = 0.01  # px that a slope inside may draw the radial profile off the centre of its rim
GROUND = 0.02  # of the plateau: the background that fit is made on
PATTERN, ALIKE = 0.03, 4.0  # of the plateau, rms of what a profile leaves over; standard errors of how neighbours correlate in it


class DiskShape(NamedTuple):
    """Intensity of a disk at any point.

    Attributes
    ----------
    disk : Disk
        Its centre in the image it was measured from, radius and edge.
    value : callable
        From x, y relative to the centre, pixels, to the intensity, 1 on the plateau.
    """

    disk: Disk
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]


@kept_by_content(maxsize=8)
def disk_shape(pixels: bytes, shape: tuple[int, int]) -> DiskShape:
    """Of a vacuum image float64: its radial profile if the probe is round and even (`not_radial`), else its grid profile."""
    if not_radial(pixels, shape) is not None:
        return DiskShape(*grid_profile(pixels, shape)[:2])
    disk, _, radial = radial_profile(pixels, shape)
    tabulated = _Tabulated(np.arange(0.0, 3.0 * disk.radius + 20.0, FINE), radial)
    return DiskShape(disk, lambda x, y: tabulated(np.hypot(x, y)))


class _Tabulated:
    """A function of the radius, interpolated as by `np.interp`, to the last bit.

    The points have one spacing, so that the interval of a radius is computed. `np.interp` searches for it.
    """

    def __init__(self, at: np.ndarray, function: Callable[[np.ndarray], np.ndarray]):
        self.at, self.values = at, function(at)
        self.slopes = np.append(np.diff(self.values) / np.diff(at), 0.0)  # 0 after the last point

    def __call__(self, r: np.ndarray) -> np.ndarray:
        """Return the values at radii that are not negative."""
        last = len(self.at) - 1
        k = np.minimum(r * (1 / FINE), last).astype(np.intp)
        k -= r < self.at[k]  # rounding may have led to the next interval
        k += (k < last) & (r >= self.at[np.minimum(k + 1, last)])
        return self.slopes[k] * (np.minimum(r, self.at[-1]) - self.at[k]) + self.values[k]


def fine_shape(fine: FineImage, disk: Disk) -> DiskShape:
    """Return the shape of a disk from an image on a grid finer than pixels, as a scan gives it."""
    return DiskShape(disk, fine.interpolator())


@kept_by_content(maxsize=8)
def not_radial(pixels: bytes, shape: tuple[int, int]) -> str | None:
    """Say why a probe is not round and even. Return None if the noise of its image explains every difference.

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
        return f"the probe's rim lies {max(form.rim, residual):.2f} px rms off a circle"
    drawn = _drawn(radial, form)
    if drawn > AGREED + form.noise / 2:
        return f"the probe is uneven: what is inside draws a fit {drawn:.3f} px off the centre of its rim"
    return _pattern(image, radial, form)


def _grid(radial: RadialProfile, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.meshgrid(*(np.arange(n) - q for n, q in zip(shape, radial.center)), indexing="ij"))  # type: ignore[return-value]


def _drawn(radial: RadialProfile, form: Shape) -> float:
    """How far slopes inside the probe move a fit that does not know of them, noise apart, pixels.

    Amplitude, background and its slopes are fitted in both; `measure_disk` may have missed the centre, which moves both alike.
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
    """A pattern inside: what profile and certain terms leave over is alike on neighbouring pixels, where noise is not."""
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
    return f"the probe is patterned: its radial profile leaves {size:.0%} of the intensity inside over"
