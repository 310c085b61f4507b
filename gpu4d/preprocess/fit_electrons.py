"""Fit electrons to raw frames of a direct detector: places to a part of a pixel, and electrons that strike neighbouring pixels."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.errors import InputError
from gpu4d.imaging.neighbours import ABOVE, NOT_BELOW
from gpu4d.operation import DETECTOR_PIXELS, KERNEL_FRAME, KERNEL_PIXELS, Twin, operation
from gpu4d.preprocess.charge import SQRT_TAU, ChargeModel, share
from gpu4d.preprocess.count_electrons import is_maximum, neighbour, problem, signals
from gpu4d.preprocess.electrons import Electrons

HALF = 2  # px: a group is fitted in the square of 5 × 5 pixels about its maximum
CLIMB = 3  # steps to the brightest neighbour that lead a pixel of the square to its maximum
PASSES = 3  # over all groups. The first fits one electron to each; later ones subtract what the others had before
MOST = 4  # electrons of a group: more lie within a square of 5 × 5 pixels only where counting fails anyway
FIRST_STEPS = 4  # Gauss–Newton steps of one electron
SWEEPS = 5  # of such steps over the electrons of a group, after one was added
MODEL_ERROR = 0.1  # of a pixel's signal: pixels differ in their gain by some per cent, and the model of the charge is not exact
HOLD = 4.0  # 1/px²: keeps a place that the pixels say nothing about
LONGEST = 0.4  # px of one step
REACH = 1.9  # px from the maximum of the group
LEAST_START = 0.02  # electrons: no second electron is tried where less is left
START_SHARE = 0.6  # of the charge of an electron that its pixel has, about; for the first guess of its signal


class Fit(NamedTuple):
    """Electrons of all groups: lists of arrays (m,), one for each electron of a group, and how many each group has."""

    x: list[Any]  # px from the maximum
    y: list[Any]
    signal: list[Any]  # electrons
    number: Any  # (m,) int64


class Windows(NamedTuple):
    """The square about the maximum of every group, (m, 5, 5)."""

    target: Any  # signal without the other groups
    weight: Any  # 1 / variance; 0 for a pixel that says nothing
    own: Any  # pixels over the threshold that lead up to this maximum


def _problem(frames: Any, dark: Any, lower: float, upper: float, model: ChargeModel, most: int = MOST, **options: Any) -> str | None:
    if not 1 <= most <= MOST:
        return f"most={most}: need 1 … {MOST} electrons of a group"
    ChargeModel.of(model)
    return problem(frames, dark, lower, upper, **options)


@operation(
    cpu=Twin("gpu4d.cpu_fallback.fit_electrons", tuple(name for name in DETECTOR_PIXELS if name != "int64"), check=_problem),
    cuda=Twin("gpu4d.kernels.fit_electrons", KERNEL_PIXELS, frame=KERNEL_FRAME, check=_problem),
)
def fit_electrons(
    frames: Array,
    dark: Array,
    lower: float,
    upper: float,
    model: ChargeModel,
    /,
    *,
    electron: float = 1.0,
    gain: Array | None = None,
    mask: Array | None = None,
    most: int = MOST,
) -> Electrons:
    """Fit electrons to raw frames of a direct detector, by likelihood with the model of one electron's charge.

    Every local maximum that `count_electrons` finds begins a group of 5 × 5 pixels with one electron. A group gets a further electron
    where that lowers its cost

        ½ Σ w (signal − Σ_k s_k h(q − q_k))² + Σ_k [ (ln s_k − μ)² / 2σ² + ln(s_k σ √2π) + penalty ].

    h is the charge of one electron in the pixels, a normal distribution of the model's spread. The second sum is the log-normal
    distribution of the signals s_k of single electrons. Two electrons in neighbouring pixels are told from one by their signal and by
    the shape of the charge. Each trial starts where most charge is left over an electron of signal 1, and takes Gauss–Newton steps in
    place and signal. Groups are fitted three times, the second and third time with the electrons of all others subtracted.

    Parameters
    ----------
    frames : (..., Qx, Qy) real
        Frames as the detector writes them.
    dark, lower, upper
        As in `count_electrons`.
    model : ChargeModel
        From `charge_model`.
    electron, gain, mask
        As in `count_electrons`.
    most : int
        Most electrons of a group, 1 to 4. With 1 it gives the electrons of `count_electrons`, to a part of a pixel.

    Returns
    -------
    Electrons
        `offsets` (n + 1,), and by electron `qx`, `qy` (float32, px) and `intensity` (float32, signal in electrons). Electrons are in
        the order of the maxima, and those of one group as they were added. An empty or NaN frame has none.

    Raises
    ------
    InputError
        As `count_electrons`, and for a model with impossible numbers.

    Notes
    -----
    Pixels that a signal over `upper` (an X-ray) lights are not used.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.preprocess import ChargeModel
    >>> frame = np.zeros((1, 7, 7))
    >>> frame[0, 3, 1:6] = 8, 76, 76, 8, 0            # two electrons side by side
    >>> frame[0, 2, 1:6] = frame[0, 4, 1:6] = 1, 9, 9, 1, 0
    >>> found = fit_electrons(frame, np.zeros((7, 7)), 0.2, 10.0, ChargeModel(0.36, 0.02), electron=100.0)
    >>> np.round(found.qx).tolist(), np.round(found.qy).tolist()
    ([3.0, 3.0], [2.0, 3.0])
    """
    if (wrong := _problem(frames, dark, lower, upper, model, most, electron=electron, gain=gain, mask=mask)) is not None:
        raise InputError(wrong)
    xp = arrays.namespace(*(a for a in (frames, dark, gain, mask) if a is not None))
    model = ChargeModel.of(model)
    values = signals(frames, dark, electron, gain, mask)
    maxima = is_maximum(values, lower, upper)
    found = xp.nonzero(maxima)
    counts = xp.sum(xp.astype(maxima, xp.int64), axis=(1, 2))
    values = arrays.as_float64(values)
    windows, at = _windows(values, lower, found, model)
    fit = _fitted(windows._replace(weight=_first_weights(windows, values, lower, at)), model, 1)
    for _ in range(PASSES - 1):
        others = _light(fit, at, values, model) - _own_light(fit, windows, model)
        fit = _fitted(windows._replace(target=windows.target - others), model, most)
    return _listed(fit, found, counts)


def _windows(values: Any, lower: float, found: Any, model: ChargeModel) -> tuple[Windows, Any]:
    """Return the squares about the maxima, and their pixels (m, 5, 5) in the padded frames, one after the other."""
    xp = arrays.namespace(values)
    _, nx, ny = values.shape
    frame, x, y = found
    wide = nx + 2 * HALF, ny + 2 * HALF
    step = xp.arange(2 * HALF + 1, dtype=xp.int64, device=arrays.device(values))
    corner = (frame * wide[0] + x) * wide[1] + y
    at = corner[:, None, None] + step[:, None] * wide[1] + step
    group = xp.arange(x.shape[0], dtype=xp.int64, device=arrays.device(values))
    owner = _owners(values, lower, found)
    value = _taken(values, at, -math.inf)
    known, over = xp.isfinite(value), value >= lower
    whose = _taken(owner, at, -1)
    zero = xp.zeros_like(value)
    signal = xp.where(known, value, zero)
    brightness = MODEL_ERROR * xp.where(signal > 0, signal, zero)
    weight = 1 / (model.noise**2 + brightness**2)
    usable = known & (~over | (whose >= 0))  # what leads to no maximum belongs to an X-ray
    return Windows(signal, xp.where(usable, weight, zero), over & (whose == group[:, None, None])), at


def _first_weights(windows: Windows, values: Any, lower: float, at: Any) -> Any:
    """Return weights for the first pass: pixels of other groups, and the rim of the square where it is not of this one, do not count."""
    xp = arrays.namespace(values)
    side = xp.arange(2 * HALF + 1, dtype=xp.int64, device=arrays.device(values))
    inner = (side >= 1) & (side <= 2 * HALF - 1)
    near = inner[:, None] & inner
    left = windows.own | (near & ~(_taken(values, at, -math.inf) >= lower))
    return xp.where(left, windows.weight, xp.zeros_like(windows.weight))


def _taken(planes: Any, at: Any, outside: float) -> Any:
    """Return values at pixels `at` of the padded frames."""
    xp = arrays.namespace(planes)
    n, nx, ny = planes.shape
    rows = xp.full((n, HALF, ny), outside, dtype=planes.dtype, device=arrays.device(planes))
    tall = xp.concat([rows, planes, rows], axis=1)
    columns = xp.full((n, nx + 2 * HALF, HALF), outside, dtype=planes.dtype, device=arrays.device(planes))
    padded = xp.reshape(xp.concat([columns, tall, columns], axis=2), (-1,))
    return xp.reshape(xp.take(padded, xp.reshape(at, (-1,))), at.shape)


def _owners(values: Any, lower: float, found: Any) -> Any:
    """Return the group that every pixel over the threshold leads up to, (n, Qx, Qy) int64, -1 for none.

    A step goes to the brightest of 3 × 3 pixels; of equal ones to that which comes first in the order that makes maxima.
    """
    xp = arrays.namespace(values)
    n, nx, ny = values.shape
    here = xp.reshape(xp.arange(n * nx * ny, dtype=xp.int64, device=arrays.device(values)), values.shape)
    best, up = xp.full_like(values, -math.inf), here
    for dx, dy in (*ABOVE, (0, 0), *NOT_BELOW):
        value = neighbour(values, dx, dy)
        more = value > best
        best, up = xp.where(more, value, best), xp.where(more, here + dx * ny + dy, up)
    up = xp.reshape(up, (-1,))
    top = up
    for _ in range(CLIMB - 1):
        top = xp.take(up, top) if top.shape[0] else top
    frame, x, y = found
    group = xp.arange(1, x.shape[0] + 1, dtype=xp.int64, device=arrays.device(values))
    place = (frame * nx + x) * ny + y
    named = xp.astype(arrays.scatter_add(group, place, n * nx * ny), xp.int64) - 1
    owner = xp.reshape(xp.take(named, top) if top.shape[0] else top, values.shape)
    return xp.where(values >= lower, owner, xp.full_like(owner, -1))


def _fitted(windows: Windows, model: ChargeModel, most: int) -> Fit:
    """Fit up to `most` electrons to every group."""
    xp = arrays.namespace(windows.target)
    fit = _first(windows)
    fit = _steps(fit, windows, model, FIRST_STEPS)
    cost = _cost(fit, windows, model)
    growing = xp.ones_like(fit.number, dtype=xp.bool)
    for n in range(1, most):
        trial, possible = _with_one_more(fit, windows, model, n)
        trial = _steps(trial, windows, model, SWEEPS)
        lower = _cost(trial, windows, model)
        better = growing & possible & (lower < cost)
        columns = []
        for old, new in zip(fit[:3], trial[:3]):
            columns.append([xp.where(better, b, a) for a, b in zip((*old, new[n]), new)])
        fit = Fit(columns[0], columns[1], columns[2], fit.number + xp.astype(better, xp.int64))
        cost, growing = xp.where(better, lower, cost), better
    return fit


def _first(windows: Windows) -> Fit:
    """Start with one electron at the centre of mass of 3 × 3 pixels."""
    xp = arrays.namespace(windows.target)
    light = xp.where((windows.weight > 0) & (windows.target > 0), windows.target, xp.zeros_like(windows.target))[:, 1:-1, 1:-1]
    offset = arrays.as_float64(xp.arange(-1, 2, dtype=xp.int64, device=arrays.device(light)))
    total = xp.sum(light, axis=(1, 2))
    total = xp.where(total > 0.2, total, xp.full_like(total, 0.2))
    x, y = (xp.sum(light * o, axis=(1, 2)) / total for o in (offset[:, None], offset))
    return Fit([x], [y], [total], xp.ones_like(total, dtype=xp.int64))


def _with_one_more(fit: Fit, windows: Windows, model: ChargeModel, n: int) -> tuple[Fit, Any]:
    """Return fits of n + 1 electrons to start with, and where there is something left for the new one."""
    xp = arrays.namespace(windows.target)
    ones = xp.ones_like(windows.target[:, 0, 0])
    x, y = (list(fit.x), list(fit.y)) if n > 1 else ([0 * ones], [0 * ones])
    signal = [xp.where(s < 1, s, ones) for s in fit.signal]
    left = windows.target - sum(_charge(x[k], y[k], signal[k], model)[0] for k in range(n))
    left = xp.reshape(xp.where(windows.own, left, xp.full_like(left, -math.inf)), (left.shape[0], (2 * HALF + 1) ** 2))
    best = xp.argmax(left, axis=1)
    most = xp.max(left, axis=1)
    possible = most > LEAST_START
    guess = xp.where(possible, most, ones) / START_SHARE
    guess = xp.where(guess > 0.3, guess, 0.3 * ones)
    place = arrays.as_float64(best // (2 * HALF + 1)) - HALF, arrays.as_float64(best % (2 * HALF + 1)) - HALF
    return Fit([*x, place[0]], [*y, place[1]], [*signal, guess], fit.number), possible


def _charge(x: Any, y: Any, signal: Any, model: ChargeModel) -> tuple[Any, Any, Any]:
    """Return the charge of one electron in the square, (m, 5, 5), and its derivatives by x and y."""
    xp = arrays.namespace(x)
    middle = arrays.as_float64(xp.arange(-HALF, HALF + 1, dtype=xp.int64, device=arrays.device(x)))
    (px, dx), (py, dy) = (share(middle - place[:, None], model.spread) for place in (x, y))
    strong = signal[:, None, None]
    return tuple(strong * a[:, :, None] * b[:, None, :] for a, b in ((px, py), (dx, py), (px, dy)))  # type: ignore[return-value]


def _steps(fit: Fit, windows: Windows, model: ChargeModel, sweeps: int) -> Fit:
    """Improve all electrons of the groups, one after the other, by Gauss–Newton steps of place and signal."""
    x, y, signal = list(fit.x), list(fit.y), list(fit.signal)
    left = windows.target - sum(_charge(*at, model)[0] for at in zip(x, y, signal))
    for _ in range(sweeps):
        for k in range(len(x)):
            charge = _charge(x[k], y[k], signal[k], model)
            x[k], y[k], signal[k] = _step(charge, left, windows.weight, (x[k], y[k], signal[k]), model)
            left = left + charge[0] - _charge(x[k], y[k], signal[k], model)[0]
    return Fit(x, y, signal, fit.number)


def _step(charge: Any, left: Any, weight: Any, at: Any, model: ChargeModel) -> tuple[Any, Any, Any]:
    """Take one step of one electron: solve three linear equations, and limit how far it goes."""
    xp = arrays.namespace(left)
    x, y, signal = at
    light, gx, gy = charge
    gs = light / signal[:, None, None]

    def total(product: Any) -> Any:
        return xp.sum(weight * product, axis=(1, 2))

    spread = model.energy_spread**2
    a00, a01, a02 = total(gx * gx) + HOLD, total(gx * gy), total(gx * gs)
    a11, a12, a22 = total(gy * gy) + HOLD, total(gy * gs), total(gs * gs) + 1 / (spread * signal * signal)
    b0, b1 = total(gx * left), total(gy * left)
    b2 = total(gs * left) - (xp.log(signal) - model.mean_log) / (spread * signal)
    c00, c01, c02 = a11 * a22 - a12 * a12, a02 * a12 - a01 * a22, a01 * a12 - a02 * a11
    c11, c12, c22 = a00 * a22 - a02 * a02, a01 * a02 - a00 * a12, a00 * a11 - a01 * a01
    scale = 1 / (a00 * c00 + a01 * c01 + a02 * c02)
    sx, sy, ss = (c00 * b0 + c01 * b1 + c02 * b2), (c01 * b0 + c11 * b1 + c12 * b2), (c02 * b0 + c12 * b1 + c22 * b2)
    x, y = (xp.clip(old + xp.clip(scale * by, -LONGEST, LONGEST), -REACH, REACH) for old, by in ((x, sx), (y, sy)))
    new = signal + scale * ss
    new = xp.where(new > signal / 2, new, signal / 2)
    return x, y, xp.where(new < 2 * signal, new, 2 * signal)


def _cost(fit: Fit, windows: Windows, model: ChargeModel) -> Any:
    """Return the cost of every group, (m,), with all electrons that the lists hold."""
    xp = arrays.namespace(windows.target)
    left = windows.target - sum(_charge(*at, model)[0] for at in zip(*fit[:3]))
    cost = xp.sum(windows.weight * left * left, axis=(1, 2)) / 2
    for signal in fit.signal:
        log = xp.log(signal)
        cost = cost + (log - model.mean_log) ** 2 / (2 * model.energy_spread**2) + log
    return cost + len(fit.signal) * (math.log(model.energy_spread * SQRT_TAU) + model.penalty)


def _own_light(fit: Fit, windows: Windows, model: ChargeModel) -> Any:
    """Return the charge of every group in its own square, (m, 5, 5)."""
    xp = arrays.namespace(windows.target)
    total = xp.zeros_like(windows.target)
    for k, at in enumerate(zip(*fit[:3])):
        total = total + xp.where((fit.number > k)[:, None, None], _charge(*at, model)[0], xp.zeros_like(total))
    return total


def _light(fit: Fit, at: Any, values: Any, model: ChargeModel) -> Any:
    """Return the charge of all groups together in the square of each, (m, 5, 5)."""
    xp = arrays.namespace(values)
    n, nx, ny = values.shape
    own = _own_light(fit, Windows(arrays.as_float64(at), at, at), model)
    flat = xp.reshape(at, (-1,))
    total = arrays.scatter_add(xp.reshape(own, (-1,)), flat, n * (nx + 2 * HALF) * (ny + 2 * HALF))
    return xp.reshape(xp.take(total, flat), at.shape)


def _listed(fit: Fit, found: Any, counts: Any) -> Electrons:
    """Return the electrons of all groups as one list."""
    xp = arrays.namespace(fit.number)
    _, x, y = found
    held = xp.stack([fit.number > k for k in range(len(fit.x))], axis=1)
    keep = xp.nonzero(xp.reshape(held, (-1,)))[0]

    def column(parts: list[Any], start: Any) -> Any:
        values = xp.stack([part + start for part in parts], axis=1)
        return xp.astype(xp.take(xp.reshape(values, (-1,)), keep), xp.float32)

    before = xp.cumulative_sum(fit.number, include_initial=True)
    groups = xp.cumulative_sum(counts, include_initial=True)
    offsets = xp.take(before, groups)
    zero = xp.zeros_like(fit.x[0])
    return Electrons(offsets, column(fit.x, arrays.as_float64(x)), column(fit.y, arrays.as_float64(y)), column(fit.signal, zero))
