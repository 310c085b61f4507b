"""From a gradient field to the function it belongs to: Poisson's equation, solved with Fourier transforms."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays, fft
from gpu4d.arrays import Array, ArrayT
from gpu4d.errors import InputError
from gpu4d.operation import Twin, operation

BOUNDARIES = ("mirror", "periodic", "padded")
TOLERANCE = 1e-9  # relative change of the misfit, below which another iteration gains nothing


class Integral(NamedTuple):
    """The function, (..., Rx, Ry), and rms(∇V - g) / rms(g) after every iteration, (m,); m = 0 if none was needed."""

    v: Any
    errors: Any


class Settings(NamedTuple):
    """Arguments of `integrate_gradient` and `integrate_iteratively` behind the gradient, in their order and with their defaults."""

    step: float = 1.0
    lambda1: float = 0.0
    lambda2: float = 0.0
    boundary: str = "mirror"
    padding_factor: float = 2.0
    max_iterations: int = 25

    def problem(self, gradient: Any) -> str | None:
        """Say what is wrong with the settings, or with the shape of a gradient; None where nothing is."""
        shape = tuple(gradient.shape)
        if len(shape) < 3 or shape[-1] != 2 or 0 in shape[-3:]:
            return f"gradient has shape {shape}, need (..., Rx, Ry, 2) with positions, and the components along x and y last"
        if self.boundary not in BOUNDARIES:
            return f"boundary={self.boundary!r}: need one of {', '.join(map(repr, BOUNDARIES))}"
        if not (self.lambda1 >= 0 and self.lambda2 >= 0):
            return f"lambda1={self.lambda1}, lambda2={self.lambda2}: need numbers ≥ 0"
        if self.boundary == "padded" and not self.padding_factor >= 1:
            return f"padding_factor={self.padding_factor}: need at least 1"
        return None


def _unusable(gradient: Any, /, *settings: Any, **options: Any) -> str | None:
    """Say why no twin can take these arguments, or None."""
    return Settings(*settings, **options).problem(gradient)


def _too_large(gradient: Any, /, *settings: Any, **options: Any) -> str | None:
    """Say why the kernels cannot take a gradient once it is padded, or None."""
    given = Settings(*settings, **options)
    if (problem := given.problem(gradient)) is not None:
        return problem
    return "a plane has 2³¹ samples or more" if math.prod(gradient.shape[-3:-1]) * given.padding_factor**2 >= 2**31 else None


@operation(
    cpu=Twin("gpu4d.cpu_fallback.integrate_gradient", check=_unusable),
    cuda=Twin("gpu4d.kernels.integrate_gradient", ("float32", "float64"), check=_too_large),
)
def integrate_gradient(
    gradient: ArrayT,
    /,
    step: float = 1.0,
    lambda1: float = 0.0,
    lambda2: float = 0.0,
    boundary: str = "mirror",
    padding_factor: float = 2.0,
    max_iterations: int = 25,
) -> ArrayT:
    """Find the function V whose gradient fits a vector field best: regularised Fourier integration.

    V(k) = k · F{g} / (i 2π (λ₁ + k² + λ₂ k⁴)), mean zero. With λ = 0 this minimises Σ |∇V - g|² with ∇ the exact derivative
    of the band-limited function.

    Parameters
    ----------
    gradient : (..., Rx, Ry, 2) real
        (∂V/∂x, ∂V/∂y). NaN or infinite positions carry no information: they take the gradient of the solution itself,
        iterated, so that the rest is fitted as if they were not there.
    step : float
        Distance of the samples; V has the units of `gradient` × `step`.
    lambda1 : float
        Damps low k, (cycles per sample)²: a high pass. The guide this follows calls it a low pass; the formula says otherwise.
    lambda2 : float
        Damps high k, (cycles per sample)⁻²: a low pass.
    boundary : {"mirror", "periodic", "padded"}
        "mirror" extends the field as the gradient of an even function: the least-squares solution with free (Neumann)
        edges, without iterating. "periodic" takes the scan as one period. "padded" embeds it in a larger grid and
        iterates until the field around it is the solution's own gradient.
    padding_factor : float
        Size of the larger grid of "padded" over that of the field.
    max_iterations : int
        Of "padded", and where positions are NaN.

    Returns
    -------
    (..., Rx, Ry) float64
        NaN where the gradient was; NaN everywhere where nothing of it was finite.

    Raises
    ------
    InputError
        The shape has not two components, a λ is negative, or the boundary is not known.

    Notes
    -----
    Lazić, Bosch, Lazar, Ultramicroscopy 160 (2016) 265; Savitzky et al., Microsc. Microanal. 27 (2021) 712.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(8.0)[:, None] + 0 * np.arange(6.0)
    >>> flat = np.stack([np.ones((8, 6)), np.zeros((8, 6))], axis=-1)     # a ramp along x
    >>> bool(np.all(np.diff(integrate_gradient(flat), axis=0)[2:-2] > 0.9))
    True
    """
    return integrate_iteratively.definition(gradient, step, lambda1, lambda2, boundary, padding_factor, max_iterations).v


@operation(
    cpu=Twin("gpu4d.cpu_fallback.integrate_gradient", check=_unusable),
    cuda=Twin("gpu4d.kernels.integrate_gradient", ("float32", "float64"), check=_too_large),
)
def integrate_iteratively(
    gradient: Array,
    /,
    step: float = 1.0,
    lambda1: float = 0.0,
    lambda2: float = 0.0,
    boundary: str = "mirror",
    padding_factor: float = 2.0,
    max_iterations: int = 25,
) -> Integral:
    """Find the function as `integrate_gradient` does, and return the misfit after every iteration.

    Parameters
    ----------
    gradient : (..., Rx, Ry, 2) real
    step, lambda1, lambda2, boundary, padding_factor, max_iterations
        See `integrate_gradient`.

    Returns
    -------
    Integral
        `v` (..., Rx, Ry) float64, and `errors` (m,) float64: rms(∇V - g) / rms(g) over the known positions of all fields.

    Examples
    --------
    >>> import numpy as np
    >>> found = integrate_iteratively(np.ones((6, 5, 2)), boundary="padded", max_iterations=3)
    >>> found.v.shape, found.errors.shape
    ((6, 5), (3,))
    """
    xp = arrays.namespace(gradient)
    given = Settings(step, lambda1, lambda2, boundary, padding_factor, max_iterations)
    if (problem := given.problem(gradient)) is not None:
        raise InputError(problem)
    shape = tuple(gradient.shape)
    field = arrays.as_float64(gradient)
    gx, gy = field[..., 0], field[..., 1]
    known = xp.isfinite(gx) & xp.isfinite(gy)
    zero = xp.zeros_like(gx)
    gx, gy = xp.where(known, gx, zero), xp.where(known, gy, zero)

    extend = {"mirror": mirrored, "periodic": lambda g, sign: g, "padded": lambda g, sign: padded_with_zeros(g, padding_factor)}[boundary]
    ex, ey, inside = extend(gx, (-1, 1)), extend(gy, (1, -1)), extend(xp.astype(known, gx.dtype), (1, 1))
    solver = SpectralGradient(ex, lambda1, lambda2)
    errors: list[float] = []
    v = solver.solve(ex, ey)
    if boundary == "padded" or not bool(xp.all(known)):
        v, errors = fill_and_solve(solver, ex, ey, inside, v, max_iterations)
    v = v[..., : shape[-3], : shape[-2]] * step
    count = xp.sum(xp.astype(known, v.dtype), axis=(-2, -1), keepdims=True)
    mean = xp.sum(xp.where(known, v, zero), axis=(-2, -1), keepdims=True) / xp.where(count > 0, count, xp.ones_like(count))
    return Integral(xp.where(known, v - mean, xp.full_like(v, math.nan)), arrays.from_numpy(np.asarray(errors, np.float64), v))


def converged(errors: list[float]) -> bool:
    """Whether the last iteration gained so little that another gains nothing."""
    return len(errors) > 1 and abs(errors[-2] - errors[-1]) <= TOLERANCE * errors[-2]


class SpectralGradient:
    """Gradient and its regularised inverse on one grid, in units of the sample distance."""

    def __init__(self, like: Any, lambda1: float, lambda2: float):
        self.shape = tuple(like.shape[-2:])
        kx, ky = fft.frequencies(self.shape[0]), fft.frequencies(self.shape[1], half=True)
        k2 = kx[:, None] ** 2 + ky**2
        # The derivative of a real function has no component at the Nyquist frequency.
        kx, ky = (np.where(np.abs(np.abs(k) - 0.5) < 1e-12, 0.0, k) for k in (kx, ky))
        kx, ky = kx[:, None] + 0 * ky, 0 * kx[:, None] + ky
        square = kx**2 + ky**2
        weight = lambda1 + square + lambda2 * k2**2
        with np.errstate(invalid="ignore", divide="ignore"):
            inverse = np.where(square > 0, 1 / (2j * np.pi * weight), 0)
        self.to_v = tuple(arrays.from_numpy(k * inverse, like) for k in (kx, ky))
        self.to_gradient = tuple(arrays.from_numpy(2j * np.pi * k, like) for k in (kx, ky))

    def solve(self, gx: Any, gy: Any) -> Any:
        return fft.irfft2(fft.rfft2(gx) * self.to_v[0] + fft.rfft2(gy) * self.to_v[1], self.shape)

    def gradient(self, v: Any) -> tuple[Any, Any]:
        spectrum = fft.rfft2(v)
        return tuple(fft.irfft2(spectrum * k, self.shape) for k in self.to_gradient)  # type: ignore[return-value]


def fill_and_solve(solver: SpectralGradient, gx: Any, gy: Any, inside: Any, v: Any, most: int) -> tuple[Any, list[float]]:
    """Fill the outside with the solution's own gradient and solve again; `inside` is 1 where the field is known."""
    xp = arrays.namespace(v)
    scale = float(xp.sqrt(xp.sum(gx * gx + gy * gy)))
    errors: list[float] = []
    if scale == 0:
        return v, errors
    for _ in range(most):
        vx, vy = solver.gradient(v)
        dx, dy = inside * (gx - vx), inside * (gy - vy)
        errors.append(float(xp.sqrt(xp.sum(dx * dx + dy * dy))) / scale)
        if converged(errors):
            break
        v = solver.solve(vx + dx, vy + dy)
    return v, errors


def mirrored(g: Any, sign: tuple[int, int]) -> Any:
    """Add the mirror images of a field below and to the right, each times its sign."""
    xp = arrays.namespace(g)
    tall = xp.concat([g, sign[0] * xp.flip(g, axis=-2)], axis=-2)
    return xp.concat([tall, sign[1] * xp.flip(tall, axis=-1)], axis=-1)


def padded_with_zeros(g: Any, factor: float) -> Any:
    """Add zeros below a field and to the right."""
    xp = arrays.namespace(g)
    for axis in (-2, -1):
        extra = math.ceil(g.shape[axis] * (factor - 1))
        shape = list(g.shape)
        shape[axis] = extra
        g = xp.concat([g, xp.zeros(tuple(shape), dtype=g.dtype, device=arrays.device(g))], axis=axis)
    return g
