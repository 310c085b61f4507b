"""Refine a template from a scan: thousands of disks at all sub-pixel positions determine the disk shape between the pixels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from gpu4d.arrays import Array, ArrayLike
from gpu4d.bragg.likelihood.poisson_fit import PHASES, disk_profile
from gpu4d.bragg.template_from_scan.disk_windows import windows_of
from gpu4d.bragg.template_from_scan.shared_shape import NEAR, Grid, JointFit, Radial, Shape, smoothed
from gpu4d.data import DataCube, PointListArray
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.probe.measure_disk import Disk, measure_disk
from gpu4d.probe.shape.disk_shape import disk_shape
from gpu4d.probe.shape.fine_image import FineImage
from gpu4d.probe.shape.radial_profile import usual_reach
from gpu4d.probe.synthetic import synthetic
from gpu4d.probe.template_kernel import Template, TemplateLike, as_template
from gpu4d.probe.template_kernel import template as make_template

log = logging.getLogger("gpu4d")

SHAPES = ("auto", "round", "grid")
LEAST = 20  # disks: a shape has some fifteen unknowns
GRID_PIXELS = 1e6  # most pixels of all windows if a grid is fitted, which takes ten times as long
FINEST, FINE_STEPS = 0.125, 8  # px between samples of the result, and samples in its edge: the error of its spline is then 3e-5
KNOTS, GRID_KNOTS, MOST_KNOTS = 4, 2.5, 1600  # knots in the width of the edge: radial, and of a grid; knots of a grid in all
SHARPEST, STEEPEST = 0.1, 0.25  # px: least width of the edge, and least width that sets the distance of knots
LONGEST = 0.5  # px, one step of radius or edge
ROUNDS = {"disks": 3, "edge": 8, "shape": 10, "waves": 5, "grid": 3}  # most steps of each fit
SMALL_STEP = 0.002  # px or relative height: a step smaller than this is the last
WAVES = 6  # highest harmonic of the rim
CERTAIN = 30.0  # χ² of the two parameters of a wave; noise reaches it once in three million times
SEEN = 0.01  # px, and relative height: smaller waves and slopes do not matter
PLAIN = 0.2  # of the height: a probe that differs less from a logistic edge is started as one
PLATEAU = 0.7  # radii: the mean within this distance from the centre is 1
OVERSAMPLED = 4  # points per pixel on which the centre of a shape that is not round is measured


@on_host("sample")
def refine_template(
    cube_or_patterns: DataCube | Array,
    disks: PointListArray | None,
    template: TemplateLike,
    *,
    patterns: int = 256,
    rounds: int = 1,
    shape: str = "auto",
    where: ArrayLike | None = None,
) -> Template:
    """Measure the shape of a disk from all disks of a scan, finer than the pixels, and return a template with that shape.

    The likelihood fit is only as good as its model of the disk. A vacuum image with few counts, with another radius or edge, or a
    synthetic disk limits it. A scan has thousands of disks at all sub-pixel positions. They are fitted together:

        λ(q) = b + bx u + by v + a S(q - r)

    Each disk has its own r, a, b, bx, by. The shape S is common to all. Gauss-Newton steps maximise the Poisson likelihood. The
    parameters of single disks are eliminated (Schur complement), so that no shift, amplitude or background enters S.

    S is a logistic edge with free radius and width, plus a spline in r (if the disk is not round, also one on a grid). The
    smoothness of the spline is the one that makes the data most likely (empirical Bayes): fewer counts give a smoother S.
    Intensity that varies inside single disks is averaged. The size of this variation lowers the weights.
    The method is that of effective point-spread functions (Anderson & King, PASP 112 (2000) 1360), solved in one fit.

    Parameters
    ----------
    cube_or_patterns : DataCube or (..., Qx, Qy) array, counts
    disks : PointListArray or None
        Disks found with the template (`find_bragg_disks`), in the scan's shape. None: disks are searched in the patterns used.
    template : Template or (Qx, Qy) array
        Start of the fit. Its radius should be right to about a pixel.
    patterns : int
        Number of patterns that are read, spread evenly over those allowed. The same patterns are read every time.
    rounds : int
        How often disks are selected and fitted. One round is enough, unless the start is far off.
    shape : {"auto", "round", "grid"}
        "round": a function of the distance from the centre. "grid": any shape: harmonics of the rim, slopes inside and a grid.
        "auto": "round" unless the disks certainly show otherwise (a wave of the rim of 0.01 px, a slope inside of 1 %).
    where : (Rx, Ry) bool, optional
        Positions that may be used. For an array of patterns it has the shape of the leading axes.

    Returns
    -------
    Template
        `fine` is S, scaled to 1 on the plateau (the mean within 0.7 radii). Probe, kernel, radius and edge follow from S. The trench of
        the kernel stays. The centre is that of a round S, else that of the circle through the rim (`measure_disk`).

    Raises
    ------
    InputError
        Fewer than 20 disks can be used: isolated, on the detector, with counts. Or a parameter is out of range.

    Notes
    -----
    Empty patterns, windows with a NaN and masked pixels are not used. A disk that has another one nearer than about 2 R + 5 px is
    left out, and so are disks that fit far worse than most. If a template that is not round already fits the disks better than the
    new shape (straight sides and corners), it is returned unchanged, with a warning. On a grid the last bits of the result depend
    on the number of BLAS threads (seen: 1e-12 of the height).

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> at = np.random.default_rng(0).uniform(20, 28, (30, 2))
    >>> counts = np.stack([np.rint(500 * gpu4d.probe.synthetic((48, 48), 4.0, center=c) + 5) for c in at])
    >>> start = gpu4d.probe.template(gpu4d.probe.synthetic((48, 48), 4.3))
    >>> refined = gpu4d.refine_template(counts, None, start)
    >>> round(refined.radius, 1), round(refined.edge, 1)
    (4.0, 1.0)
    """
    start = as_template(template)
    _check(patterns, rounds, shape)
    reach = start.radius + max(5.0, 2.0 + 2.6 * start.edge)
    windows, seen, alone = windows_of(cube_or_patterns, disks, start, reach, int(patterns), where)
    if len(windows.x) < LEAST:
        raise InputError(
            f"{len(windows.x)} disks to refine a template from, {LEAST} are needed: of {seen} disks in the patterns used, {alone} lie "
            f"{reach + start.radius + start.edge:.0f} px or more from others; use more patterns, or a template of the right radius"
        )
    together = JointFit(windows, _start(start, reach))
    for _ in range(int(rounds)):
        _fit_round(together)
        _enough(together)
    if shape == "grid" or (shape == "auto" and _not_round(together)):
        _fit_any(together)
        own = _own_shape(start)
        if own is not None and _misfit(together, own) <= _misfit(together, together.shape):
            log.warning("the given template fits the disks of the scan better than the shape refined from them; it is returned unchanged")
            return start
    s = together.shape
    form = "round" if s.grid is None else "on a grid"
    log.info("template from %d disks: radius %.3f px, edge %.3f px, %s", len(together.state), s.radius, s.edge, form)
    return _as_template(s, reach, start)


def _check(patterns: int, rounds: int, shape: str) -> None:
    """Raise InputError if a parameter is not accepted."""
    for name, value in (("patterns", patterns), ("rounds", rounds)):
        if not (isinstance(value, int | np.integer) and value >= 1):
            raise InputError(f"{name}={value!r}: need a whole number, at least 1")
    if shape not in SHAPES:
        raise InputError(f"shape={shape!r}: need one of {', '.join(map(repr, SHAPES))}")


def _start(template: Template, reach: float) -> Shape:
    """Return the round part of the template's own shape, or a flat disk if the template has no profile."""
    try:
        profile = disk_profile(template, reach=reach)
    except (InputError, np.linalg.LinAlgError):
        profile = disk_profile(synthetic(template.shape, template.radius, edge=template.edge), reach=reach)
    phase = np.arange(PHASES + 1) / PHASES - 0.5
    r = np.hypot(*np.broadcast_arrays(*(profile.pixels[:, i] - p for i, p in ((0, phase[:, None, None]), (1, phase[None, :, None])))))
    edge = max(template.edge, SHARPEST)
    basis = Radial(max(edge, STEEPEST) / KNOTS, reach)
    empty = Shape(template.radius, edge, (basis, np.zeros(basis.size)))
    r, given = r.ravel(), profile.table[:, :, 0].astype(np.float64).ravel()
    columns = basis.columns(r, 0 * r)
    normal = (columns.T @ columns).toarray()
    normal += 1e-6 * np.trace(normal) / basis.size * (basis.penalty() + np.eye(basis.size))
    rest = given - empty.value(r, 0 * r)
    if np.abs(rest).max() < PLAIN:  # radius and edge describe it; without a spline their fit corrects a wrong start in fewer steps
        return empty
    return replace(empty, radial=(basis, np.linalg.solve(normal, columns.T @ rest)))


def _enough(together: JointFit) -> None:
    """Raise InputError if too few disks are left."""
    if len(together.state) < LEAST:
        raise InputError(f"{len(together.state)} disks fit a common shape, {LEAST} are needed: check the radius of the template")


def _fit_round(t: JointFit) -> None:
    """Fit a round shape. Fit radius and edge first, because they may be far off. Then fit a spline in r too."""
    for _ in range(ROUNDS["disks"]):
        t.step()
        t.move(np.zeros(0))
    t.leave_out_outliers()
    _enough(t)
    for _ in range(ROUNDS["edge"]):
        normal, right = t.step(lambda x, y: t.shape.rim_columns(x, y))
        change = np.clip(np.linalg.solve(normal, right), -LONGEST, LONGEST)
        t.move(change)
        t.shape = _with_edge(t.shape, change)
        if np.abs(change).max() < SMALL_STEP:
            break
    basis = Radial(max(t.shape.edge, STEEPEST) / KNOTS, (t.shape.radial[0].size + 1) * t.shape.radial[0].knot)
    t.shape = replace(t.shape, radial=(basis, _resampled(t.shape.radial, basis)))
    for i in range(ROUNDS["shape"]):
        normal, right = t.step(basis.columns)
        change = smoothed(normal, right, t.shape.radial[1], basis.penalty()) - t.shape.radial[1]
        t.move(change)
        t.shape = replace(t.shape, radial=(basis, t.shape.radial[1] + change))
        if i == 0:
            t.leave_out_outliers()
            _enough(t)
        if np.abs(change).max() < SMALL_STEP:
            break


def _with_edge(shape: Shape, change: np.ndarray) -> Shape:
    """Return the shape with radius and edge changed."""
    return replace(shape, radius=shape.radius + change[0], edge=max(shape.edge + change[1], SHARPEST))


def _resampled(radial: tuple[Radial, np.ndarray], basis: Radial) -> np.ndarray:
    """Fit the spline of another basis to a radial spline. Return its coefficients."""
    r = np.arange(0.0, (basis.size + 1) * basis.knot, basis.knot / 4)
    columns = basis.columns(r, 0 * r).toarray()
    return np.linalg.lstsq(columns, radial[0].profile(radial[1], r)[0], rcond=1e-9)[0]


def _waves(shape: Shape) -> int:
    """Return the number of wave parameters of a rim. A wave needs three pixels of the rim for its amplitude and phase."""
    return 2 * (int(np.clip(np.pi * shape.radius / 3, 2, WAVES)) - 1)


def _not_round(t: JointFit) -> bool:
    """Return True if the disks differ with certainty from every function of r."""
    n = _waves(t.shape)
    normal, right = t.step(lambda x, y: t.shape.wave_columns(x, y, n))
    covariance = np.linalg.pinv(normal, hermitian=True)
    size = (covariance @ right).reshape(-1, 2)
    pairs = np.arange(n + 4).reshape(-1, 2)
    chi = np.asarray([s @ np.linalg.pinv(covariance[np.ix_(p, p)], hermitian=True) @ s for s, p in zip(size, pairs)])
    return bool(((chi > CERTAIN) & (np.hypot(*size.T) > SEEN)).any())


def _fit_any(t: JointFit) -> None:
    """Fit waves of the rim and slopes inside, which may be large.

    Then fit the rest on a grid. Keep the earlier shape if the grid fits worse.
    """
    t.keep(np.arange(0, len(t.state), ceil(t.windows.counts.size / GRID_PIXELS)))
    _enough(t)
    t.step()
    before = (t.shape, t.roughness)
    n = _waves(t.shape)
    t.shape = replace(t.shape, waves=np.zeros(n))
    for _ in range(ROUNDS["waves"]):
        normal, right = t.step(lambda x, y: np.concatenate([t.shape.rim_columns(x, y), t.shape.wave_columns(x, y, n)], 1))
        change = np.clip(np.linalg.pinv(normal, hermitian=True) @ right, -LONGEST, LONGEST)
        t.move(change)
        t.shape = replace(_with_edge(t.shape, change), waves=t.shape.waves + change[2 : n + 2], slopes=t.shape.slopes + change[n + 2 :])
        if np.abs(change).max() < SMALL_STEP:
            break
    t.leave_out_outliers()
    _enough(t)
    reach = usual_reach(Disk(0.0, 0.0, t.shape.radius, t.shape.edge, 0.0)) + float(np.abs(t.shape.waves).max())
    grid = Grid(max(t.shape.edge / GRID_KNOTS, reach * (np.pi / MOST_KNOTS) ** 0.5), reach)
    t.shape = replace(t.shape, grid=(grid, np.zeros(grid.size)))
    for _ in range(ROUNDS["grid"]):
        normal, right = t.step(grid.columns)
        now = t.shape.grid[1]  # type: ignore[index]
        change = smoothed(normal, right, now, grid.penalty()) - now
        t.move(change)
        t.shape = replace(t.shape, grid=(grid, now + change))
        if np.abs(change).max() < SMALL_STEP:
            break
    t.step()
    if not t.roughness < before[1]:
        t.shape = before[0]
        log.warning("the disks are not round, but no shape on a grid fits them better, so the template is round; start from a vacuum image")


class _Given(NamedTuple):
    """Shape of a template that is not refined, with the methods that `JointFit` calls."""

    radius: float
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def with_slopes(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the shape at points (n,), and its slopes by x and y."""
        e, at = NEAR, self.value
        return at(x, y), (at(x + e, y) - at(x - e, y)) / (2 * e), (at(x, y + e) - at(x, y - e)) / (2 * e)


def _own_shape(start: Template) -> _Given | None:
    """Return the shape of the probe, or None if it has no profile."""
    if start.fine is not None:
        return _Given(start.radius, start.fine.interpolator())
    if start.probe is None:
        return None
    try:
        return _Given(start.radius, disk_shape(start.probe.astype(np.float64).tobytes(), start.shape).value)
    except (InputError, np.linalg.LinAlgError):
        return None


def _misfit(t: JointFit, shape: Any) -> float:
    """Return the median of the disks' χ² per pixel for a fixed shape. The parameters of each disk are fitted."""
    own = JointFit(t.windows, shape)
    own.state = t.state.copy()
    for _ in range(ROUNDS["disks"]):
        own.uneven = 0.0
        own.step()
        own.move(np.zeros(0))
    own.uneven = 0.0
    own.step()
    return float(np.median(own.misfit))


def _as_template(shape: Shape, reach: float, start: Template) -> Template:
    """Return a template with shape S: a fine image around its centre, a probe on pixels, and a kernel with the trench of `start`."""
    centre = _centre(shape, reach)
    far = max(reach, usual_reach(Disk(0.0, 0.0, shape.radius, shape.edge, 0.0))) + 1.5
    step = min(FINEST, shape.edge / FINE_STEPS)
    x, y = np.meshgrid(*[np.arange(-ceil(far / step), ceil(far / step) + 1) * step] * 2, indexing="ij")
    values = shape.value((x + centre[0]).ravel(), (y + centre[1]).ravel()).reshape(x.shape)
    fine = FineImage(values / values[np.hypot(x, y) <= PLATEAU * shape.radius].mean(), step)
    at = fine.interpolator()

    def image(offset: tuple[float, float]) -> tuple[np.ndarray, tuple[float, float]]:
        """Return S on pixels, and the position of its centre."""
        middle = (start.shape[0] // 2 + offset[0], start.shape[1] // 2 + offset[1])
        return at(np.arange(start.shape[0])[:, None] - middle[0], np.arange(start.shape[1])[None, :] - middle[1]), middle

    probe, middle = image((0.0, 0.0))
    disk = measure_disk(probe)
    kind = "sigmoid" if start.probe is None else start.kind
    trench = _own_trench(start)
    if trench is None:
        made = make_template(probe, kind, center=middle, radius=disk.radius, background=False)
    else:
        probe, middle = image(start.offset)
        corner = np.roll(probe, tuple(-(n // 2) for n in start.shape), (0, 1)) / probe.sum()
        made = Template(corner - trench, start.offset, disk.radius, kind=kind, probe=probe)
    return replace(made, edge=disk.edge, fine=fine)


def _centre(shape: Shape, reach: float) -> tuple[float, float]:
    """Return the centre of the circle through the rim, pixels. It is (0, 0) for a round shape."""
    if not len(shape.waves):
        return 0.0, 0.0
    half = ceil(reach * OVERSAMPLED)
    x, y = np.meshgrid(*[np.arange(-half, half + 1) / OVERSAMPLED] * 2, indexing="ij")
    disk = measure_disk(shape.value(x.ravel(), y.ravel()).reshape(x.shape))
    return (disk.qx - half) / OVERSAMPLED, (disk.qy - half) / OVERSAMPLED


def _own_trench(template: Template) -> np.ndarray | None:
    """Return the trench of a template, corner-centred. None if it is the usual trench for its kind and radius."""
    if template.probe is None:
        return None
    disk = measure_disk(template.probe)
    whole = np.rint([disk.qx - template.offset[0], disk.qy - template.offset[1]])
    centre = (float(whole[0] + template.offset[0]), float(whole[1] + template.offset[1]))
    usual = make_template(template.probe, template.kind, center=centre, radius=template.radius, background=False).kernel
    if np.abs(usual - template.kernel).max() <= 1e-9 * np.abs(template.kernel).max():
        return None
    return np.roll(template.probe, tuple(-whole.astype(int)), (0, 1)) / template.probe.sum() - template.kernel
