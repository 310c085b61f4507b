"""Make the kernel with which patterns are correlated, from a vacuum probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import host_image, measured_pixels
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.probe.measure_disk import measure_disk
from gpu4d.probe.shape.fine_image import FineImage
from gpu4d.probe.small_disk import SMALL as SPOT  # px: radius below which a probe is a spot
from gpu4d.probe.synthetic import synthetic
from gpu4d.real_arrays import floats

REACH = 2.5  # radii: pixels farther out are background of a probe
LEAST_TRENCH = 1.5  # px: the trench of a smaller spot is that of a spot of this radius, because a ring of one pixel holds few counts
KINDS = ("auto", "sigmoid", "gaussian", "logistic", "own", "flat")
LEAST_PATTERN = 0.4  # of the mean inside: structure from which on a probe is taken as patterned. A half that is opaque has 0.37
STEEPEST, SMOOTHED = 0.6, 0.25  # radii: pixels that are compared, and smoothing that removes slopes but not patterns


@dataclass(frozen=True)
class Template(Storable, stored="kernel probe: Qx Qy; offset radius edge: [px]"):
    """A correlation kernel.

    Attributes
    ----------
    kernel : (Qx, Qy) float64
        Corner-centred: the probe's centre lies at [0, 0] + `offset`. The probe has unit sum, so that the height of a peak is in counts
        per pixel. The total is zero except for kind "flat", so that a flat background gives 0.
    offset : (float, float)
        Part of a pixel by which the probe's centre differs from [0, 0]. Positions are corrected by it exactly, in the spectrum. The
        kernel itself is moved by whole pixels only, because a sharp disk moved by Fourier would ring.
    radius : float
        Radius of the probe, pixels. Default spacing and edge are proportional to it.
    edge : float
        Width of its edge, pixels.
    kind : str
        Kind of the trench that was subtracted.
    probe : (Qx, Qy) float64 or None
        Vacuum probe from which the kernel was made.
    fine : FineImage or None
        Shape of the disk between the pixels, if it was measured from a scan (`refine_template`). The likelihood then fits this shape
        instead of the probe's own profile.

    Examples
    --------
    >>> import numpy as np
    >>> kernel = np.zeros((8, 8))
    >>> kernel[:2, :2] = 1.0
    >>> ready = Template.from_kernel(kernel, radius=1.0)
    >>> ready.shape, ready.radius, ready.offset
    ((8, 8), 1.0, (0.0, 0.0))
    """

    kernel: np.ndarray
    offset: tuple[float, float]
    radius: float
    edge: float = 1.0
    kind: str = "kernel"
    probe: np.ndarray | None = None
    fine: FineImage | None = None

    def __repr__(self) -> str:
        size = f"{'×'.join(map(str, self.shape))} px, radius {self.radius:.2f} px, edge {self.edge:.2f} px"
        shape = ", shape measured from a scan" if self.fine is not None else ""
        return f"Template({self.kind}, {size}, offset ({self.offset[0]:+.2f}, {self.offset[1]:+.2f}) px{shape})"

    @classmethod
    def from_kernel(cls, kernel: ArrayLike, radius: float | None = None) -> Template:
        """Make a template from a corner-centred kernel, without changing it.

        Parameters
        ----------
        kernel : (Qx, Qy) array
        radius : float, optional
            Radius of the disk, pixels. Default: that of a circle with the area in which the kernel exceeds half its maximum.
        """
        k = _image(kernel, "kernel")
        if not k.max() > 0:
            raise InputError("the kernel has no positive pixel: a template is positive where the disk is")
        r = float(np.sqrt((k > k.max() / 2).sum() / np.pi)) if radius is None else float(radius)
        return cls(k, (0.0, 0.0), r)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (Qx, Qy) of the kernel."""
        return self.kernel.shape  # type: ignore[return-value]


TemplateLike = Template | ArrayLike  # an array is an image of the probe in vacuum


@on_host("image")
def template(
    probe: ArrayLike,
    kind: str = "auto",
    *,
    center: tuple[float, float] | None = None,
    radius: float | None = None,
    trench: tuple[float, float] | None = None,
    sigma: float | None = None,
    background: bool = True,
) -> Template:
    """Make a kernel of zero total from a vacuum probe: unit-sum probe minus unit-sum trench.

    With the trench the correlation with a flat background is zero, and it is lower if the template lies beside its disk.

    A probe with a radius of less than 3 px is a spot. Its pixels do not hold its image between them: moved by a part of a pixel it
    would have waves around it, and the search would take them for disks. So a round disk of the same radius and edge takes its place,
    centred on a pixel.

    Parameters
    ----------
    probe : (Qx, Qy) array
        Vacuum probe with one disk, counts or any scale.
    kind : {"auto", "sigmoid", "gaussian", "logistic", "own", "flat"}
        Form of the trench.

        * "auto": "own" for a patterned probe, whose fine structure is at least 40 % of the mean inside, else "sigmoid".
        * "own": an even disk of the probe's radius, so that only the pattern inside counts. It reaches nothing outside: neighbours may
          overlap.
        * "sigmoid": cos²(π/2 · (r - r₁)/(r₂ - r₁)) between the two radii, and 1 inside.
        * "gaussian": exp(-r²/2σ²).
        * "logistic": 1/(1 + exp(8 (r - (r₁ + r₂)/2)/(r₂ - r₁))).
        * "flat": no trench. The total is then 1, not 0.
    center : (float, float), optional
        Centre of the probe, pixels. None: measured (`measure_disk`).
    radius : float, optional
        Radius of the probe, pixels. None: measured.
    trench : (float, float), optional
        r₁, r₂ in pixels. Default: 1 and 3 times the radius.
    sigma : float, optional
        σ of the Gaussian, pixels. Default: twice the radius (useful: 1.5 to 3 radii).
    background : bool
        Subtract the detector's background from the probe (`without_background`). With background the template is too wide, and finds
        disks in noise. False uses the probe as it is.

    Returns
    -------
    Template

    Raises
    ------
    InputError
        The probe is no image, has no disk, or is cut by the border.

    Examples
    --------
    >>> from gpu4d.probe import synthetic
    >>> t = template(synthetic((64, 64), 6.0, center=(31.75, 32.0)))
    >>> abs(float(t.kernel.sum())) < 1e-12, [abs(round(o, 2)) for o in t.offset]
    (True, [0.25, 0.0])
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}: need one of {', '.join(KINDS)}")
    image = _image(probe, "probe")
    disk = None if center is not None and radius is not None else measure_disk(image)
    c = np.asarray(floats(center) if center is not None else (disk.qx, disk.qy), dtype=np.float64)  # type: ignore[union-attr]
    r0 = float(radius) if radius is not None else disk.radius  # type: ignore[union-attr]
    for axis, name in enumerate(("qx", "qy")):
        if not r0 <= c[axis] + 0.5 <= image.shape[axis] - r0:
            raise InputError(
                f"the probe at {name} = {c[axis]:.1f} px, radius {r0:.1f}, is cut by a detector of {image.shape} pixels: give an image of "
                "the whole probe, or the right center= and radius="
            )
    if r0 < SPOT:
        c = np.rint(c)
        image = synthetic(image.shape, r0, center=(c[0], c[1]), edge=disk.edge if disk else 1.0)
    if background or r0 < SPOT:
        image = without_background(image, (c[0], c[1]), max(r0, LEAST_TRENCH))
    whole = np.rint(c)
    corner = np.roll(image, tuple(-whole.astype(int)), (0, 1)) / image.sum()
    offset = c - whole
    if kind == "auto":
        kind = "own" if r0 >= SPOT and pattern_inside(image, (c[0], c[1]), r0) > LEAST_PATTERN else "sigmoid"
    kernel = corner
    if kind == "own":
        even = 1.0 / (1.0 + np.exp(np.clip(4 * (_distance(image.shape, offset) - r0) / (disk.edge if disk else 1.0), -60, 60)))
        kernel = corner - even / even.sum()
        if not np.abs(kernel).sum() > LEAST_PATTERN * corner.sum():
            raise InputError("kind='own': the probe has no pattern inside: use kind='sigmoid'")
    elif kind != "flat":
        profile = _trench(_distance(image.shape, offset), kind, max(r0, LEAST_TRENCH), trench, sigma)
        kernel = corner - profile / profile.sum()
    return Template(kernel, (float(offset[0]), float(offset[1])), r0, disk.edge if disk else 1.0, kind, image)


def without_background(image: np.ndarray, center: tuple[float, float], radius: float) -> np.ndarray:
    """Return a probe without background: subtract the level of pixels beyond `REACH` radii, and set these pixels to 0."""
    far = np.hypot(np.arange(image.shape[0])[:, None] - center[0], np.arange(image.shape[1])[None, :] - center[1]) > REACH * radius
    level = max(float(np.median(image[far])), float(image[far].mean())) if far.any() else 0.0
    return np.where(far, 0.0, image - level)


def pattern_inside(image: np.ndarray, center: tuple[float, float], radius: float) -> float:
    """Return how strong the fine structure inside a probe is: its rms over the mean intensity. Noise of the image does not count.

    Slopes are removed by smoothing. The rest is multiplied with itself, moved by a pixel, and averaged: noise of pixels vanishes then.
    An evenly filled disk has 0, a bullseye or a cross about 0.5 to 1.

    Parameters
    ----------
    image : (Qx, Qy) float64
    center : (float, float)
        Pixels.
    radius : float
        Pixels.
    """
    from scipy.ndimage import gaussian_filter

    r = np.hypot(np.arange(image.shape[0])[:, None] - center[0], np.arange(image.shape[1])[None, :] - center[1])
    inside, near = (r < radius - 1.5).astype(np.float64), r < max(STEEPEST * radius, radius - 3.0)
    width = SMOOTHED * radius
    smooth = gaussian_filter(image * inside, width) / np.maximum(gaussian_filter(inside, width), 1e-9)
    rest = np.where(near, image - smooth, 0.0)
    together = [rest[1:] * rest[:-1], rest[:, 1:] * rest[:, :-1]]
    pairs = (near[1:] & near[:-1]).sum() + (near[:, 1:] & near[:, :-1]).sum()
    mean = float(image[near].mean()) if near.any() else 0.0
    if pairs == 0 or not mean > 0:
        return 0.0
    return float(np.sqrt(max(sum(float(t.sum()) for t in together) / pairs, 0.0)) / mean)


def as_template(given: TemplateLike) -> Template:
    """Return a Template as it is. A two-dimensional array is taken as a vacuum probe and gets the trench of kind "auto"."""
    if isinstance(given, Template):
        return given
    if given is None or isinstance(given, str | int | float):
        raise InputError(f"template is {given!r}: need a Template (gpu4d.probe.template) or a vacuum probe (Qx, Qy)")
    return template(given)


def _image(given: Any, name: str) -> np.ndarray:
    """Return an image as float64 on the host. Raise InputError if it has NaN or infinite pixels."""
    image = host_image(given, f"the {name}").astype(np.float64)
    wrong = int((~measured_pixels(image)).sum())
    if wrong:
        raise InputError(f"the {name} has {wrong} NaN or infinite pixels: set them to 0 or interpolate them")
    return image


def _distance(shape: tuple[int, ...], offset: np.ndarray) -> np.ndarray:
    """Return the distance of every pixel from [0, 0] + offset, with the detector wrapped round."""
    x, y = (np.fft.fftfreq(n, 1.0 / n) - o for n, o in zip(shape, offset))
    return np.hypot(x[:, None], y[None, :])


def _trench(r: np.ndarray, kind: str, radius: float, trench: tuple[float, float] | None, sigma: float | None) -> np.ndarray:
    """Return the trench at distances r, not normalised."""
    inner, outer = floats(trench) if trench is not None else (radius, 3.0 * radius)
    if not 0 <= inner < outer:
        raise InputError(f"trench=({inner}, {outer}): need 0 ≤ r₁ < r₂ in pixels")
    if kind == "gaussian":
        s = 2.0 * radius if sigma is None else float(sigma)
        return np.exp(-(r**2) / (2 * s * s))
    if kind == "logistic":
        return 1.0 / (1.0 + np.exp(np.clip(8 * (r - (inner + outer) / 2) / (outer - inner), -60, 60)))
    return np.where(r <= outer, np.cos(np.pi / 2 * np.clip((r - inner) / (outer - inner), 0, 1)) ** 2, 0.0)
