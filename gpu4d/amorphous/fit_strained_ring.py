"""Fit the strain of a glass to the counts of each pattern by Poisson maximum likelihood: an operation.

    λ(q) = s P(|(1 + ε) T (q − q₀)|) + b + t ρ(q)

P is the radial profile of the unstrained glass, and T removes the ellipse of the detector. In the strained glass all distances are
longer by V = 1 + ε, so that its pattern at q is that of the unstrained glass at V q. ε has three components and no rotation: V is the
left stretch of F = V R, and a glass looks the same after a rotation R. The background has a constant b and a slope t. ρ is the radius
about the given origin, from −1 to 1 between the radii of the fit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.operation import DETECTOR_PIXELS, KERNEL_FRAME, KERNEL_PIXELS, Twin, operation

PARAMETERS = 8  # e_xx, e_yy, e_xy, origin, scale, constant and slope of the background
TERMS = 2  # of the background
MOST_STEPS = 16
LONGEST_STRAIN = 0.03  # most that a step changes a component: less than the width of a ring over its radius
LONGEST_WAY = 2.0  # px: most that a step moves the origin, for the same reason
LEFT = 0.2  # part of the scale that a step leaves at least
LEAST = 1e-3  # of the mean counts of a pattern's pixels: smallest value of the model
CLOSE = 0.01  # of the log likelihood: the fit ends with a step that promises less, 1/7 of a standard error; a twentieth of it is left
REGULAR = 1e-7  # added to the diagonal of the scaled Fisher matrix: more than sums in single precision are wrong by
USELESS = 0.2  # strain: with a larger standard error the pattern tells nothing
SHORTEST = 1e-6  # px: radius below which a direction means nothing


class StrainedRing(NamedTuple):
    """Strain of n patterns. NaN where there is no fit.

    Attributes
    ----------
    strain : (n, 3) float64
        e_xx, e_yy, e_xy of V − 1, in detector axes with the ellipse removed. Tension is positive.
    covariance : (n, 3, 3) float64
        From the Fisher matrix, with all other parameters unknown.
    origin : (n, 2) float64, pixels
    scale : (n,) float64
        Brightness relative to the profile.
    background : (n, 2) float64, counts
        Constant and slope.
    dispersion : (n,) float64
        Σ (I − λ)² / λ over the degrees of freedom: 1 for Poisson noise about a model that is right.
    """

    strain: Any
    covariance: Any
    origin: Any
    scale: Any
    background: Any
    dispersion: Any


def problem(
    patterns: Any,
    origins: Any,
    table: Any,
    /,
    *,
    step: float,
    radii: tuple[float, float],
    undistort: tuple[float, float, float] = (1.0, 0.0, 1.0),
    mask: Any = None,
    terms: int = TERMS,
    **_others: Any,
) -> str | None:
    """Say what is wrong with the arguments; None where nothing is."""
    shape = tuple(patterns.shape)
    if len(shape) != 3 or 0 in shape[1:] or tuple(origins.shape) != (shape[0], 2):
        return f"patterns {shape}, origins {tuple(origins.shape)}: need (n, Qx, Qy) with pixels, and (n, 2)"
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] != 2 or not 0 < step < math.inf:
        return f"table {tuple(table.shape)}, step {step}: need values and slopes (K, 2) at radii a positive step apart"
    if not 0 <= radii[0] < radii[1] < math.inf:
        return f"radii {tuple(radii)}: need an inner and a larger outer radius, px"
    if not (undistort[0] > 0 and undistort[0] * undistort[2] > undistort[1] ** 2):
        return f"undistort {tuple(undistort)}: need the elements xx, xy, yy of a positive matrix"
    if mask is not None and tuple(mask.shape) != shape[1:]:
        return f"mask {tuple(mask.shape)}, patterns of {shape[1:]} pixels: need one bool per detector pixel"
    if terms not in range(TERMS + 1):
        return f"terms={terms}: need 0 (no background), 1 (a constant) or 2 (a constant and a slope)"
    return None


@operation(
    cpu=Twin("gpu4d.cpu_fallback.fit_strained_ring", DETECTOR_PIXELS, check=problem),
    cuda=Twin("gpu4d.kernels.fit_strained_ring", KERNEL_PIXELS, frame=KERNEL_FRAME // 8, check=problem),
)
def fit_strained_ring(
    patterns: Any,
    origins: Any,
    table: Any,
    /,
    *,
    step: float,
    radii: tuple[float, float],
    undistort: tuple[float, float, float] = (1.0, 0.0, 1.0),
    mask: Any = None,
    fit_origin: bool = True,
    terms: int = TERMS,
) -> StrainedRing:
    """Maximise the Poisson likelihood of the ring of every pattern, from no strain on.

    A step is that of Fisher scoring, δ = (Σ ∇λ ∇λᵀ / λ)⁻¹ Σ (I/λ − 1) ∇λ, of limited length. The fit ends with the first step that
    promises less than 0.01 of the log likelihood. At the end (Σ ∇λ ∇λᵀ / λ)⁻¹ is the covariance.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real, counts
    origins : (n, 2) real, pixels
        Right to a pixel or two.
    table : (K, 2) real
        P and its slope dP/dr at the radii 0, step, 2 step, …, interpolated linearly. Farther out both stay as they are last.
    step : float, pixels
    radii : (float, float), pixels
        Pixels with inner < |T (q − origin)| < outer take part, about the given origin.
    undistort : (float, float, float)
        Elements xx, xy, yy of the symmetric T that makes the ellipse of the detector a circle: `gpu4d.calibrate.ellipse_matrix`.
    mask : (Qx, Qy) bool, optional
        True where the detector counts. Other pixels are not used.
    fit_origin : bool
        False takes the given origins as they are.
    terms : {0, 1, 2}
        Terms of the background.

    Returns
    -------
    StrainedRing
        NaN for a pattern that is empty, has a NaN between the radii, or does not tell all parameters, and for one whose origin is NaN.
        So too where 16 steps do not end the fit.

    Raises
    ------
    InputError
        Shapes that do not fit each other, or numbers that are not possible.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.mgrid[:64, :64] - 31.5
    >>> r = np.arange(0, 40, 0.25)
    >>> ring = np.exp(-(((r - 20) / 3) ** 2))
    >>> table = 500 * np.stack([ring, -2 * (r - 20) / 9 * ring], axis=-1)
    >>> counts = np.rint(500 * np.exp(-(((np.hypot(1.02 * x, y) - 20) / 3) ** 2)))[None]
    >>> fit = fit_strained_ring(counts, np.array([[31.0, 32.0]]), table, step=0.25, radii=(12.0, 28.0))
    >>> (fit.strain.round(3) + 0.0).tolist(), fit.origin.round(2).tolist()
    ([[0.02, 0.0, 0.0]], [[31.5, 31.5]])
    """
    wrong = problem(patterns, origins, table, step=step, radii=radii, undistort=undistort, mask=mask, fit_origin=fit_origin, terms=terms)
    if wrong is not None:
        raise InputError(wrong)
    xp = arrays.namespace(*(a for a in (patterns, origins, table, mask) if a is not None))
    model = _Model(patterns, origins, table, (step, radii, undistort), mask, free_parameters(fit_origin, terms))
    state = model.first()
    ended = xp.zeros_like(state[:, 0]) > 1
    covariance, chi = xp.zeros_like(state[:, :3, None] * state[:, None, :3]), xp.zeros_like(state[:, 0])
    for _ in range(MOST_STEPS):
        fisher, slope, now = model.equations(state)
        change, inverse = model.solved(fisher, slope)
        last = 0.5 * xp.sum(change * slope, axis=-1) < CLOSE
        state = xp.where(ended[:, None], state, model.moved(state, change))
        covariance, chi = xp.where(ended[:, None, None], covariance, inverse), xp.where(ended, chi, now)
        ended = ended | (last & model.known)
        if bool(xp.all(ended | ~model.known)):
            break
    told = xp.isfinite(xp.sum(covariance, axis=(-2, -1)))
    for i in range(3):
        told = told & (covariance[:, i, i] < USELESS**2)
    ok = ended & told
    keep: Any = lambda a: xp.where(xp.reshape(ok, (-1,) + (1,) * (a.ndim - 1)), a, xp.full_like(a, float("nan")))  # noqa: E731
    freedom = model.pixels - sum(model.free)
    dispersion = chi / xp.where(freedom > 0, freedom, xp.full_like(freedom, float("nan")))
    return StrainedRing(
        keep(state[:, :3]),
        keep(covariance),
        keep(model.origin + state[:, 3:5]),
        keep(state[:, 5]),
        keep(state[:, 6:]),
        keep(dispersion),
    )


def free_parameters(fit_origin: bool, terms: int) -> tuple[bool, ...]:
    """Return which of the eight parameters are fitted."""
    return (True, True, True, bool(fit_origin), bool(fit_origin), True, terms > 0, terms > 1)


def _eliminated(matrix: Any, right: Any) -> Any:
    """Solve systems (n, 8, 8) whose matrix is symmetric and positive, so that no pivot has to be looked for: the answer (n, 8, m)."""
    xp = arrays.namespace(matrix)
    number = xp.arange(PARAMETERS, dtype=xp.int64, device=arrays.device(matrix))
    for k in range(PARAMETERS):
        pivot, factor = matrix[:, k, k][:, None], xp.where(number[None, :] == k, xp.zeros_like(matrix[:, :, k]), matrix[:, :, k])
        row, side = matrix[:, k, :] / pivot, right[:, k, :] / pivot
        here = (number == k)[None, :, None]
        matrix = xp.where(here, row[:, None, :], matrix - factor[:, :, None] * row[:, None, :])
        right = xp.where(here, side[:, None, :], right - factor[:, :, None] * side[:, None, :])
    return right


class _Model:
    """Computes λ and the normal equations of all patterns, at all pixels of the detector."""

    def __init__(self, patterns: Any, origins: Any, table: Any, geometry: tuple[Any, Any, Any], mask: Any, free: tuple[bool, ...]):
        xp = arrays.namespace(patterns, origins, table)
        n, nx, ny = patterns.shape
        self.xp, self.step, self.free = xp, float(geometry[0]), free
        self.table, (txx, txy, tyy) = arrays.as_float64(table), geometry[2]
        self.undistort = np.array([[txx, txy], [txy, tyy]])
        place = arrays.as_float64(origins)
        self.known = xp.all(xp.isfinite(place), axis=-1)
        self.origin = xp.where(self.known[:, None], place, xp.zeros_like(place))
        x, y = (a.ravel().astype(np.float64) for a in np.meshgrid(np.arange(nx), np.arange(ny), indexing="ij"))
        self.x, self.y = arrays.from_numpy(x, place), arrays.from_numpy(y, place)
        u, v = self.undistorted(self.origin)
        r = xp.sqrt(u * u + v * v)
        inner, outer = (float(value) for value in geometry[1])
        used = (r > inner) & (r < outer) & self.known[:, None]
        if mask is not None:
            used = used & xp.reshape(xp.astype(mask, xp.bool), (1, nx * ny))
        counts = xp.reshape(arrays.as_float64(patterns), (n, nx * ny))
        counts = xp.where(used, counts, xp.zeros_like(counts))
        self.weight, self.pixels = arrays.as_float64(used), xp.sum(arrays.as_float64(used), axis=-1)
        self.total = xp.sum(counts, axis=-1)
        self.known = self.known & xp.isfinite(self.total) & (self.total > 0)
        self.counts = xp.where(self.known[:, None], counts, xp.zeros_like(counts))
        self.rho = (2 * r - inner - outer) / (outer - inner)
        self.least = LEAST * self.total / xp.where(self.pixels > 0, self.pixels, xp.ones_like(self.pixels))
        self.least = xp.where(self.known, self.least, xp.ones_like(self.least))

    def undistorted(self, origin: Any) -> tuple[Any, Any]:
        """Return T (q − origin) of all pixels, (n, m) each."""
        dx, dy = self.x[None, :] - origin[:, 0:1], self.y[None, :] - origin[:, 1:2]
        (xx, xy), (_, yy) = self.undistort.tolist()
        return xx * dx + xy * dy, xy * dx + yy * dy

    def profile(self, r: Any) -> tuple[Any, Any]:
        """Return P and dP/dr at radii (n, m)."""
        xp = self.xp
        at = xp.minimum(r / self.step, xp.full_like(r, float(self.table.shape[0] - 1)))
        low = xp.minimum(xp.floor(at), xp.full_like(r, float(self.table.shape[0] - 2)))
        number, part = xp.reshape(xp.astype(low, xp.int64), (-1,)), at - low
        out = []
        for column in (0, 1):
            values = self.table[:, column]
            below, above = (xp.reshape(xp.take(values, number + i, axis=0), r.shape) for i in (0, 1))
            out.append(below + part * (above - below))
        return out[0], out[1]

    def first(self) -> Any:
        """Return the start (n, 8): no strain, the given origin, and the brightness that explains all counts."""
        xp = self.xp
        u, v = self.undistorted(self.origin)
        expected = xp.sum(self.weight * self.profile(xp.sqrt(u * u + v * v))[0], axis=-1)
        scale = xp.where(expected > 0, self.total / xp.where(expected > 0, expected, xp.ones_like(expected)), xp.ones_like(expected))
        zero = xp.zeros_like(scale)
        return xp.stack([zero, zero, zero, zero, zero, xp.where(self.known, scale, xp.ones_like(scale)), zero, zero], axis=-1)

    def equations(self, state: Any) -> tuple[Any, Any, Any]:
        """Return the Fisher matrix (n, 8, 8), the slope of the log likelihood (n, 8), and Σ (I − λ)² / λ (n,)."""
        xp = self.xp
        exx, eyy, exy, dx, dy, scale, constant, tilt = (state[:, i : i + 1] for i in range(PARAMETERS))
        u, v = self.undistorted(self.origin + xp.concat([dx, dy], axis=-1))
        a, b = (1 + exx) * u + exy * v, exy * u + (1 + eyy) * v
        r = xp.sqrt(a * a + b * b)
        r = xp.maximum(r, xp.full_like(r, SHORTEST))
        value, slope = self.profile(r)
        model = scale * value + constant + tilt * self.rho
        model = xp.maximum(model, self.least[:, None])
        push = scale * slope / r
        a, b = push * a, push * b
        along, across = (1 + exx) * a + exy * b, exy * a + (1 + eyy) * b  # V V T (q − q₀), for the derivatives by the origin
        (xx, xy), (_, yy) = self.undistort.tolist()
        one = xp.ones_like(r)
        rows = [a * u, b * v, a * v + b * u, -(xx * along + xy * across), -(xy * along + yy * across), value, one, self.rho]
        gradient = xp.stack([row if free else xp.zeros_like(r) for row, free in zip(rows, self.free)], axis=1)
        weight = self.weight / model
        scaled = gradient * weight[:, None, :]
        fisher = xp.matmul(scaled, xp.matrix_transpose(gradient))
        off = self.counts - model
        return fisher, xp.matmul(scaled, off[:, :, None])[:, :, 0], xp.sum(weight * off * off, axis=-1)

    def solved(self, fisher: Any, slope: Any) -> tuple[Any, Any]:
        """Return the step (n, 8) and the covariance of the strain (n, 3, 3)."""
        xp = self.xp
        eye = xp.eye(PARAMETERS, dtype=fisher.dtype, device=arrays.device(fisher))[None, :, :]
        fixed = arrays.from_numpy(np.array([0.0 if free else 1.0 for free in self.free]), fisher)
        diagonal = xp.sum(fisher * eye, axis=-1) + fixed[None, :]
        positive = diagonal > 0
        unit = 1 / xp.sqrt(xp.where(positive, diagonal, xp.full_like(diagonal, float("inf"))))
        scaled = fisher * unit[:, :, None] * unit[:, None, :] + (REGULAR + fixed[None, :, None]) * eye
        right = [(unit * slope)[:, :, None], xp.broadcast_to(eye[:, :, :3], (fisher.shape[0], PARAMETERS, 3))]
        answer = _eliminated(scaled, xp.concat(right, axis=-1)) * unit[:, :, None]
        told = xp.all(positive, axis=-1)
        answer = xp.where(told[:, None, None], answer, xp.full_like(answer, float("nan")))
        return answer[:, :, 0], answer[:, :3, 1:] * unit[:, None, :3]

    def moved(self, state: Any, change: Any) -> Any:
        """Return the parameters after a step of limited length. A step that is NaN moves nothing."""
        xp = self.xp
        change = xp.where(xp.isfinite(change), change, xp.zeros_like(change))
        strain, way = (xp.max(xp.abs(part), axis=-1) for part in (change[:, :3], change[:, 3:5]))
        ratio = xp.maximum(xp.maximum(strain / LONGEST_STRAIN, way / LONGEST_WAY), xp.ones_like(strain))
        new = state + change / ratio[:, None]
        scale = xp.maximum(new[:, 5], LEFT * state[:, 5])
        return xp.concat([new[:, :5], scale[:, None], new[:, 6:]], axis=-1)
