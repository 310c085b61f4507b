"""Make the probes that a reconstruction starts from, and keep their modes orthogonal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.probe.wavefunction import chi
from gpu4d.ptychography.iterative.grid import Grid

ENOUGH = 0.99  # of the power: modes of a source beyond this are left out
MOST_MODES = 10  # those of a Gaussian source up to third order
SIDE = 0.05  # of the power of the first mode: what each further mode has to begin with, if no source says it


def first_wave(
    grid: Grid, energy: float, radius: float, aberrations: Mapping[str, float] | None, given: np.ndarray | None, origin: tuple[float, float]
) -> np.ndarray:
    """Return Ψ of one mode in the aperture's plane, (N, N) complex128, zero frequency first.

    Parameters
    ----------
    grid : Grid
    energy, radius : float
        eV; of the bright-field disk, detector pixels.
    aberrations : mapping or None
    given : (Qx, Qy) complex or None
        A wave on the detector in place of the round aperture. Its aberrations are multiplied by those that are given.
    origin : (float, float)
        Of the disk on the detector, pixels: for an error.
    """
    kx, ky = grid.frequencies()
    if given is None:
        aperture = np.sqrt(np.clip(radius + 0.5 - np.hypot(kx, ky) / grid.q_pixel, 0, 1))  # intensities of pixels at the edge are shares
    else:
        there = (grid.rows >= 0)[:, None] & (grid.columns >= 0)[None, :]
        aperture = np.where(there, given[grid.rows][:, grid.columns], 0)
    if not (np.abs(aperture) > 0).any():
        raise InputError(f"no pixel of the aperture about ({origin[0]:.4g}, {origin[1]:.4g}) is in the pattern: check calibration.origin")
    return aperture * np.exp(-1j * chi(kx, ky, aberrations, energy))


def source_modes(wave: np.ndarray, kx: np.ndarray, ky: np.ndarray, sigma: float, count: int | None) -> np.ndarray:
    """Split the probe of a Gaussian source into modes, strongest first, (M, N, N).

    The source averages over displacements: Ψ(k) Ψ*(k') is multiplied by exp(-2π² σ² |k - k'|²). With a = 2π² σ² this is the sum
    over m and n of Ψ_mn(k) Ψ_mn*(k'), Ψ_mn = Ψ(k) exp(-a k²) (2a)^((m+n)/2) kxᵐ kyⁿ / √(m! n!).

    Parameters
    ----------
    wave : (N, N) complex
    kx, ky : (N, 1), (1, N)
        1/Å.
    sigma : float
        Standard deviation of the source in each direction, Å, in the plane of the specimen.
    count : int or None
        How many modes. None takes 99 % of the power, at most ten modes.
    """
    a = 2 * (math.pi * sigma) ** 2
    damped = wave * np.exp(-a * (kx**2 + ky**2))
    orders = [(total - n, n) for total in range(6) for n in range(total + 1)]
    modes = [damped * kx**m * ky**n * math.sqrt((2 * a) ** (m + n) / (math.factorial(m) * math.factorial(n))) for m, n in orders]
    modes_found = orthogonal(np.array(modes))
    power = (np.abs(modes_found) ** 2).sum(axis=(1, 2))
    if count is None:
        count = min(MOST_MODES, int(np.searchsorted(np.cumsum(power) / power.sum(), ENOUGH)) + 1)
    return modes_found[:count]


def side_modes(wave: np.ndarray, kx: np.ndarray, ky: np.ndarray, count: int) -> np.ndarray:
    """Return `count` modes that begin with the given wave; the others are it times polynomials of k, and weak."""
    scale = np.sqrt((np.abs(wave) ** 2 * (kx**2 + ky**2)).sum() / (np.abs(wave) ** 2).sum())
    orders = [(total - n, n) for total in range(6) for n in range(total + 1)][:count]
    modes = [wave * (kx / scale) ** m * (ky / scale) ** n for m, n in orders]
    found = [modes[0]]
    for mode in modes[1:]:
        for other in found:
            mode = mode - other * (np.vdot(other, mode) / np.vdot(other, other))
        found.append(mode * math.sqrt(SIDE * (np.abs(wave) ** 2).sum() / (np.abs(mode) ** 2).sum()))
    return np.array(found)


def orthogonal(modes: Any) -> Any:
    """Return modes (M, N, N) with the same sum over modes of Ψ(k) Ψ*(k') that are orthogonal, the strongest first.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.array([[[1.0, 1.0]], [[1.0, 0.0]]]) + 0j
    >>> b = orthogonal(a)
    >>> bool(abs(np.vdot(b[0], b[1])) < 1e-12), (abs(b) ** 2).sum((1, 2)).round(3).tolist()
    (True, [2.618, 0.382])
    """
    return mixed(modes, mixing(modes))


def mixing(modes: Any) -> np.ndarray:
    """Return the unitary matrix (M, M) that makes modes orthogonal, the strongest first. Modes that are so already stay as they are."""
    xp = arrays.namespace(modes)
    flat = xp.reshape(modes, (modes.shape[0], -1))
    gram = arrays.to_numpy(flat @ xp.conj(xp.permute_dims(flat, (1, 0)))).astype(complex)
    _, vectors = np.linalg.eigh(gram)
    vectors = vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(vectors))]
    return (vectors * np.exp(-1j * np.angle(largest))).conj().T  # signs that do not jump


def mixed(modes: Any, matrix: np.ndarray) -> Any:
    """Return modes (M, N, N) mixed by a matrix (M, M)."""
    xp = arrays.namespace(modes)
    there = arrays.from_numpy(matrix.astype(str(modes.dtype).rpartition(".")[2]), modes)
    return xp.reshape(there @ xp.reshape(modes, (modes.shape[0], -1)), modes.shape)


def within(grid: Grid, radius: float) -> np.ndarray:
    """Return (N, N) float64: 1 where frequencies are in the aperture, radius in pixels, zero frequency first."""
    kx, ky = grid.frequencies()
    return (np.hypot(kx, ky) <= radius * grid.q_pixel).astype(float)
