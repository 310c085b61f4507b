"""Sum products of side bands and their derivatives over bright-field pixels: what a fit of aberrations needs of the data."""

from __future__ import annotations

import math
from typing import Any

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.operation import Twin, operation
from gpu4d.ptychography.ssb_sum import HIGHEST_DEGREE, Chi, phase_of

MOST_PARTS = 14  # coefficients of χ: all up to third order are 12; more columns would need another layout of the CUDA kernel


@operation(cpu=Twin("gpu4d.cpu_fallback.sideband_products"), cuda=Twin("gpu4d.kernels.sideband_products", ("complex64",)))
def sideband_products(
    spectra: Any,
    at: Any,
    frequencies: Any,
    weights: Any,
    /,
    *,
    radius: float,
    margin: float = 0.0,
    chi: Chi = (),
    parts: tuple[Chi, ...] = (),
) -> Any:
    """Sum products of the columns [G, A, B, u₁A, …, u_pA, v₁B, …, v_pB] over bright-field pixels k, for every scan frequency K.

    A thin object gives pixel k the scan spectrum G(k, K) = a(K) A(k, K) + b(K) B(k, K) with the side bands
    A = Ψ₀*(k) Ψ₀(k - K) and B = Ψ₀(k) Ψ₀*(k + K), Ψ₀ = exp(-iχ) inside the aperture. With χ = Σ c_p χ_p the derivatives are
    ∂A/∂c_p = i u_p A, u_p = χ_p(k) - χ_p(k - K), and ∂B/∂c_p = -i v_p B, v_p = χ_p(k) - χ_p(k + K). All least-squares problems
    in a, b and c_p, for any a and b, are made of the products of these columns.

    Parameters
    ----------
    spectra : (n, m) complex
        G: scan spectra of n pixels at m frequencies; finite.
    at : (n, 2) real
        The pixels k, in detector pixels from the optical axis.
    frequencies : (m, 2) real
        The scan frequencies K, in detector pixels and detector axes.
    weights : (n,) real
        Weights of the pixels: 1 over the variance of G.
    radius : float
        Radius of the aperture disk, pixels.
    margin : float
        A pair (k, K) is left out if the edge of one of the disks about 0, K and -K is nearer to k than this, pixels. A pixel
        there is lit in part, and the middle of the lit part is not the pixel's middle.
    chi : tuple of (i, j, c)
        χ = π Σ c xⁱ yʲ, i + j ≤ 6, x and y in pixels.
    parts : tuple of such tuples
        The χ_p, at most 14.

    Returns
    -------
    (m, 3 + 2p, 3 + 2p) complex128
        Σ_k w conj(column a) column b. Hermitian. A pair without A and without B does not count, nor does its G.

    Raises
    ------
    InputError
        Shapes that do not fit, too many parts, a polynomial of higher degree.

    Examples
    --------
    >>> import numpy as np
    >>> given = np.full((1, 1), 2j), np.array([[2.0, 0.0]]), np.array([[4.0, 0.0]]), np.ones(1)
    >>> found = sideband_products(*given, radius=3.0)[0]  # only the disk about K reaches this pixel: G, A and no B
    >>> np.abs(found).tolist(), float(found[1, 0].imag)
    ([[4.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], 2.0)
    """
    check(spectra, at, frequencies, weights, chi, parts)
    xp = arrays.namespace(spectra, at, frequencies, weights)
    g = xp.astype(spectra, xp.complex128, copy=False)
    x, y = (arrays.as_float64(at)[:, axis][:, None] for axis in (0, 1))
    kx, ky = (arrays.as_float64(frequencies)[:, axis][None, :] for axis in (0, 1))
    places = ((x + 0 * kx, y + 0 * ky), (x - kx, y - ky), (x + kx, y + ky))
    distances = [xp.sqrt(u * u + v * v) for u, v in places]
    clear = (abs(distances[0] - radius) >= margin) & (abs(distances[1] - radius) >= margin) & (abs(distances[2] - radius) >= margin)
    one, none = xp.ones_like(g), xp.zeros_like(g)

    def column(side: int, sign: float) -> Any:
        turn = phase_of(xp, chi, *places[0]) - phase_of(xp, chi, *places[side])
        lit = clear & (distances[0] < radius) & (distances[side] < radius)
        return xp.where(lit, (xp.cos(turn) + sign * 1j * xp.sin(turn)) * one, none)

    a, b = column(1, 1.0), column(2, -1.0)
    both = [xp.where((a != 0) | (b != 0), g, none), a, b]
    for side, band in ((1, a), (2, b)):
        both += [band * (phase_of(xp, part, *places[0]) - phase_of(xp, part, *places[side])) for part in parts]
    columns = xp.stack(both)  # (c, n, m)
    weighted = columns * arrays.as_float64(weights)[None, :, None]
    by_frequency = xp.permute_dims(columns, (2, 0, 1)), xp.permute_dims(weighted, (2, 1, 0))
    return xp.matmul(xp.conj(by_frequency[0]), by_frequency[1])


def check(spectra: Any, at: Any, frequencies: Any, weights: Any, chi: Chi, parts: tuple[Chi, ...]) -> None:
    """Raise an error for arguments that no implementation takes."""
    n, m = spectra.shape if len(spectra.shape) == 2 else (-1, -1)
    for name, array, shape in (("at", at, (n, 2)), ("frequencies", frequencies, (m, 2)), ("weights", weights, (n,))):
        if tuple(array.shape) != shape:
            raise InputError(f"{name} is {tuple(array.shape)}, spectra are {tuple(spectra.shape)}: need (n, m) and {name} {shape}")
    if len(parts) > MOST_PARTS:
        raise InputError(f"parts has {len(parts)} polynomials: need at most {MOST_PARTS}")
    if any(i < 0 or j < 0 or i + j > HIGHEST_DEGREE for one in (chi, *parts) for i, j, _ in one):
        raise InputError(f"a polynomial has a term of degree above {HIGHEST_DEGREE}: need (i, j, c) with i + j ≤ {HIGHEST_DEGREE}")


def table(polynomial: Chi, degree: int) -> list[float]:
    """Return π c[i][j] of a polynomial as the twins read it: rows i = 0 … degree, each with j = 0 … degree - i."""
    found = dict.fromkeys([(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)], 0.0)
    for i, j, c in polynomial:
        found[i, j] += math.pi * c
    return list(found.values())
