"""Fit the disks of a group together by Poisson maximum likelihood, so that neighbours cost precision but do not shift each other.

Disks are in one group if their windows overlap. All of them, and one background, explain the counts of the group:

    λ(q) = B(q) + Σⱼ (aⱼ + cxⱼ u + cyⱼ v) D(q - rⱼ)

with D the template's disk. B is bilinear between nodes about one window apart, so that it can follow a background over a group of any
size. Every pixel of the group's windows counts once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.bragg.likelihood.poisson_fit import FARTHEST, LEAST, LONGEST, RECENTRE, steps_of, template_at
from gpu4d.operation import KERNEL_FRAME, KERNEL_PIXELS, Twin, operation

NONE, ALONE, OPEN, HIDDEN = 0, 1, 2, 3  # roles of a place: no disk, a disk fitted alone, one that is not fitted yet, a hidden one
MOST_STEPS = 40  # of the fit of a group
FIXED_STEPS = 2  # first steps, in which positions are fixed and amplitudes and background are found
BOUNDED_STEPS, BOUND = 5, 0.5  # in so many steps λ is at least this part of the counts, so that no pixel outweighs all others
LEAST_COUNTS = 1.0  # counts: smallest variance of a pixel in the first step, whose weights come from the counts
CURVED = 15.0  # px: nodes of the background farther apart do not follow a curved background
LEAST_GROUND = 0.005  # counts: smallest background at a node. A background below zero makes the steps very small
LEFT = 0.2  # part of an amplitude or of the background that a step leaves at least
CLOSE = 0.001  # px: with all steps below this, or below `CLOSE_PART` of the standard error, the fit has ended
CLOSE_PART = 0.05
DAMPED = 12  # steps after which steps are halved: with few counts they may go to and fro
JUDGED_FROM, JUDGED = 8, 4  # steps: from then on, and so often, disks are judged although the steps are not short yet
LAST_PART = 0.5  # of the standard error: where the steps have not ended, a disk with a longer last step is not located
WANDER = 0.9  # radii: a disk that moves farther from its start is removed
LEAST_APART = 0.8  # radii: of two disks nearer than this, the weaker one is removed
FAINTEST = 0.005  # of the highest disk of its group: a hidden disk below this may be an error of the model, such as a tail of the disk
BRIGHTER = 4.0  # times the height: so much brighter a disk may have moved the maximum of a disk whose fit alone failed
MUCH_BRIGHTER = 8.0  # the same for any disk


class JointFit(NamedTuple):
    """Disks of groups, (n, K) each. Places without a disk have NaN, and so has all but the position of disks that were not fitted.

    A disk whose fit has not ended has its last values, with ok = False.

    Attributes
    ----------
    x, y : float64, pixels
        Position. Where nothing was fitted it is the start.
    amplitude, background : float64, counts per pixel
        Height of the disk's plateau over the background, and background at its centre.
    xx, xy, yy : float64, px²
        Covariance of the position, with all other parameters of the group unknown.
    significance : float64
        Amplitude over its standard error.
    ok : bool
        True where the fit located the disk.
    gone : bool
        True where the fit removed the disk: it is not significant, it lies on a stronger one, or it moved too far.
    """

    x: Any
    y: Any
    amplitude: Any
    background: Any
    xx: Any
    xy: Any
    yy: Any
    significance: Any
    ok: Any
    gone: Any


@operation(
    cuda=Twin("gpu4d.kernels.joint_fit", KERNEL_PIXELS, frame=KERNEL_FRAME),
    cpu=Twin("gpu4d.cpu_fallback.joint_fit"),
)
def joint_fit(
    patterns: Any,
    x: Any,
    y: Any,
    height: Any,
    role: Any,
    table: Any,
    pixels: Any,
    /,
    mask: Any = None,
    parameters: int = 6,
    spacing: float = 0.0,
    shadow: float = 0.0,
    significance: float = 0.0,
) -> JointFit:
    """Maximise the Poisson likelihood of all disks of a group together, from starts within a radius.

    Disks nearer than `spacing` are in one group. So is a disk with one that is within `shadow` and eight times as high (four times, if
    the disk is not fitted yet), because such a disk moves the maximum at which the weak one starts. A group is fitted if it has a hidden
    disk, or more than one disk. With `shadow` = 0, one of them must be not fitted yet. A single disk that is not fitted yet is fitted if
    it is the highest of its pattern: hidden disks may be why its fit alone failed.

    A step of Fisher scoring is δ = (Σ ∇λ ∇λᵀ / λ)⁻¹ Σ (I/λ - 1) ∇λ, over the pixels of all windows and all parameters of the group. The
    first two steps keep the positions. When the steps are short, and after every fourth step, the weakest disk that fails a condition is
    removed, and the steps go on. Conditions are: amplitude / error ≥ `significance`; error of the position < 1.5 px; no stronger disk
    nearer than 0.8 radii. For hidden disks the error of the amplitude is multiplied by √(χ² / degrees of freedom) if that is above 1,
    and the amplitude must be 0.5 % of the highest one of the group. Where the model does not hold, what is left is no disk.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real, counts
    x, y : (n, K) real
        First positions, pixels.
    height : (n, K) real
        Heights of the disks on any common scale. They are only compared.
    role : (n, K) int
        0: no disk. 1: a disk that was fitted alone. 2: a disk that is not fitted yet. 3: a hidden disk (`hidden_disks`).
    table, pixels
        From `disk_profile`.
    mask : (Qx, Qy) bool, optional
        True where the detector counts. Other pixels are not used.
    parameters : {4, 6, 8}
        4: the background has one node less along each axis, so that it is constant in a small group. 6: it has slopes in every group. 8: so
        has the intensity inside each disk.
    spacing : float
        Disks nearer than this are in one group, pixels. Twice the reach of the window keeps other disks out of the group's windows.
    shadow : float
        Pixels, see above. The trench of a template and the disk in it reach no farther than 4 radii.
    significance : float
        Least amplitude of a disk, in standard errors.

    Returns
    -------
    JointFit

    Notes
    -----
    A group whose normal equations have no inverse, for example with a NaN in a window, is not fitted: ok and gone are False.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> from gpu4d.bragg.likelihood.poisson_fit import disk_profile
    >>> at = [(24.2, 20.1), (24.6, 28.0)]
    >>> bright, weak = (gpu4d.probe.synthetic((48, 48), 4.0, center=c) for c in at)
    >>> p = disk_profile(gpu4d.probe.synthetic((48, 48), 4.0))
    >>> counts = np.rint(2000 * bright + 100 * weak + 5)[None]
    >>> x, y, h = np.asarray([[24.0, 25.0]]), np.asarray([[20.0, 29.0]]), np.asarray([[2.0, 1.0]])
    >>> fit = joint_fit(counts, x, y, h, np.full((1, 2), OPEN), p.table, p.pixels, spacing=2 * p.reach)
    >>> bool(abs(fit.x[0, 1] - 24.6) < 0.02), bool(abs(fit.y[0, 1] - 28.0) < 0.02), fit.ok.tolist()
    (True, True, [[True, True]])
    """
    steps_of(parameters)
    arrays.namespace(patterns, x, y, table)  # mixed libraries are an error
    n, most = x.shape
    start = np.stack([arrays.to_numpy(v).astype(np.float64) for v in (x, y)])
    kind, high = arrays.to_numpy(role), arrays.to_numpy(height)
    out = np.full((8, n, most), np.nan)
    out[:2] = np.where(kind != NONE, start, np.nan)
    ok, gone = np.zeros((n, most), bool), np.zeros((n, most), bool)
    shape = _Shape(table, pixels, mask, parameters, tuple(patterns.shape[1:]))
    for i in range(n):
        for members in groups(start[:, i], high[i], kind[i], spacing, shadow):
            _Group(patterns[i, ...], start[:, i, members], kind[i, members], shape, significance).write(members, out[:, i], ok[i], gone[i])
    return JointFit(*(arrays.from_numpy(v, patterns) for v in (*out, ok, gone)))


def groups(start: np.ndarray, height: np.ndarray, role: np.ndarray, spacing: float, shadow: float) -> list[np.ndarray]:
    """Return the places of every group of a pattern that is to be fitted, in the order of the longer side of the group."""
    places = np.flatnonzero(role != NONE)
    away = np.hypot(*(start[:, places, None] - start[:, None, places]))
    high, kind = height[places], role[places]
    times = np.where(kind == OPEN, BRIGHTER, MUCH_BRIGHTER)
    moved = (away < shadow) & (high[None, :] > (times * high)[:, None])
    near = (away < spacing) | moved | moved.T | np.eye(len(places), dtype=bool)
    label = np.arange(len(places))
    for _ in range(len(places)):
        label = np.where(near, label[None, :], len(places)).min(1, initial=len(places))
    found = []
    for first in np.unique(label):
        members, kinds = places[label == first], kind[label == first]
        if len(members) > 1:
            some = shadow > 0 or (kinds == OPEN).any()
        else:
            some = kinds[0] == OPEN and not (high > height[members[0]]).any()
        if some or (kinds == HIDDEN).any():
            axis = int(np.argmax(np.ptp(start[:, members], axis=1)))
            found.append(members[np.argsort(start[axis, members], kind="stable")])
    return found


def nodes_apart(half: int) -> float:
    """Return the distance of the nodes of the background, pixels: a window, but at most `CURVED` px, or two thirds of a large window."""
    return min(2.0 * half, max(CURVED, 1.3 * half))


def equations_bytes(detector: tuple[int, int], most: int, half: int, parameters: int) -> int:
    """Return the bytes of the normal equations of so many disks that are all in one group, over the whole detector."""
    nodes = [int(side / nodes_apart(half)) + 3 for side in detector]
    return 8 * (most * (5 if parameters == 8 else 3) + nodes[0] * nodes[1]) ** 2


def wander(radius: float) -> float:
    """Return how far a disk may move from its start, pixels."""
    return max(FARTHEST, WANDER * radius)


class _Shape:
    """Table and settings of a fit."""

    def __init__(self, table: Any, pixels: Any, mask: Any, parameters: int, detector: tuple[int, int]):
        window = arrays.to_numpy(pixels)
        self.table, self.window, self.half = table, window[:, :2], -int(window[0, 0])
        self.detector, self.parameters, self.rows = detector, parameters, 5 if parameters == 8 else 3
        self.valid = np.ones(detector, bool) if mask is None else arrays.to_numpy(mask)
        middle = table.shape[0] // 2
        self.radius = float(np.sqrt(float(arrays.namespace(table).sum(arrays.as_float64(table[middle, middle, 0, :]))) / np.pi))


class _Group:
    """The fit of one group. Sums over pixels are made where the pattern is, the small normal equations on the host."""

    def __init__(self, pattern: Any, start: np.ndarray, role: np.ndarray, shape: _Shape, significance: float):
        self.pattern, self.role, self.shape, self.significance = arrays.as_float64(pattern), role, shape, significance
        self.start, self.at = start.T.copy(), start.T.copy()
        self.middle = np.floor(self.at + 0.5)
        self.state = np.zeros((len(self.at), 3))  # a, cx, cy
        self.moved = np.zeros_like(self.at)
        self.alive = np.ones(len(self.at), bool)
        self.lines = [self._nodes(axis) for axis in (0, 1)]
        self.ground = np.zeros(len(self.lines[0]) * len(self.lines[1]))
        self.covariance, self.strength = np.full((len(self.at), 2, 2), np.nan), np.full(len(self.at), np.nan)
        self.fitted = self._fit()

    def _nodes(self, axis: int) -> np.ndarray:
        """Spread the nodes of the background over the windows: about one window apart."""
        half, side = self.shape.half, self.shape.detector[axis]
        first, last = max(self.middle[:, axis].min() - half, 0), min(self.middle[:, axis].max() + half, side - 1)
        cells = max(int(np.floor((last - first) / nodes_apart(half) + 0.5)), 1)
        return np.linspace(first, last, cells + 1 if self.shape.parameters > 4 else cells)

    def _fit(self) -> bool:
        """Run the steps, and return whether the normal equations had an inverse in all of them."""
        for step in range(MOST_STEPS):
            fixed = step < FIXED_STEPS
            matrix, gradient, excess = self._equations(step)
            size = np.where(np.diagonal(matrix) > 0, np.diagonal(matrix), 1.0) ** -0.5
            scaled = matrix * size[:, None] * size + np.diag(np.diagonal(matrix) <= 0).astype(float)
            if not (np.isfinite(scaled).all() and np.isfinite(gradient).all()) or np.linalg.eigvalsh(scaled)[0] < 1e-9:
                return False
            inverse = np.linalg.inv(scaled) * size[:, None] * size
            change = inverse @ gradient
            rows = self.shape.rows
            own = np.arange(len(self.at)) * rows
            conditional = np.where(np.diagonal(matrix) > 0, size, np.inf)
            good = False
            if not fixed:
                steps = np.abs(np.stack([change[own], change[own + 1]], -1))
                limit = np.maximum(CLOSE, CLOSE_PART * np.stack([conditional[own], conditional[own + 1]], -1))
                good = step >= BOUNDED_STEPS and bool((steps <= limit)[self.alive].all())
                self._judge(inverse, own)
                last = step == MOST_STEPS - 1
                if good or last or (step >= JUDGED_FROM and step % JUDGED == 0):
                    scale = np.sqrt(max(1.0, excess))
                    while self._drop_weakest(scale):
                        good = False
                        if not last:
                            break
            self._move(change * (0.5 if step >= DAMPED else 1.0), own, fixed)
            if good:
                break
        self.ended = good
        return True

    def _equations(self, step: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Return Σ ∇λ ∇λᵀ / λ, Σ (I - λ) ∇λ / λ, and Σ (I - λ)² / λ over its degrees of freedom."""
        shape = self.shape
        far = self.alive[:, None] & (np.abs(self.at - self.middle) > RECENTRE)
        self.middle = np.where(far, np.floor(self.at + 0.5), self.middle)
        nx, ny = shape.detector
        near = (self.middle[:, None, :] + shape.window[None, :, :]).reshape(-1, 2).astype(np.int64)
        near = near[((near >= 0) & (near < (nx, ny))).all(-1)]
        near = np.unique(near[:, 0] * ny + near[:, 1])
        near = near[shape.valid.ravel()[near]]
        i, j = near // ny, near % ny
        xp = arrays.namespace(self.pattern, shape.table)
        counts = xp.take(xp.reshape(self.pattern, (-1,)), arrays.from_numpy(near, self.pattern))
        rows, model = [], xp.zeros_like(counts)
        for k in range(len(self.at)):
            mine, value = self._disk(k, i, j, step < FIXED_STEPS)
            rows += mine
            model = model + value
        tents = [arrays.from_numpy(t, self.pattern) for t in self._tents(i, j)]
        for tent, b in zip(tents, self.ground):
            model = model + float(b) * tent
        if step == 0:
            model, weight = xp.zeros_like(counts), 1 / xp.maximum(counts, xp.full_like(counts, LEAST_COUNTS))
        else:
            bounded = xp.maximum(xp.full_like(model, LEAST), (BOUND if step < BOUNDED_STEPS else 0.0) * counts)
            model = xp.maximum(model, bounded)
            weight = 1 / model
        gradient = xp.stack([*rows, *tents])
        matrix = xp.matmul(gradient * weight[None, :], xp.matrix_transpose(gradient))
        score = xp.sum(gradient * (weight * (counts - model))[None, :], axis=-1)
        square = float(xp.sum(weight * (counts - model) ** 2))
        free = max(len(near) - gradient.shape[0], 1)
        return arrays.to_numpy(matrix), arrays.to_numpy(score), square / free

    def _disk(self, k: int, i: np.ndarray, j: np.ndarray, fixed: bool) -> tuple[list[Any], Any]:
        """Return the derivatives of λ by the parameters of a disk, and its part of λ, at the pixels (i, j)."""
        shape, half = self.shape, self.shape.half
        xp = arrays.namespace(self.pattern, shape.table)
        where = arrays.device(self.pattern)
        part = [xp.asarray([float(v)], dtype=xp.float64, device=where) for v in self.at[k] - self.middle[k]]
        d, dx, dy = (xp.concat([v[0, :], xp.zeros_like(v[0, :1])]) for v in template_at(shape.table, *part))
        side = 2 * half + 1
        place = np.full((side, side), len(shape.window), np.int64)
        place[shape.window[:, 0] + half, shape.window[:, 1] + half] = np.arange(len(shape.window))
        down, right = i - int(self.middle[k, 0]) + half, j - int(self.middle[k, 1]) + half
        inside = (down >= 0) & (down < side) & (right >= 0) & (right < side) & self.alive[k]
        number = np.where(inside, place[np.where(inside, down, 0), np.where(inside, right, 0)], len(shape.window))
        index = arrays.from_numpy(number, self.pattern)
        d, dx, dy = (xp.take(v, index) for v in (d, dx, dy))
        u, v = (arrays.from_numpy((w - half) / half, self.pattern) for w in (down, right))
        a, cx, cy = (float(s) for s in self.state[k])
        high = xp.maximum(a + cx * u + cy * v, xp.full_like(u, 0.05 * a))
        free = 0.0 if fixed else 1.0
        rows = [-free * high * dx, -free * high * dy, d]
        if shape.rows == 5:
            rows += [u * d, v * d]
        return rows, a * d + cx * u * d + cy * v * d

    def _tents(self, i: np.ndarray, j: np.ndarray) -> list[np.ndarray]:
        """Return the share of every node of the background in the pixels (i, j)."""
        shares = []
        for line, q in zip(self.lines, (i, j)):
            t = np.zeros(len(q)) if len(line) == 1 else (q - line[0]) / (line[1] - line[0])
            first = np.clip(np.floor(t), 0, max(len(line) - 2, 0))
            number = np.arange(len(line))[:, None]
            shares.append(np.where(number == first, 1 - (t - first), 0.0) + np.where(number == first + 1, t - first, 0.0))
        return [a * b for a in shares[0] for b in shares[1]]

    def _judge(self, inverse: np.ndarray, own: np.ndarray) -> None:
        """Set covariance and strength of every disk."""
        for k, first in enumerate(own):
            self.covariance[k] = inverse[first : first + 2, first : first + 2]
            self.strength[k] = self.state[k, 0] / np.sqrt(inverse[first + 2, first + 2])

    def _drop_weakest(self, scale: float) -> bool:
        """Remove the weakest disk that fails a condition, and return whether there was one."""
        strength = np.where(self.role == HIDDEN, self.strength / scale, self.strength)
        apart = np.hypot(*(self.at.T[:, :, None] - self.at.T[:, None, :])) < LEAST_APART * self.shape.radius
        below = apart & self.alive[None, :] & (self.state[None, :, 0] > self.state[:, None, 0])
        wide = ~(np.maximum(self.covariance[:, 0, 0], self.covariance[:, 1, 1]) < FARTHEST**2)
        faint = (self.role == HIDDEN) & (self.state[:, 0] < FAINTEST * self.state[:, 0].max())
        bad = self.alive & ((strength < self.significance) | wide | faint | below.any(1))
        if bad.any():
            self._remove(int(np.argmin(np.where(bad, strength, np.inf))))
        return bool(bad.any())

    def _remove(self, k: int) -> None:
        self.alive[k], self.state[k] = False, 0.0

    def _move(self, change: np.ndarray, own: np.ndarray, fixed: bool) -> None:
        """Add a step. It is limited to half a pixel, and reduces an amplitude or the background by four fifths at most."""
        for k in np.flatnonzero(self.alive):
            mine = change[own[k] : own[k] + self.shape.rows]
            a = self.state[k, 0]
            self.state[k, 0] = max(mine[2], LEAST_COUNTS * 0.1) if a == 0 else max(a + mine[2], LEFT * a)
            self.state[k, 1 : len(mine) - 2] += mine[3:]
            if not fixed:
                self.moved[k] = np.clip(mine[:2], -LONGEST, LONGEST)
                self.at[k] += self.moved[k]
                if not (np.abs(self.at[k] - self.start[k]) <= wander(self.shape.radius)).all():
                    self._remove(int(k))
        new = self.ground + change[len(self.at) * self.shape.rows :]
        self.ground = np.maximum(new, np.maximum(LEAST_GROUND, LEFT * self.ground))

    def write(self, members: np.ndarray, out: np.ndarray, ok: np.ndarray, gone: np.ndarray) -> None:
        """Write the group's disks to the arrays of its pattern."""
        if not self.fitted:
            return
        variance = np.diagonal(self.covariance, axis1=1, axis2=2)
        short = ((2 * self.moved) ** 2 <= LAST_PART**2 * variance).all(1) & (variance < FARTHEST**2).all(1)
        gone[members], ok[members] = ~self.alive, self.alive & (self.ended | short)
        good, to = self.alive, members[self.alive]
        ground = np.asarray(self._tents(*self.at.T)).T @ self.ground
        values = (*self.at.T, self.state[:, 0], ground, variance[:, 0], self.covariance[:, 0, 1], variance[:, 1], self.strength)
        for field, value in zip(out, values):
            field[to] = value[good]
