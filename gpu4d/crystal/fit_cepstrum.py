"""Fit the real-space lattice of each pattern to the maxima of its power cepstrum: an operation."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays, fft
from gpu4d.crystal.cepstrum import log_patterns
from gpu4d.errors import InputError
from gpu4d.operation import DETECTOR_PIXELS, KERNEL_FRAME, KERNEL_PIXELS, Twin, operation

OVERSAMPLING = 1.5  # samples of the cepstrum per pixel and axis
UNIT, KERNEL_BATCH = 32, 256  # patterns of one transform and of one launch of the CUDA twin: 24 bytes a sample with the library's work area
TAPS = 10  # samples along an axis that a value is interpolated from: right to 1e-7 of the largest value nearby
SCORING = 4  # steps with the curvature of a single line, in each stage
NEWTON = 3  # steps with the curvature of the sum, at the end
CORNERS = ((0.5, 0.5), (0.5, -0.5), (-0.5, 0.5), (-0.5, -0.5))  # from a node to the centres of its cells, in lattice vectors
LONGEST_STEP = 0.5  # px of the cepstrum, of any node: half the width of a maximum
FARTHEST = 0.2  # deformation from the start: farther away the maxima are those of other nodes
# Of ln(node / background) if all is noise, whose power is exponentially distributed: −γ and π²/6 of the node, and the moments of the
# logarithm of the larger of two means, of four and of two values, by numerical integration.
LOG_MEAN = -0.5772156649 - 0.1783121392
LOG_VARIANCE = math.pi**2 / 6 + 0.2197729551


class CepstrumFit(NamedTuple):
    """Lattices of n patterns.

    Attributes
    ----------
    vectors : (n, 2, 2) float64
        Real-space lattice vectors as rows, px of the cepstrum: component c counts 1 / Q_c cycles per detector pixel.
    covariance : (n, 4, 4) float64
        Of the four numbers of `vectors`, row by row, px².
    residual : (n,) float64
        Rms distance of the maxima from the lattice per axis, weighted by their power, px.
    significance : (n,) float64
        Height of the nodes above their surroundings, in standard deviations of noise.
    """

    vectors: Any
    covariance: Any
    residual: Any
    significance: Any


@operation(
    cuda=Twin("gpu4d.kernels.fit_cepstrum", KERNEL_PIXELS, frame=KERNEL_FRAME // 4),
    cpu=Twin("gpu4d.cpu_fallback.fit_cepstrum", DETECTOR_PIXELS),
)
def fit_cepstrum(
    patterns: Any, window: Any, nodes: Any, start: Any, /, *, stages: tuple[int, ...], offset: float = 1.0, mask: Any = None
) -> CepstrumFit:
    """Fit two real-space vectors to the power cepstrum of each pattern.

    The vectors R maximise the summed power Σ |C(h R)|² over the nodes h. C is the transform of the windowed logarithm, as in
    `power_cepstrum`, at any point between its pixels. For lines in noise of one level this is the maximum of the likelihood with free
    heights and phases: each maximum counts by its power, and noise that is higher than a weak one beside it does no harm. C is
    interpolated from an FFT with 1.5 samples a pixel by a Kaiser-Bessel kernel (Beatty et al., IEEE Trans. Med. Imaging 24, 799, 2005).

    Parameters
    ----------
    patterns : (n, Qx, Qy) real
    window : (Qx, Qy) real
    nodes : (p, 2) real
        Orders of the maxima that are fitted, one of each pair ±h, from the centre outwards.
    start : (2, 2) real
        Where the fit starts, rows of px of the cepstrum.
    stages : tuple of int
        So many nodes are fitted at first, then so many, … The last number is p. The first nodes must not be parallel.
    offset : float
        Counts added before the logarithm.
    mask : (Qx, Qy) bool, optional
        True where the detector counts.

    Returns
    -------
    CepstrumFit
        NaN for a pattern that is empty or has a NaN, and where the fit leaves the start by more than a fifth.

    Raises
    ------
    InputError
        Shapes that do not fit each other.
    """
    check(patterns, window, nodes, start, stages)
    xp = arrays.namespace(patterns, window, nodes, start)
    logs, usable = log_patterns(patterns, window, offset, mask)
    samples = _Samples(logs)
    widths = arrays.from_numpy(line_curvature(arrays.to_numpy(window)), logs)
    nodes, start = arrays.as_float64(nodes), arrays.as_float64(start)
    vectors = xp.broadcast_to(start, (patterns.shape[0], 2, 2)) * 1.0
    for count in stages:
        for _ in range(SCORING):
            few = nodes[:count, :]
            vectors = vectors + _scored(few, *samples.power(few, vectors)[:2], widths)
    for _ in range(NEWTON):
        power, slope, curvature = samples.power(nodes, vectors)
        vectors = vectors + _newton(nodes, power, slope, curvature, widths)
    power, slope, curvature = samples.power(nodes, vectors)
    covariance, regular = _sandwich(nodes, slope, curvature)
    change = xp.matmul(xp.linalg.inv(start), vectors) - xp.eye(2, dtype=xp.float64, device=arrays.device(logs))
    good = usable & regular & xp.all(xp.abs(change) < FARTHEST, axis=(-2, -1))
    total = xp.sum(power, axis=-1)
    square = xp.sum((slope / (2 * widths)) ** 2, axis=-1) / xp.where(power > 0, power, xp.ones_like(power))
    residual = xp.sqrt(xp.sum(square, axis=-1) / (2 * xp.where(total > 0, total, xp.ones_like(total))))
    height = _significance(power, samples.background(nodes, vectors))
    keep: Any = lambda a: xp.where(xp.reshape(good, (-1,) + (1,) * (a.ndim - 1)), a, xp.full_like(a, math.nan))  # noqa: E731
    return CepstrumFit(keep(vectors), keep(covariance), keep(residual), keep(height))


def check(patterns: Any, window: Any, nodes: Any, start: Any, stages: tuple[int, ...]) -> None:
    """Raise InputError if shapes do not fit each other."""
    fit = patterns.ndim == 3 and tuple(window.shape) == tuple(patterns.shape[1:]) and nodes.ndim == 2 and tuple(start.shape) == (2, 2)
    if not fit or nodes.shape[1] != 2 or nodes.shape[0] < 3:
        named = zip(("patterns", "window", "nodes", "start"), (patterns, window, nodes, start))
        shapes = ", ".join(f"{name} {tuple(a.shape)}" for name, a in named)
        raise InputError(f"{shapes}: need patterns (n, Qx, Qy), window (Qx, Qy), three nodes (p, 2) or more, start (2, 2)")
    if not stages or stages[-1] != nodes.shape[0] or stages[0] < 2 or any(a > b for a, b in itertools.pairwise(stages)):
        raise InputError(f"stages={stages}: need growing numbers from 2 on, and the last one {nodes.shape[0]}, that of the nodes")


class _Samples:
    """Samples of C, from which it is interpolated."""

    def __init__(self, logs: Any):
        xp = arrays.namespace(logs)
        self.shape = tuple(int(q) for q in logs.shape[-2:])
        self.grid = tuple(grid_points(q) for q in self.shape)
        table = kernel(TAPS)
        scale = [arrays.from_numpy(1 / table.transform((np.arange(q) - q // 2) / m), logs) for q, m in zip(self.shape, self.grid)]
        values = logs * scale[0][:, None] * scale[1][None, :]
        spectrum = fft.fft2(_rolled(_rolled(values, -2, self.grid[0]), -1, self.grid[1]))
        self.flat, self.patterns = xp.reshape(spectrum, (-1,)), int(logs.shape[0])
        self.weights = arrays.from_numpy(table.weights, logs)

    def at(self, points: Any) -> Any:
        """Return C and its derivatives at points (n, p, 2), px: (n, p, 3, 3), where [a, b] is ∂ᵃ/∂xᵃ ∂ᵇ/∂yᵇ."""
        xp, where = arrays.namespace(points), arrays.device(points)
        steps = xp.arange(TAPS, dtype=xp.int64, device=where)
        index, kernels = [], []
        for axis, (m, q) in enumerate(zip(self.grid, self.shape)):
            t = points[..., axis] * (m / q)
            whole = xp.floor(t)
            index.append((xp.astype(whole, xp.int64)[..., None] + steps - (TAPS // 2 - 1)) % m)
            powers = (t - whole)[..., None] ** xp.arange(self.weights.shape[1], dtype=xp.float64, device=where)
            kernels.append(xp.stack([xp.matmul(powers, self.weights[d, ...]) * (m / q) ** d for d in range(3)], axis=-2))
        first = xp.arange(self.patterns, dtype=xp.int64, device=where)[:, None, None, None] * (self.grid[0] * self.grid[1])
        place = first + index[0][..., :, None] * self.grid[1] + index[1][..., None, :]
        patch = xp.reshape(xp.take(self.flat, xp.reshape(place, (-1,))), place.shape)
        left, right = (xp.astype(k, self.flat.dtype) for k in kernels)
        return xp.matmul(left, xp.matmul(patch, xp.matrix_transpose(right)))

    def power(self, nodes: Any, vectors: Any) -> tuple[Any, Any, Any]:
        """Return |C|² (n, p), its slope (n, p, 2) and curvature (n, p, 2, 2) at the nodes of lattices (n, 2, 2)."""
        xp = arrays.namespace(nodes, vectors)
        c = self.at(xp.matmul(nodes, vectors))
        c0, cx, cy = c[..., 0, 0], c[..., 1, 0], c[..., 0, 1]
        dot: Any = lambda a, b: 2 * (xp.real(a) * xp.real(b) + xp.imag(a) * xp.imag(b))  # noqa: E731
        xx, yy, xy = dot(cx, cx) + dot(c0, c[..., 2, 0]), dot(cy, cy) + dot(c0, c[..., 0, 2]), dot(cx, cy) + dot(c0, c[..., 1, 1])
        curvature = xp.stack([xp.stack([xx, xy], axis=-1), xp.stack([xy, yy], axis=-1)], axis=-2)
        return dot(c0, c0) / 2, xp.stack([dot(c0, cx), dot(c0, cy)], axis=-1), curvature

    def background(self, nodes: Any, vectors: Any) -> Any:
        """Return the mean |C|² (n, p) around each node: of the four centres of its cells, or of two points beside it if that is more.

        The two points are at the same distance from the centre, half a lattice vector away. A ring, as a glass has, is as high there.
        """
        xp = arrays.namespace(nodes, vectors)
        halves = [nodes + arrays.from_numpy(np.array(half), nodes) for half in CORNERS]
        cells = sum(self._heights(xp.matmul(half, vectors)) for half in halves) / 4
        size = arrays.from_numpy(max(self.shape) / np.array(self.shape), nodes)  # px of the longer side: circles are round
        points, rows = xp.matmul(nodes, vectors) * size, vectors * size
        around = xp.stack([rows[:, 0, :], rows[:, 1, :], rows[:, 0, :] + rows[:, 1, :], rows[:, 0, :] - rows[:, 1, :]], axis=1)
        shortest = xp.sqrt(xp.min(xp.sum(around * around, axis=-1), axis=-1))
        away = xp.sqrt(xp.sum(points * points, axis=-1))
        angle = shortest[:, None] / (2 * xp.where(away > 0, away, xp.ones_like(away)))
        c, s, x, y = xp.cos(angle), xp.sin(angle), points[..., 0], points[..., 1]
        beside = [xp.stack([x * c - y * turn, x * turn + y * c], axis=-1) / size for turn in (s, -s)]
        arcs = sum(self._heights(place) for place in beside) / 2
        return xp.where(arcs > cells, arcs, cells)

    def _heights(self, points: Any) -> Any:
        """Return |C|² at points (n, p, 2)."""
        c = self.at(points)[..., 0, 0]
        xp = arrays.namespace(c)
        return xp.real(c) ** 2 + xp.imag(c) ** 2


def _rolled(x: Any, axis: int, size: int) -> Any:
    """Pad an axis with zeros to a size, with its centre q // 2 at the first place."""
    xp, q = arrays.namespace(x), x.shape[axis]
    shape = list(x.shape)
    shape[axis] = size - q
    zeros = xp.zeros(tuple(shape), dtype=x.dtype, device=arrays.device(x))
    upper, lower = (x[..., q // 2 :, :], x[..., : q // 2, :]) if axis == -2 else (x[..., q // 2 :], x[..., : q // 2])
    return xp.concat([upper, zeros, lower], axis=axis)


def _shortened(nodes: Any, step: Any) -> Any:
    """Shorten steps (n, 2, 2) that move a node by too much."""
    xp = arrays.namespace(nodes, step)
    away = xp.max(xp.abs(xp.matmul(nodes, step)), axis=(-2, -1))[:, None, None]
    return step * xp.where(away > LONGEST_STEP, LONGEST_STEP / xp.where(away > 0, away, xp.ones_like(away)), xp.ones_like(away))


def _scored(nodes: Any, power: Any, slope: Any, widths: Any) -> Any:
    """Return a step up the summed power, with the curvature that single lines of this power would have."""
    xp = arrays.namespace(nodes, power)
    weighted = nodes[None, :, :] * power[..., None]
    step, regular = arrays.solve(xp.matmul(xp.matrix_transpose(weighted), nodes), xp.matmul(nodes.T, slope))
    return _shortened(nodes, xp.where(regular[:, None, None], step / (2 * widths), xp.zeros_like(step)))


def _normal(nodes: Any, slope: Any, curvature: Any) -> tuple[Any, Any]:
    """Return the negative curvature (n, 4, 4) and the slope (n, 4, 1) of the summed power by the four numbers of the vectors."""
    xp = arrays.namespace(nodes, slope)
    pairs = nodes[:, :, None] * nodes[:, None, :]
    blocks = xp.sum(pairs[None, :, :, None, :, None] * curvature[:, :, None, :, None, :], axis=1)
    return -xp.reshape(blocks, (-1, 4, 4)), xp.reshape(xp.matmul(nodes.T, slope), (-1, 4, 1))


def _newton(nodes: Any, power: Any, slope: Any, curvature: Any, widths: Any) -> Any:
    """Return Newton's step, or the scored one where the summed power has no maximum nearby."""
    xp = arrays.namespace(nodes, power)
    matrix, gradient = _normal(nodes, slope, curvature)
    step, regular = arrays.solve(matrix, gradient)
    step = xp.where(regular[:, None, None], step, xp.zeros_like(step))
    upwards = regular & (xp.sum(step * gradient, axis=(-2, -1)) > 0)
    step = _shortened(nodes, xp.reshape(step, (-1, 2, 2)))
    return xp.where(upwards[:, None, None], step, _scored(nodes, power, slope, widths))


def _sandwich(nodes: Any, slope: Any, curvature: Any) -> tuple[Any, Any]:
    """Return the covariance (n, 4, 4) from the scatter of the slopes of single nodes, and where it exists.

    At the maximum the slopes of all nodes add up to zero. Their scatter V about it moves the maximum by H⁻¹ V H⁻¹, with H the curvature
    of the sum. So noise counts, and so does everything else that moves single maxima.
    """
    xp = arrays.namespace(nodes, slope)
    each = xp.reshape(nodes[None, :, :, None] * slope[:, :, None, :], (slope.shape[0], slope.shape[1], 4))
    free = nodes.shape[0] / (nodes.shape[0] - 2)  # two numbers a node and axis are fitted to the slopes along it
    matrix = _normal(nodes, slope, curvature)[0]
    spread, regular = arrays.solve(matrix, free * xp.matmul(xp.matrix_transpose(each), each))
    covariance, _ = arrays.solve(matrix, xp.matrix_transpose(spread))
    return covariance, regular


def _significance(node: Any, background: Any) -> Any:
    """Return the mean of ln(node / background) above that of noise, in its standard deviations."""
    xp = arrays.namespace(node, background)
    some = (node > 0) & (background > 0)
    one = xp.ones_like(node)
    logs = xp.where(some, xp.log(xp.where(some, node, one) / xp.where(some, background, one)), xp.zeros_like(node))
    return (xp.mean(logs, axis=-1) - LOG_MEAN) / math.sqrt(LOG_VARIANCE / node.shape[-1])


def line_curvature(window: np.ndarray) -> np.ndarray:
    """Return κ of a line seen through a window, (2,): |C|² falls as 1 − κ δ² at δ px from its maximum."""
    total, curvature = window.sum(), []
    for axis, q in enumerate(window.shape):
        x = np.arange(q) - q // 2
        curvature.append((2 * np.pi / q) ** 2 * (window.sum(axis=1 - axis) @ x**2) / total)
    return np.array(curvature)


def grid_points(q: int) -> int:
    """Return how many samples of the cepstrum are computed along an axis of q pixels: an even number that FFTs are fast for."""

    n = 2 * fft.next_fast_len(math.ceil(OVERSAMPLING * q / 2), real=True)
    return max(n, 2 * TAPS)


class Kernel(NamedTuple):
    """An interpolation kernel as one polynomial for each of its samples.

    Attributes
    ----------
    weights : (3, terms, taps) float64
        Coefficients of f⁰, f¹, … of the kernel and its two derivatives, for a point at a fraction f beyond sample taps / 2 − 1.
    """

    weights: np.ndarray

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Return the transform of the kernel at x cycles per sample."""
        f, weight = np.polynomial.legendre.leggauss(self.weights.shape[1] + 8)
        f, weight = (f + 1) / 2, weight / 2
        values = f[:, None] ** np.arange(self.weights.shape[1]) @ self.weights[0]
        taps = self.weights.shape[2]
        place = f[:, None] + taps // 2 - 1 - np.arange(taps)
        return np.asarray(np.einsum("fk,f,xfk->x", values, weight, np.cos(2 * np.pi * x[:, None, None] * place)))


@lru_cache(maxsize=4)
def kernel(taps: int) -> Kernel:
    """Return the Kaiser-Bessel kernel of a width. The array is cached and must not be changed."""
    from scipy.special import i0

    beta = np.pi * np.sqrt((taps / OVERSAMPLING) ** 2 * (OVERSAMPLING - 0.5) ** 2 - 0.8)
    terms = taps + 6
    f = (1 - np.cos(np.pi * (np.arange(4 * terms) + 0.5) / (4 * terms))) / 2
    place = f[:, None] + taps // 2 - 1 - np.arange(taps)
    values = i0(beta * np.sqrt(np.clip(1 - (2 * place / taps) ** 2, 0, 1))) / i0(beta)
    fitted = np.polynomial.Polynomial.fit
    parts = [fitted(f, v, terms - 1, domain=[0, 1]).convert() for v in values.T]
    weights = np.zeros((3, terms, taps))
    for k, part in enumerate(parts):
        for order in range(3):
            coefficients = (part.deriv(order) if order else part).coef
            weights[order, : len(coefficients), k] = coefficients
    return Kernel(weights)


@lru_cache(maxsize=8)
def kernel_tables(shape: tuple[int, int], taps: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a kernel and three derivatives in the middle of so many steps of a sample (steps, 4, taps), for twins.

    The second array is what a pattern is multiplied with to make up for the kernel, (Qx, Qy). Both are cached and must not be changed.
    """
    table = kernel(taps)
    f = (np.arange(steps) + 0.5) / steps
    powers = f[:, None] ** np.arange(table.weights.shape[1])
    third = np.zeros_like(table.weights[2])
    third[:-1] = table.weights[2][1:] * np.arange(1, len(third))[:, None]
    kernels = np.stack([powers @ w for w in (*table.weights, third)], axis=1)
    scale = [1 / table.transform((np.arange(q) - q // 2) / grid_points(q)) for q in shape]
    return kernels, np.outer(*scale)
