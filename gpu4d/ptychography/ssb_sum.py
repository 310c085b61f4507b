"""Compute side-band sums over the overlaps of aperture disks, for every scan frequency, from geometry and without stored masks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.operation import Twin, operation

MODES = ("weighted", "exact")
Chi = tuple[tuple[int, int, float], ...]  # (i, j, c): χ / π = Σ c x^i y^j, x and y in detector pixels
HIGHEST_DEGREE = 6


class SSBSum(NamedTuple):
    """Sums over detector pixels k, for every scan frequency K. One plane in weighted mode, two (one for each overlap) in exact mode.

    Attributes
    ----------
    overlap : (planes, Rx, Ry // 2 + 1) complex128
    weight : (planes, Rx, Ry // 2 + 1) float64
    """

    overlap: Any
    weight: Any


@operation(cpu=Twin("gpu4d.cpu_fallback.ssb_sum"), cuda=Twin("gpu4d.kernels.ssb_sum", ("complex64",)))
def ssb_sum(
    spectra: Any,
    at: Any,
    rows: Any,
    columns: Any,
    /,
    *,
    radius: float,
    pupil: Any = None,
    center: tuple[float, float] = (0.0, 0.0),
    chi: Chi = (),
    mode: str = "weighted",
) -> SSBSum:
    """Sum the scan spectra of bright-field pixels, weighted by how the disks at k, k - K and k + K overlap.

    For a thin object the spectrum of pixel k is G(k, K) = F{iφ}(K) Γ(k, K) with
    Γ = A - B, A = Ψ₀*(k) Ψ₀(k - K), B = Ψ₀(k) Ψ₀*(k + K). "weighted" gives Σ G Γ* and Σ |Γ|². "exact" gives one plane of
    Σ G A* and Σ |A| over the pixels where the third disk is exactly zero, Ψ₀(k + K) = 0, and one of Σ G B* and Σ |B| where
    Ψ₀(k - K) = 0: double overlap without triple overlap.

    Parameters
    ----------
    spectra : (n, Rx, Ry // 2 + 1) complex
        G: `fft.rfft2` of each pixel's image over the scan; finite.
    at : (n, 2) real
        The pixels k, in detector pixels from the optical axis.
    rows, columns : (Rx, 2) and (Ry // 2 + 1, 2) real
        Scan frequencies K = rows[i] + columns[j], in detector pixels and detector axes.
    radius : float
        Radius of the aperture disk, pixels. |Ψ₀| falls from 1 to 0 over one pixel at this radius. Ignored if `pupil` is given.
    pupil : (Qx, Qy) complex, optional
        Ψ₀ itself, with largest modulus 1. It is interpolated bilinearly between pixels, and 0 outside.
    center : (float, float)
        The optical axis in `pupil`, pixels.
    chi : tuple of (i, j, c)
        Aberrations: Ψ₀ is multiplied by exp(-iχ), χ = π Σ c xⁱ yʲ, i + j ≤ 6, x and y in pixels.
    mode : {"weighted", "exact"}

    Returns
    -------
    SSBSum
        n = 0 gives zeros.

    Raises
    ------
    InputError
        Shapes that do not fit, an unknown mode, a polynomial of higher degree.

    Notes
    -----
    Rodenburg, McCallum, Nellist, Ultramicroscopy 48 (1993) 304; Pennycook et al., Ultramicroscopy 151 (2015) 160.

    Examples
    --------
    >>> import numpy as np
    >>> sums = ssb_sum(np.ones((1, 1, 2), complex), np.array([[2.0, 0.0]]), np.zeros((1, 2)), np.array([[0.0, 0], [4, 0]]), radius=3.0)
    >>> sums.overlap.real.tolist(), sums.weight.tolist()
    ([[[0.0, 1.0]]], [[[0.0, 1.0]]])
    """
    check(spectra, at, rows, columns, pupil, chi, mode)
    given = [spectra, at, rows, columns, *([] if pupil is None else [pupil])]
    xp = arrays.namespace(*given)
    spectra = xp.astype(spectra, xp.complex128, copy=False)
    x, y = (arrays.as_float64(at)[:, axis][:, None, None] for axis in (0, 1))
    kx, ky = (arrays.as_float64(rows)[:, axis][:, None] + arrays.as_float64(columns)[:, axis][None, :] for axis in (0, 1))

    def wave(x: Any, y: Any) -> Any:
        return xp.astype(aperture_wave(xp, x, y, radius=radius, pupil=pupil, center=center, chi=chi), xp.complex128, copy=False)

    own, minus, plus = wave(x, y), wave(x - kx, y - ky), wave(x + kx, y + ky)
    a, b = xp.conj(own) * minus, own * xp.conj(plus)
    if mode == "weighted":
        gamma = a - b
        overlap, weight = xp.sum(spectra * xp.conj(gamma), axis=0), xp.sum(xp.abs(gamma) ** 2, axis=0)
        return SSBSum(overlap[None, ...], weight[None, ...])
    none = xp.zeros_like(a)
    parts = [xp.where(xp.abs(plus) > 0, none, a), xp.where(xp.abs(minus) > 0, none, b)]
    return SSBSum(
        xp.stack([xp.sum(spectra * xp.conj(part), axis=0) for part in parts]), xp.stack([xp.sum(xp.abs(part), axis=0) for part in parts])
    )


def aperture_wave(
    xp: Any, x: Any, y: Any, *, radius: float, pupil: Any = None, center: tuple[float, float] = (0.0, 0.0), chi: Chi = ()
) -> Any:
    """Return Ψ₀ at points x, y in detector pixels from the axis: complex, or real for a round disk without aberrations."""
    if pupil is None:
        size = xp.clip(radius + 0.5 - xp.sqrt(x * x + y * y), 0.0, 1.0)
    else:
        size = _interpolated(xp, pupil, x + center[0], y + center[1])
    if not chi:
        return size
    turn = phase_of(xp, chi, x, y)
    return size * (xp.cos(turn) - 1j * xp.sin(turn))


def phase_of(xp: Any, chi: Chi, x: Any, y: Any) -> Any:
    """Return χ in radians."""
    alone = [xp.zeros_like(x), xp.zeros_like(y)]  # terms of x or y alone: on a grid of points these are small arrays
    for i, j, c in chi:
        if i == 0 or j == 0:
            alone[0 if j == 0 else 1] = alone[0 if j == 0 else 1] + (c * x**i if j == 0 else c * y**j)
    total = alone[0] + alone[1]
    for i, j, c in chi:
        if i and j:
            total = total + (c * x**i) * y**j
    return math.pi * total


def _interpolated(xp: Any, pupil: Any, u: Any, v: Any) -> Any:
    """Interpolate bilinearly in an array that is surrounded by zeros."""
    qx, qy = pupil.shape
    pupil = xp.reshape(xp.astype(pupil, xp.complex128), (-1,))
    total = xp.zeros((1, 1, 1), dtype=pupil.dtype, device=arrays.device(pupil))
    fu, fv = xp.floor(u), xp.floor(v)
    for i, wu in ((fu, 1 - (u - fu)), (fu + 1, u - fu)):
        for j, wv in ((fv, 1 - (v - fv)), (fv + 1, v - fv)):
            inside = (i >= 0) & (i < qx) & (j >= 0) & (j < qy)
            index = xp.astype(xp.clip(i, 0, qx - 1) * qy + xp.clip(j, 0, qy - 1), xp.int64)
            value = xp.reshape(xp.take(pupil, xp.reshape(index, (-1,))), index.shape)
            total = total + xp.where(inside, wu * wv, xp.zeros_like(u)) * value
    return total


def check(spectra: Any, at: Any, rows: Any, columns: Any, pupil: Any, chi: Chi, mode: str) -> None:
    """Raise an error for arguments that no implementation takes."""
    if mode not in MODES:
        raise InputError(f"mode={mode!r}: need {' or '.join(map(repr, MODES))}")
    n, nx, nk = spectra.shape if len(spectra.shape) == 3 else (-1, -1, -1)
    wanted = {"at": (at, (n, 2)), "rows": (rows, (nx, 2)), "columns": (columns, (nk, 2))}
    for name, (array, shape) in wanted.items():
        if tuple(array.shape) != shape:
            raise InputError(
                f"{name} is {tuple(array.shape)}, spectra are {tuple(spectra.shape)}: need (n, Rx, Ry // 2 + 1) and {name} {shape}"
            )
    if pupil is not None and len(pupil.shape) != 2:
        raise InputError(f"pupil is {tuple(pupil.shape)}, need (Qx, Qy)")
    if any(i < 0 or j < 0 or i + j > HIGHEST_DEGREE for i, j, _ in chi):
        raise InputError(f"chi has a term of degree above {HIGHEST_DEGREE}: need (i, j, c) with i + j ≤ {HIGHEST_DEGREE}")
