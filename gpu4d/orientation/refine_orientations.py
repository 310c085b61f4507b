"""Refine orientations by a fit to positions and intensities of peaks: an operation."""

from __future__ import annotations

import math
from typing import Any

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.operation import Twin, operation

PARAMETERS = 4  # three small turns in lab axes, and the scale of amplitudes
DAMPING = 0.01  # of the first step
FLOOR = 0.03  # least amplitude of the shape factor: between its maxima a real crystal, bent and uneven, is never dark
BLUR = 0.01  # rad: how far off candidates are when they come from a library with steps of 2°
SMALL = 1e-3  # a cost that falls by less, far below its statistical error of about 1, has arrived
PEAK = ("qx", "qy", "intensity", "variance", "error")  # columns of `peaks`


SHARED = 45_000  # bytes that a warp of the kernel may have on every card


def _too_many(turns: Any, peaks: Any, counts: Any, g: Any, *_: Any, **options: Any) -> str | None:
    """Return why the kernel cannot take so many peaks and reflections, or None."""
    needed = 92 * peaks.shape[1] + g.shape[0] // 8
    if needed <= SHARED:
        return None
    return f"{peaks.shape[1]} peaks and {g.shape[0]} reflections need {needed} bytes of shared memory, of {SHARED}"


@operation(cuda=Twin("gpu4d.kernels.refine_orientations", check=_too_many), cpu=Twin("gpu4d.cpu_fallback.refine_orientations"))
def refine_orientations(
    turns: Any, peaks: Any, counts: Any, g: Any, factor: Any, /, *, wave_number: float, thickness: float, radius: float, reach: float,
    least: float, q_max: float, q_min: float, unit: float, relative: float, rough: int = 0, steps: int = 8,
) -> tuple[Any, Any, Any, Any, Any]:  # fmt: skip
    """Refine candidates for the orientation of each pattern, by damped Gauss–Newton steps in three small turns and the scale a.

    A reflection at the excitation error s has the amplitude f = |F| √(sinc²(πst) + 0.03²). Each peak belongs to the reflection that is
    near it in the plane, within `radius`, and near the Ewald sphere. It adds |q − q_g|²/σ² + (2√m)² (√m − a f)²/v to the cost, with its
    intensity m of variance v: the variance of √m is v / 4m. If the peak costs less alone, 4m²/v, it stays unexplained, so that the peaks
    of a second grain do not pull. A reflection without a peak that should be brighter than the limit `least` adds
    4 (a f − √least)² / (unit + relative² a² f²).

    Zeros of the shape factor stop a fit that begins a degree off, those of large g first. So `rough` steps are made with a larger error:
    the variance of an amplitude is increased by (a |F| min(1, πt|g| · 0.01))², and long reflections count little.

    Parameters
    ----------
    turns : (n, c, 3, 3) real
        Candidates, v_lab = R v_crystal. NaN is no candidate.
    peaks : (n, p, 5) real
        qx, qy (1/Å, lab axes), intensity, its variance, standard error of qx and of qy (1/Å). All but the first two are positive.
    counts : (n,) int
        Number of peaks of each pattern; later ones are not read.
    g : (m, 3) real
        Reflections, 1/Å, crystal axes.
    factor : (m,) real
        |F| of each.
    wave_number : float
        1/λ, 1/Å.
    thickness : float
        t, Å.
    radius : float
        Of the search for peaks, 1/Å.
    reach : float
        Reflections with a larger |s| have no intensity, 1/Å.
    least : float
        Intensity of the weakest peak that would be found.
    q_max, q_min : float
        Between these radii a reflection without a peak counts, 1/Å.
    unit : float
        Variance of an intensity over the intensity, from counting.
    relative : float
        Relative standard error of intensities, for what the kinematical model leaves out.
    rough : int
        Steps that are made first, for candidates that are a degree off.
    steps : int
        Most steps. A candidate whose cost falls by less than 0.001 has arrived.

    Returns
    -------
    turns : (n, c, 3, 3) float64
    cost : (n, c) float64
        Twice the negative logarithm of the likelihood, up to a constant of the pattern. NaN without candidate or peaks.
    scale : (n, c) float64
        a.
    normal : (n, c, 4, 4) float64
        Normal matrix of the turns (rad) and the scale. Its inverse is the covariance.
    expected : (n, c, p) float64
        Intensity of each peak by the candidate, 0 for a peak that it does not explain.

    Raises
    ------
    InputError
        Shapes that do not fit each other.
    """
    checked(turns, peaks, counts, g, factor)
    xp = arrays.namespace(turns, peaks, counts, g, factor)
    turns, peaks, g, factor = (arrays.as_float64(a) for a in (turns, peaks, g, factor))
    model = _Model(xp, peaks, counts, g, factor, wave_number, thickness, radius, reach, least, q_max, q_min, unit, relative)
    there = xp.all(xp.isfinite(turns), axis=(-2, -1)) & (counts > 0)[:, None]
    eye = xp.eye(3, dtype=turns.dtype, device=arrays.device(turns))
    best = xp.where(there[..., None, None], turns, eye)
    zero = xp.zeros(there.shape, dtype=turns.dtype, device=arrays.device(turns))
    scale = zero
    for coarse, number in ((True, rough), (False, steps)):
        best, scale = _descend(model, best, zero, number, coarse) if number else (best, zero)
    cost, scale, normal, _, expected = model.cost(best, scale, False)
    nan = xp.full_like(cost, math.nan)
    best = xp.where(there[..., None, None], best, turns)
    normal = xp.where(there[..., None, None], normal, xp.zeros_like(normal))
    expected = xp.where(there[..., None], expected, xp.zeros_like(expected))
    return best, xp.where(there, cost, nan), xp.where(there, scale, nan), normal, expected


def _descend(model: _Model, best: Any, zero: Any, steps: int, coarse: bool) -> tuple[Any, Any]:
    """Return orientations and scales after damped Gauss–Newton steps. A step that raises the cost is not made."""
    xp = model.xp
    cost, scale, normal, right, _ = model.cost(best, zero, coarse)
    damping, alive = zero + DAMPING, zero == 0
    eye = xp.eye(PARAMETERS, dtype=zero.dtype, device=arrays.device(zero))
    for _ in range(steps):
        step, regular = arrays.solve(normal * (1 + damping[..., None, None] * eye), right[..., None])
        alive = alive & regular
        step = xp.where(alive[..., None], step[..., 0], xp.zeros_like(right))
        trial = turned(best, step[..., :3])
        wanted = scale + step[..., 3]
        tried = model.cost(trial, xp.where(wanted > 0.2 * scale, wanted, 0.2 * scale), coarse)
        better = alive & (tried[0] < cost)
        alive = alive & ~(better & (cost - tried[0] < SMALL))
        best = xp.where(better[..., None, None], trial, best)
        cost, scale = xp.where(better, tried[0], cost), xp.where(better, tried[1], scale)
        normal, right = xp.where(better[..., None, None], tried[2], normal), xp.where(better[..., None], tried[3], right)
        damping = xp.where(better, 0.2 * damping, 5.0 * damping)
    return best, scale


def turned(turns: Any, step: Any) -> Any:
    """Return orientations (..., 3, 3) after small turns (..., 3) in lab axes: by the length of the step about its direction, rad."""
    xp = arrays.namespace(turns, step)
    square = xp.sum(step * step, axis=-1)[..., None]
    angle = xp.sqrt(square)
    wide = angle > 1e-4
    safe, safe_square = xp.where(wide, angle, xp.ones_like(angle)), xp.where(wide, square, xp.ones_like(square))
    one = xp.where(wide, xp.sin(safe) / safe, 1 - square / 6)
    two = xp.where(wide, (1 - xp.cos(safe)) / safe_square, 0.5 - square / 24)
    first = _cross(xp, step, turns)
    second = _cross(xp, step, first)
    return turns + one[..., None] * first + two[..., None] * second


def _cross(xp: Any, step: Any, turns: Any) -> Any:
    """Return step × each column."""
    x, y, z = (step[..., i, None] for i in range(3))
    a, b, c = (turns[..., i, :] for i in range(3))
    return xp.stack([y * c - z * b, z * a - x * c, x * b - y * a], axis=-2)


class _Model:
    """Peaks and reflections of the fit, and its cost for a set of orientations."""

    def __init__(self, xp: Any, peaks: Any, counts: Any, g: Any, factor: Any, *numbers: float):
        self.xp, self.g, self.factor = xp, g, factor
        self.k, self.thickness, self.radius, self.reach, self.least, self.q_max, self.q_min, self.unit, self.relative = numbers
        index = xp.arange(peaks.shape[1], dtype=counts.dtype, device=arrays.device(peaks))
        length = xp.sqrt(xp.sum(g * g, axis=-1)) * (BLUR * math.pi * self.thickness)
        self.blur = factor * xp.where(length < 1, length, xp.ones_like(length))
        self.there = (index < counts[:, None])[:, None, :]
        safe = xp.where(self.there[..., None], peaks[:, None, ...], xp.ones_like(peaks[:, None, ...]))
        self.qx, self.qy, self.m, self.variance, self.error = (safe[..., i] for i in range(5))

    def cost(self, turns: Any, scale: Any, coarse: bool) -> tuple[Any, Any, Any, Any, Any]:
        """Return cost (n, c), scale, normal matrix, right side, and expected intensities. For a scale of 0 the best one is taken."""
        xp = self.xp
        lab = xp.matmul(turns, xp.matrix_transpose(self.g))  # (n, c, 3, m)
        gx, gy, gz = (lab[..., i, :] for i in range(3))
        square = self.k**2 - gx * gx - gy * gy
        down = 1 / xp.sqrt(xp.where(square > 0, square, xp.ones_like(square)))
        s = 1 / down - self.k - gz
        near = (square > 0) & (xp.abs(s) <= self.reach)
        f, slope = self._amplitude(s)
        match, matched = self._match(gx, gy, s, near)
        some = lambda a: xp.where(matched, a, xp.zeros_like(self.m + scale[..., None]))  # noqa: E731
        blur = xp.broadcast_to(self.blur if coarse else xp.zeros_like(self.blur), f.shape)
        px, py, pz, pf, pslope, pdown, pblur = (some(arrays.gather(a, match)) for a in (gx, gy, gz, f, slope, down, blur))
        root, old = xp.sqrt(self.m), scale[..., None]
        weight = some(1 / (self.variance / (4 * self.m) + (old * pblur) ** 2))
        below = xp.sum(weight * pf * pf, axis=-1)
        best = xp.sum(weight * root * pf, axis=-1) / xp.where(below > 0, below, xp.ones_like(below))
        scale = xp.where(scale > 0, scale, best)
        dim = scale[..., None]
        weight = some(1 / (self.variance / (4 * self.m) + (dim * pblur) ** 2))
        dx, dy, di = self.qx - px, self.qy - py, root - dim * pf
        own = (dx * dx + dy * dy) / self.error**2 + weight * di * di
        alone = 4 * self.m**2 / self.variance
        used = matched & (own < alone)
        cost = xp.sum(xp.where(self.there, xp.where(used, own, alone), xp.zeros_like(own)), axis=-1)
        sure, weight = (xp.where(used, a, xp.zeros_like(own)) for a in (1 / self.error**2 + 0 * own, weight))
        z = xp.zeros_like(px)
        shift = self._dim(px, py, pz, pdown, pslope * dim, pf)
        sets = [((z, pz, -py, z), dx, sure), ((-pz, z, px, z), dy, sure), (shift, di, weight)]
        expected = xp.where(used, (dim * pf) ** 2, z)
        excess = dim * f - math.sqrt(self.least)
        q = gx * gx + gy * gy
        lacking = near & ~self._found(match, used, f) & (excess > 0) & (q < self.q_max**2) & (q > self.q_min**2)
        weak = (self.unit + self.relative**2 * dim**2 * f**2) / 4 + (dim * blur) ** 2
        lack = xp.where(lacking, 1 / weak, xp.zeros_like(f))
        sets.append((self._dim(gx, gy, gz, down, slope * dim, f), -excess, lack))
        return cost + xp.sum(lack * excess**2, axis=-1), scale, *self._equations(sets), expected

    def _amplitude(self, s: Any) -> tuple[Any, Any]:
        """Return f and df/ds."""
        xp = self.xp
        x = math.pi * self.thickness * s
        wide = xp.abs(x) > 1e-3
        safe = xp.where(wide, x, xp.ones_like(x))
        sinc = xp.where(wide, xp.sin(safe) / safe, 1 - x * x / 6)
        slope = xp.where(wide, (xp.cos(safe) - sinc) / safe, -x / 3)
        size = xp.sqrt(sinc**2 + FLOOR**2)
        return self.factor * size, self.factor * sinc * slope * (math.pi * self.thickness) / size

    def _match(self, gx: Any, gy: Any, s: Any, near: Any) -> tuple[Any, Any]:
        """Return for each peak the number of its reflection, and whether it has one."""
        xp = self.xp
        dx, dy = (a[..., None] - b[..., None, :] for a, b in ((self.qx, gx), (self.qy, gy)))
        away = (dx * dx + dy * dy) / self.radius**2
        off = (s * self.thickness / 3) ** 2
        off = xp.where(off < 1, off, xp.ones_like(s))
        far = xp.where((away < 1) & near[..., None, :], 0.5 * (away + off[..., None, :]), xp.full_like(away, 2.0))
        match = xp.argmin(far, axis=-1)
        return match, self.there & (xp.min(far, axis=-1) < 1)

    def _found(self, match: Any, used: Any, f: Any) -> Any:
        """Return (n, c, m) bool: True for reflections that explain a peak."""
        xp = self.xp
        index = xp.arange(f.shape[-1], dtype=match.dtype, device=arrays.device(match))
        return xp.any((match[..., None] == index) & used[..., None], axis=-2)

    def _dim(self, gx: Any, gy: Any, gz: Any, down: Any, slope: Any, f: Any) -> tuple[Any, ...]:
        """Return derivatives of an amplitude by the turns and the scale, from ds = −dg_z − (q · dq) / √(k² − q²)."""
        return slope * (gy * gz * down - gy), slope * (gx - gx * gz * down), self.xp.zeros_like(gx), f

    def _equations(self, sets: list) -> tuple[Any, Any]:
        """Return the normal matrix and the right side of rows (derivatives, residual, weight)."""
        xp = self.xp
        total = lambda pick: sum(xp.sum(pick(*rows), axis=-1) for rows in sets)  # noqa: E731
        right = xp.stack([total(lambda d, r, w, i=i: w * d[i] * r) for i in range(PARAMETERS)], axis=-1)
        lines = [[total(lambda d, r, w, i=i, j=j: w * d[i] * d[j]) for j in range(PARAMETERS)] for i in range(PARAMETERS)]
        return xp.stack([xp.stack(line, axis=-1) for line in lines], axis=-2), right


def checked(turns: Any, peaks: Any, counts: Any, g: Any, factor: Any) -> None:
    """Raise InputError if shapes do not fit each other."""
    fit = turns.ndim == 4 and turns.shape[2:] == (3, 3) and peaks.ndim == 3 and peaks.shape[2] == len(PEAK)
    fit = fit and turns.shape[0] == peaks.shape[0] and counts.shape == (peaks.shape[0],)
    if not fit or g.ndim != 2 or g.shape[1] != 3 or factor.shape != (g.shape[0],):
        named = zip(("turns", "peaks", "counts", "g", "factor"), (turns, peaks, counts, g, factor))
        shapes = ", ".join(f"{name} {tuple(a.shape)}" for name, a in named)
        raise InputError(f"{shapes}: need turns (n, c, 3, 3), peaks (n, p, 5), counts (n,), g (m, 3), factor (m,)")
