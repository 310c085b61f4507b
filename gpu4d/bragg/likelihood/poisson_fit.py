"""Fit one disk at a time by Poisson maximum likelihood: its position, as precise as the counts allow, and its covariance.

A correlation gives every pixel the same weight, and a slope of the background shifts its maximum. The likelihood has neither error.
Its precision depends on the template (`disk_shape`). For a round probe this is a radial profile, which the probe's own pixels sample far
more finely than one pixel. For other probes it is a grid profile. A sharp probe image shifted by Fourier is undersampled, and the fit
with it misses the position by 0.05 px.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.cache import kept_by_content
from gpu4d.data.arguments import host_image
from gpu4d.errors import InputError
from gpu4d.operation import KERNEL_FRAME, KERNEL_PIXELS, Twin, operation
from gpu4d.probe.measure_disk import Disk
from gpu4d.probe.shape.disk_shape import DiskShape, disk_shape, fine_shape
from gpu4d.probe.shape.fine_image import FineImage
from gpu4d.probe.shape.radial_profile import STEP, usual_reach
from gpu4d.probe.synthetic import synthetic
from gpu4d.probe.template_kernel import Template

PHASES = 16  # sub-pixel positions of the template in each direction; between them it is shifted to first order
INSIDE, RING = 1, 2  # zones of the window; their mean counts give the first amplitude and background
SEEN = 0.25  # of the plateau: brighter pixels are never in the zone RING, darker ones never in INSIDE, for any form of the disk
FARTHEST = 1.5  # px from the start, and the largest standard error; beyond either limit the fit has failed
LONGEST = 0.5  # px, one step
SHORT_STEP = 0.02  # px: the last step must be shorter than this, or than the standard error
RECENTRE = 0.6  # px: a position farther from the window's middle moves the window
STEPS = {4: 3, 6: 3, 8: 4}  # steps of the fit, by its number of parameters
LEAST = 0.02  # counts: the smallest value of the model


class PoissonFit(NamedTuple):
    """Fitted disks, (n, K) each. Places after the last disk have NaN.

    Attributes
    ----------
    x, y : float64, pixels
        Position. Where the fit failed it is the start.
    amplitude, background : float64, counts per pixel
        Height of the disk's plateau over the background, and background at its centre. NaN where the fit failed.
    xx, xy, yy : float64, px²
        Covariance of the position, from the inverse of the whole Fisher matrix. NaN where the fit failed.
    ok : bool
        False where the fit failed. A fit fails in four cases: it ends more than 1.5 px from its start, its last step is longer than both
        the standard error and 0.02 px, its window leaves the detector, or the standard error exceeds 1.5 px.
    """

    x: Any
    y: Any
    amplitude: Any
    background: Any
    xx: Any
    xy: Any
    yy: Any
    ok: Any


@dataclass(frozen=True)
class DiskProfile:
    """A disk at every sub-pixel phase, on the pixels of a round window.

    Attributes
    ----------
    table : (17, 17, 3, m) float32
        D, dD/dx, dD/dy for a disk p/16 - 1/2, q/16 - 1/2 px from the window's middle. D is 1 on the plateau.
    pixels : (m, 3) int32
        Offsets of the pixels from the middle, in the order of rows, and the zone: 1 inside the disk, 2 around it, 0 on its edge.
    radius, reach : float
        Radius of the disk and of the window, pixels.
    """

    table: np.ndarray
    pixels: np.ndarray
    radius: float
    reach: float

    @property
    def spacing(self) -> float:
        """Return the distance below which the windows of two disks overlap, pixels."""
        return 2 * self.reach


def disk_profile(probe: Any, *, reach: float | None = None) -> DiskProfile:
    """Tabulate a disk at sub-pixel positions, as the template of `poisson_fit`.

    The probe's pixels lie at many different radii, so together they sample its edge far more finely than one pixel. A logistic edge is
    fitted, and a spline is fitted to the residual. The noise of the image determines how smooth the spline is. A probe that is not
    round or not even has a grid profile instead: splines of the logit of its image.

    Parameters
    ----------
    probe : Template or (Qx, Qy) array
        Vacuum probe, counts or any scale. For a template from `refine_template` the measured shape is used (`Template.fine`). For a
        template without a probe it is a flat disk with the template's radius and edge.
    reach : float, optional
        Radius of the window, pixels. Default: R + max(3, 2 + 1.3 w), with w the width of the edge.

    Returns
    -------
    DiskProfile

    Raises
    ------
    InputError
        The probe has no disk. Or it is not round, and so sharp that its pixels do not show its rim.

    Examples
    --------
    >>> import gpu4d
    >>> p = disk_profile(gpu4d.probe.synthetic((64, 64), 6.0))
    >>> p.table.shape[:3], round(p.radius, 1), round(p.reach, 1)
    ((17, 17, 3), 6.0, 9.3)
    """
    if isinstance(probe, Template) and probe.fine is not None:
        values = np.asarray(probe.fine.values, np.float64)
        return _fine_profile_of(values.tobytes(), len(values), probe.fine.step, (probe.radius, probe.edge), reach)
    vacuum: Any = probe.probe if isinstance(probe, Template) else probe
    if isinstance(probe, Template) and vacuum is None:
        half = ceil(probe.radius + 4 * probe.edge) + 2
        image = synthetic((2 * half + 1, 2 * half + 1), probe.radius, edge=probe.edge)
    else:
        image = host_image(vacuum, "the probe")
    return _profile_of(image.astype(np.float64).tobytes(), image.shape, reach)


@kept_by_content(maxsize=8)
def _profile_of(pixels: bytes, shape: tuple[int, int], reach: float | None) -> DiskProfile:
    """Tabulate an image float64."""
    return _tabulated(disk_shape(pixels, shape), reach)


@kept_by_content(maxsize=8)
def _fine_profile_of(values: bytes, size: int, step: float, rim: tuple[float, float], reach: float | None) -> DiskProfile:
    """Tabulate a fine image. `rim` has the radius and edge of its disk."""
    fine = FineImage(np.frombuffer(values).reshape(size, size), step)
    return _tabulated(fine_shape(fine, Disk(0.0, 0.0, *rim, 0.0)), reach)


def _tabulated(shape: DiskShape, reach: float | None) -> DiskProfile:
    """Tabulate a disk at every phase, on the pixels of its window."""
    radius = float(shape.disk.radius)
    far = usual_reach(shape.disk) if reach is None else float(reach)
    if not far >= max(radius, 1.0):
        raise InputError(f"reach={far} px: the window must hold the disk of radius {radius:.1f} px")
    half = ceil(far)
    offsets = np.arange(-half, half + 1)
    dx, dy = (a.ravel() for a in np.meshgrid(offsets, offsets, indexing="ij"))
    r = np.hypot(dx, dy)
    inside = r <= far
    bright = shape.value(dx.astype(np.float64), dy.astype(np.float64)) > SEEN
    zone = np.where(bright & (r <= max(radius - 1, 0.0)), INSIDE, np.where(~bright & (r >= radius + 1), RING, 0))
    pixels = np.stack([dx, dy, zone], -1)[inside].astype(np.int32)
    phase = np.arange(PHASES + 1) / PHASES - 0.5
    x = pixels[:, 0] - phase[:, None, None] + np.zeros((1, PHASES + 1, 1))
    y = pixels[:, 1] - phase[None, :, None] + np.zeros((PHASES + 1, 1, 1))
    e, at = STEP / 2, shape.value
    layers = [at(x, y), (at(x + e, y) - at(x - e, y)) / (2 * e), (at(x, y + e) - at(x, y - e)) / (2 * e)]
    table = np.ascontiguousarray(np.stack(layers, 2), np.float32)
    table.flags.writeable = pixels.flags.writeable = False  # twins keep what they make of it
    return DiskProfile(table, pixels, radius, far)


def steps_of(parameters: int, iterations: int | None = None) -> int:
    """Return the number of steps of a fit, and check both arguments. 8 parameters take one step more: slopes inside start at 0."""
    if parameters not in STEPS:
        raise InputError(f"parameters={parameters!r}: need 4 (position, amplitude, background), 6 (+ its slopes) or 8 (+ slopes inside)")
    if iterations is None:
        return STEPS[parameters]
    if not iterations >= 1:
        raise InputError(f"iterations={iterations!r}: need at least one step")
    return int(iterations)


@operation(
    cuda=Twin("gpu4d.kernels.poisson_fit", KERNEL_PIXELS, frame=KERNEL_FRAME),
    cpu=Twin("gpu4d.cpu_fallback.poisson_fit"),
)
def poisson_fit(
    patterns: Any,
    x: Any,
    y: Any,
    count: Any,
    table: Any,
    pixels: Any,
    /,
    mask: Any = None,
    parameters: int = 6,
    iterations: int | None = None,
    spacing: float = 0.0,
) -> PoissonFit:
    """Maximise the Poisson likelihood of each disk alone, from a start within a pixel.

    The model is λ(q) = b + bx u + by v + (a + cx u + cy v) D(q - r), with u and v along the window's axes from -1 to 1. A step of
    Fisher scoring is δ = (Σ ∇λ ∇λᵀ / λ)⁻¹ Σ (I/λ - 1) ∇λ. At the end (Σ ∇λ ∇λᵀ / λ)⁻¹ is the covariance.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real, counts
    x, y : (n, K) real
        First positions, pixels: maxima of a correlation map.
    count : (n,) int
        Number of disks among the K places.
    table, pixels
        From `disk_profile`.
    mask : (Qx, Qy) bool, optional
        True where the detector counts. Other pixels are not used.
    parameters : {4, 6, 8}
        4: position, a, b. 6: also the slopes bx, by of the background. 8: also the slopes cx, cy of the intensity inside the disk.
        They cost 19 % of the precision if the intensity has no slope, and improve it if there is one.
    iterations : int, optional
        Number of steps. Default: 3, or 4 for 8 parameters. From a maximum of the correlation this ends within a tenth of the standard
        error (within a quarter, if the intensity changes by 60 % over a radius).
    spacing : float
        A disk with another one nearer than this is not fitted, pixels. Reach of the window plus radius of the disk keeps other disks
        out of the window.

    Returns
    -------
    PoissonFit

    Notes
    -----
    A disk that is not fitted because another one is near has ok = False too. So has a disk in an empty pattern, or with a NaN in its
    window.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> probe = gpu4d.probe.synthetic((48, 48), 4.0)
    >>> counts = np.rint(500 * gpu4d.probe.synthetic((48, 48), 4.0, center=(20.3, 25.6)) + 10)[None]
    >>> p, at = disk_profile(probe), np.ones((1, 1))
    >>> fit = poisson_fit(counts, 20 * at, 26 * at, np.asarray([1]), p.table, p.pixels)
    >>> round(float(fit.x[0, 0]), 2), round(float(fit.y[0, 0]), 2), bool(fit.ok[0, 0])
    (20.3, 25.6, True)
    """
    iterations = steps_of(parameters, iterations)
    xp = arrays.namespace(patterns, x, y, count, table, pixels)
    n, nx, ny = patterns.shape
    most = x.shape[1]
    flat = lambda v: xp.reshape(v, (n * most,))  # noqa: E731
    found = xp.arange(most, dtype=count.dtype, device=arrays.device(count))[None, :] < count[:, None]
    startx, starty = (flat(arrays.as_float64(xp.where(found, v, xp.zeros_like(v)))) for v in (x, y))
    number = xp.broadcast_to(xp.arange(n, dtype=xp.int64, device=arrays.device(x))[:, None], (n, most))
    window = Window(xp.reshape(patterns, (n * nx * ny,)), (nx, ny), mask, flat(number), pixels)
    start = (startx, starty)
    cx, cy = (xp.floor(v + 0.5) for v in start)
    alive = window.holds(cx, cy) & ~flat(_crowded(x, y, found, spacing))
    counts, weight = window.at(cx, cy)
    zones = [arrays.as_float64(pixels[:, 2] == z)[None, :] * weight for z in (INSIDE, RING)]
    size = [xp.sum(z, axis=-1) for z in zones]
    inner, outer = (xp.sum(counts * z, axis=-1) / xp.where(s > 0, s, xp.ones_like(s)) for z, s in zip(zones, size))
    b = xp.maximum(outer, xp.full_like(outer, 0.05))
    a = xp.maximum(inner - b, xp.full_like(inner, 0.1))
    state = [startx, starty, a, b, *(xp.zeros_like(a) for _ in range(parameters - 4))]
    covariance, last = [xp.full_like(a, float("nan"))] * 3, [xp.zeros_like(a)] * 2
    for _ in range(iterations):
        cx, cy = window.follow(cx, cy, state[0], state[1])
        counts, weight = window.at(cx, cy)
        model, gradient = _model(state, template_at(table, state[0] - cx, state[1] - cy), window)
        step, covariance, regular = _score(counts, weight, model, gradient)
        alive = alive & regular
        before, state = state, _moved(state, [xp.where(alive, s, xp.zeros_like(s)) for s in step])
        last = [now - then for now, then in zip(state[:2], before[:2])]
        alive = alive & _near(state[0], startx) & _near(state[1], starty)
    located = alive
    for variance, moved in zip(covariance[::2], last):
        located = located & (variance < FARTHEST**2) & (moved * moved <= xp.maximum(variance, xp.full_like(a, SHORT_STEP**2)))
    ok = located & flat(found)
    nan = xp.full_like(a, float("nan"))
    position = [xp.where(ok, s, xp.where(flat(found), v, nan)) for s, v in zip(state[:2], start)]
    rest = [xp.where(ok, v, nan) for v in (*state[2:4], *covariance)]
    return PoissonFit(*(xp.reshape(v, (n, most)) for v in (*position, *rest, ok)))


def _crowded(x: Any, y: Any, found: Any, spacing: float) -> Any:
    """Return (n, K) bool: True where another disk of the pattern is nearer than `spacing`."""
    xp = arrays.namespace(x)
    x, y = (arrays.as_float64(xp.where(found, v, xp.full_like(v, float("nan")))) for v in (x, y))
    near = (x[:, :, None] - x[:, None, :]) ** 2 + (y[:, :, None] - y[:, None, :]) ** 2 < spacing * spacing
    slot = xp.arange(x.shape[1], dtype=xp.int64, device=arrays.device(x))
    return xp.any(near & (slot[:, None] != slot[None, :]), axis=-1)


class Window:
    """Pixels around the centre of each disk, (disks, m)."""

    def __init__(self, flat: Any, shape: tuple[int, int], mask: Any, number: Any, pixels: Any):
        xp = arrays.namespace(flat)
        self.flat = arrays.as_float64(flat)  # torch cannot gather unsigned integers wider than a byte
        self.shape, self.mask, self.number = shape, mask, number
        self.dx, self.dy = (xp.astype(pixels[:, i], xp.int64) for i in (0, 1))
        self.half = arrays.as_float64(-self.dx[0])
        self.u, self.v = (arrays.as_float64(d) / self.half for d in (self.dx, self.dy))

    def holds(self, cx: Any, cy: Any) -> Any:
        """Return True where a window with this middle lies on the detector."""
        xp = arrays.namespace(cx)
        half, (nx, ny) = self.half, self.shape
        finite = xp.isfinite(cx) & xp.isfinite(cy)
        return finite & (cx >= half) & (cy >= half) & (cx + half <= nx - 1) & (cy + half <= ny - 1)

    def follow(self, cx: Any, cy: Any, x: Any, y: Any) -> tuple[Any, Any]:
        """Return new middles of the windows: moved to (x, y) where that is more than `RECENTRE` away and on the detector."""
        xp = arrays.namespace(x)
        tx, ty = xp.floor(x + 0.5), xp.floor(y + 0.5)
        go = ((xp.abs(x - cx) > RECENTRE) | (xp.abs(y - cy) > RECENTRE)) & self.holds(tx, ty)
        return xp.where(go, tx, cx), xp.where(go, ty, cy)

    def at(self, cx: Any, cy: Any) -> tuple[Any, Any]:
        """Return the counts of the windows, and weights.

        The weight is 1 on valid pixels. Masked pixels have weight 0 and 0 counts. A window that leaves the detector has the value of pixel
        [0, 0] everywhere, and its disk is not used.
        """
        xp = arrays.namespace(cx)
        nx, ny = self.shape
        inside = self.holds(cx, cy)
        zero = xp.zeros_like(cx)
        i = xp.astype(xp.where(inside, cx, zero), xp.int64)[:, None] + self.dx[None, :]
        j = xp.astype(xp.where(inside, cy, zero), xp.int64)[:, None] + self.dy[None, :]
        pixel = xp.where(inside[:, None], i * ny + j, xp.zeros_like(i))
        index = self.number[:, None] * (nx * ny) + pixel
        if self.flat.shape[0] == 0:
            none = arrays.as_float64(index)
            return none, none
        counts = xp.reshape(xp.take(self.flat, xp.reshape(index, (-1,))), index.shape)
        weight = xp.ones_like(counts)
        if self.mask is not None:
            valid = xp.take(xp.reshape(self.mask, (-1,)), xp.reshape(pixel, (-1,)))
            weight = arrays.as_float64(xp.reshape(valid, index.shape))
            counts = xp.where(weight > 0, counts, xp.zeros_like(counts))
        return counts, weight


def template_at(table: Any, fx: Any, fy: Any) -> tuple[Any, Any, Any]:
    """Return D, dD/dx, dD/dy (disks, m) of disks (fx, fy) px from the middle: the nearest phase, shifted to first order."""
    xp = arrays.namespace(table, fx)
    phases = table.shape[0] - 1
    whole = [xp.clip(xp.floor((f + 0.5) * phases + 0.5), 0, phases) for f in (fx, fy)]
    clean = [xp.astype(xp.where(xp.isfinite(w), w, xp.zeros_like(w)), xp.int64) for w in whole]
    rows = xp.reshape(table, ((phases + 1) ** 2, 3, table.shape[-1]))
    d = arrays.as_float64(xp.take(rows, clean[0] * (phases + 1) + clean[1], axis=0))
    dx, dy = (f + 0.5 - w / phases for f, w in zip((fx, fy), whole))
    return d[:, 0, :] - dx[:, None] * d[:, 1, :] - dy[:, None] * d[:, 2, :], d[:, 1, :], d[:, 2, :]


def _model(state: list[Any], template: tuple[Any, Any, Any], window: Window) -> tuple[Any, Any]:
    """Return λ (disks, m) and its derivatives by x, y, a, b, bx, by, cx, cy (disks, m, parameters)."""
    d, slope_x, slope_y = template
    xp = arrays.namespace(d)
    u, v = (xp.broadcast_to(w[None, :], d.shape) for w in (window.u, window.v))
    column = lambda s: xp.broadcast_to(s[:, None], d.shape)  # noqa: E731
    height, ground = column(state[2]), column(state[3])
    if len(state) > 4:
        ground = ground + column(state[4]) * u + column(state[5]) * v
    if len(state) > 6:
        height = xp.maximum(height + column(state[6]) * u + column(state[7]) * v, 0.05 * height)
    model = ground + height * d
    rows = [-height * slope_x, -height * slope_y, d, xp.ones_like(d), u, v, u * d, v * d][: len(state)]
    return xp.maximum(model, xp.full_like(model, LEAST)), xp.stack(rows, axis=-1)


def _score(counts: Any, weight: Any, model: Any, gradient: Any) -> tuple[list[Any], list[Any], Any]:
    """Return a step of Fisher scoring, the covariance of the position, and True where the Fisher matrix has an inverse."""
    xp = arrays.namespace(counts)
    scaled = gradient * (weight / model)[..., None]
    fisher = xp.matmul(xp.matrix_transpose(scaled), gradient)
    slope = xp.sum(scaled * (counts - model)[..., None], axis=-2)
    size = fisher.shape[-1]
    eye = xp.eye(size, dtype=fisher.dtype, device=arrays.device(fisher))
    diagonal = xp.sum(fisher * eye, axis=-1)
    positive = diagonal > 0
    unit = 1 / xp.sqrt(xp.where(positive, diagonal, xp.ones_like(diagonal)))  # scales: counts and pixels differ by powers of ten
    wanted = xp.concat([(unit * slope)[..., None], xp.broadcast_to(eye[:, :2], (*slope.shape, 2))], axis=-1)
    answer, regular = arrays.solve(fisher * unit[..., :, None] * unit[..., None, :], wanted)
    answer = answer * unit[..., None]
    xx, xy, yy = answer[..., 0, 1] * unit[..., 0], answer[..., 1, 1] * unit[..., 0], answer[..., 1, 2] * unit[..., 1]
    return [answer[..., i, 0] for i in range(size)], [xx, xy, yy], regular & xp.all(positive, axis=-1)


def _moved(state: list[Any], step: list[Any]) -> list[Any]:
    """Add a step to the parameters. It is limited to half a pixel, and reduces amplitude and background by four fifths at most."""
    xp = arrays.namespace(state[0])
    position = [s + xp.clip(d, -LONGEST, LONGEST) for s, d in zip(state[:2], step[:2])]
    positive = [xp.maximum(s + d, 0.2 * s) for s, d in zip(state[2:4], step[2:4])]
    return [*position, *positive, *(s + d for s, d in zip(state[4:], step[4:]))]


def _near(x: Any, start: Any) -> Any:
    """Return True where x is within `FARTHEST` of the start."""
    return arrays.namespace(x).abs(x - start) <= FARTHEST
