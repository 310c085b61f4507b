"""Simulate a scan of a thin phase object with a convergent probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpu4d import fft, physics
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.errors import InputError
from gpu4d.real_arrays import radians
from gpu4d.simulate.simulated import Simulated, count_dtype, plane_shape

PhaseObject = str | np.ndarray | Callable[[np.ndarray, np.ndarray], np.ndarray]


def phase_object_scan(
    scan_shape: tuple[int, int] = (64, 64),
    detector_shape: tuple[int, int] = (64, 64),
    *,
    object: PhaseObject = "atoms",
    strength: float = 0.3,
    dose: float | None = None,
    r_pixel: float = 0.2,
    cell: float | None = None,
    energy: float = 80e3,
    semiangle: float = 25.0,
    defocus: float = 0.0,
    rotation: float = 0.0,
    transpose: bool = False,
    descan: float = 0.0,
    positions: ArrayLike | None = None,
    seed: int = 0,
) -> Simulated:
    """Simulate a 4D-STEM scan of a thin object: I(q) = |F{ψ₀(r - R) exp(iφ(r))}|², with Poisson noise at a dose.

    The cell is periodic and square. Its side gives the detector pixel, 1 / side. Between the samples of the object, φ is
    interpolated by Fourier transforms. So the centre of mass is (∇φ ⊗ |ψ₀|²) / 2π up to the band limit.

    Parameters
    ----------
    scan_shape, detector_shape : (int, int)
    object : {"atoms", "particles"}, (n, n) array or callable
        Phase. "atoms": Gaussian atoms of two elements on a lattice with a vacancy. "particles": soft spheres of random size and
        place. An array: samples over the cell, radians. A function of (x, y) in Å, periodic in the cell. Atoms attract electrons,
        so φ ≥ 0.
    strength : float
        Largest phase of the named objects, radians.
    dose : float, optional
        Electrons per Å² of the scan. None gives noise-free float32 patterns. Their sum is 1 before the detector's border cuts them.
    r_pixel : float
        Scan step, Å.
    cell : float, optional
        Side of the periodic cell, Å. By default the longer side of the scan.
    energy, semiangle : float
        eV, mrad.
    defocus : float
        Å. Positive is underfocus, C10 = -defocus.
    rotation, transpose : float, bool
        From detector to scan axes: v_scan = R(rotation) v_det, after exchanging (qx, qy) if `transpose` is set. Radians. The
        probe moves along the rotated directions.
    descan : float
        Distance that the patterns move over half the scan, pixels. It follows a plane.
    positions : (Rx, Ry, 2) array, optional
        Where patterns are taken, Å in scan axes, in place of r_pixel · (i, j): a drifting specimen. The calibration does not have
        them.
    seed : int

    Returns
    -------
    Simulated
        `cube` is uint16 or float32, centred at Q // 2. `truth` has: phase (Rx, Ry) at the scan positions, radians. phase_conv, the
        phase convolved with the probe's intensity, which an ideal integrated centre of mass gives, radians. gradient (Rx, Ry, 2)
        of phase_conv along the scan axes, rad/Å. object (n, n) over the cell. wave (n, n) complex, the probe with its centre in
        the corner. `probe` is the vacuum pattern, with sum 1.

    Raises
    ------
    InputError
        A probe that does not fit on the detector or into the cell, an object that is not finite, or numbers in other units: a rotation of
        more than one turn, a semi-angle in rad, an energy in keV.

    Examples
    --------
    >>> scan = phase_object_scan((8, 8), (32, 32), r_pixel=1.0, dose=1e4, seed=1)
    >>> scan.cube.shape, str(scan.cube.dtype), scan.truth["phase"].shape
    ((8, 8, 32, 32), 'uint16', (8, 8))
    """
    scan_shape, detector_shape = plane_shape(scan_shape, "scan_shape"), plane_shape(detector_shape, "detector_shape")
    calibration, rotation = Calibration(), radians(rotation, "rotation")
    calibration.set(energy=energy, semiangle=semiangle, r_pixel=r_pixel, how="simulation")  # refuses other units before the work
    side = float(cell) if cell is not None else max(scan_shape) * r_pixel
    n = max(detector_shape) + max(detector_shape) % 2
    _check(side, semiangle, energy, detector_shape, dose)
    rng = np.random.default_rng(seed)
    phase = _object(object, n, side, strength, rng)
    wave = _probe(n, side, energy, semiangle, defocus)
    places = _positions(_taken(positions, scan_shape, r_pixel), side, rotation, transpose)
    tilt = _tilt(scan_shape, descan)

    electrons = None if dose is None else dose * r_pixel**2
    view = _far_field_view(n, detector_shape)
    vacuum = np.abs(fft.fft2(wave)[view]) ** 2
    largest = vacuum.max() * (electrons or 1.0) * 4
    data = np.empty((*scan_shape, *detector_shape), np.float32 if electrons is None else count_dtype(largest))
    spectrum, shift = fft.fft2(phase), _shifter(n, side)
    centred = np.roll(wave, (n // 2, n // 2), (0, 1))  # the probe stays away from the border of the cell, and the object moves
    ramp = (np.arange(n) - n // 2) / n
    for rx in range(scan_shape[0]):
        moved = fft.ifft2(spectrum * shift(places[rx] - side / 2)).real
        tilted = np.exp(2j * np.pi * (tilt[rx, :, 0, None, None] * ramp[:, None] + tilt[rx, :, 1, None, None] * ramp))
        expected = np.abs(fft.fft2(centred * np.exp(1j * moved) * tilted)[:, *view]) ** 2
        data[rx] = expected if electrons is None else rng.poisson(expected * electrons)

    calibration.set(q_pixel=1 / side, how="simulation")
    metadata = {"simulation": "gpu4d.simulate.phase_object_scan", "seed": seed, "dose": dose}
    cube = DataCube(data, calibration, metadata, name="phase_object_scan")
    truth = _truth(phase, wave, places, side, rotation, transpose)
    return Simulated(cube, truth | {"object": phase, "wave": wave}, vacuum)


def _check(side: float, semiangle: float, energy: float, detector: tuple[int, int], dose: float | None) -> None:
    radius = physics.angle_to_frequency(semiangle, energy) * side
    if not 1.5 < radius < min(detector) / 2 - 1:
        raise InputError(
            f"the bright-field disk has a radius of {radius:.1f} px on a detector of {detector}: need 1.5 … {min(detector) / 2 - 1:g}; "
            "a larger scan (scan_shape or r_pixel) or a larger semiangle makes it larger"
        )
    if dose is not None and not dose > 0:
        raise InputError(f"dose={dose}: need a positive number of electrons per Å², or None for noise-free patterns")


def _object(kind: PhaseObject, n: int, side: float, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Return φ (n, n) over the cell, radians."""
    x, y = np.meshgrid(np.arange(n) * side / n, np.arange(n) * side / n, indexing="ij")
    if isinstance(kind, np.ndarray) or callable(kind):
        phase = np.asarray(kind(x, y) if callable(kind) else kind, dtype=float)
        if phase.shape != (n, n) or not np.isfinite(phase).all():
            raise InputError(f"object has shape {phase.shape}, need finite phases {(n, n)} over the cell")
        return phase
    if kind == "atoms":
        return strength * _atoms(x, y, side)
    if kind == "particles":
        return strength * _particles(x, y, side, rng)
    raise InputError(f"object={kind!r}: need 'atoms', 'particles', an array (n, n), or a callable of (x, y)")


def _atoms(x: np.ndarray, y: np.ndarray, side: float) -> np.ndarray:
    """Place two elements on a centred lattice of about 3.2 Å, with one light atom missing."""
    cells = max(2, round(side / 3.2))
    pitch = side / cells
    phase = np.zeros_like(x)
    for i in range(cells):
        for j in range(cells):
            phase += _blob(x, y, (i + 0.25) * pitch, (j + 0.25) * pitch, 0.14 * pitch, side)
            if (i, j) != (cells // 2, cells // 2):
                phase += 0.6 * _blob(x, y, (i + 0.75) * pitch, (j + 0.75) * pitch, 0.14 * pitch, side)
    return phase / phase.max()


def _particles(x: np.ndarray, y: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """Place sparse soft particles of random size."""
    phase = np.zeros_like(x)
    for _ in range(9):
        cx, cy = rng.uniform(0, side, 2)
        phase += rng.uniform(0.4, 1.0) * _blob(x, y, cx, cy, rng.uniform(0.03, 0.07) * side, side)
    return phase / phase.max()


def _blob(x: np.ndarray, y: np.ndarray, cx: float, cy: float, sigma: float, side: float) -> np.ndarray:
    """Return a Gaussian of height 1, repeated with the cell."""
    dx, dy = ((c - c0 + side / 2) % side - side / 2 for c, c0 in ((x, cx), (y, cy)))
    return np.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))


def _probe(n: int, side: float, energy: float, semiangle: float, defocus: float) -> np.ndarray:
    """Return ψ₀ (n, n) with its centre in the corner, Σ|F{ψ₀}|² = 1: a round aperture and exp(-iχ), χ = π λ k² C10."""
    k = fft.frequencies(n, side / n)
    k2 = k[:, None] ** 2 + k**2
    aperture = np.clip((physics.angle_to_frequency(semiangle, energy) - np.sqrt(k2)) * side + 0.5, 0.0, 1.0)
    spectrum = np.sqrt(aperture / aperture.sum()) * np.exp(1j * np.pi * physics.wavelength(energy) * k2 * defocus)
    return fft.ifft2(spectrum)


def _taken(given: ArrayLike | None, scan_shape: tuple[int, int], step: float) -> np.ndarray:
    """Return where patterns are taken, (Rx, Ry, 2) Å in scan axes."""
    if given is None:
        return np.stack(np.meshgrid(*(np.arange(m) * step for m in scan_shape), indexing="ij"), -1)
    found = real_values(given, "positions", f"{(*scan_shape, 2)}, Å").astype(np.float64)
    if found.shape != (*scan_shape, 2) or not np.isfinite(found).all():
        raise InputError(f"positions has shape {found.shape}: need {(*scan_shape, 2)}, finite, in Å")
    return found


def _positions(taken: np.ndarray, side: float, rotation: float, transpose: bool) -> np.ndarray:
    """Return probe positions in detector axes, (Rx, Ry, 2) Å: r_scan = R(rotation) r_det after the exchange, about the cell's middle."""
    return (taken - side / 2) @ scan_matrix(rotation, transpose) + side / 2


def _tilt(scan_shape: tuple[int, int], descan: float) -> np.ndarray:
    """Return the shift of the patterns (Rx, Ry, 2), detector pixels."""
    u, v = np.meshgrid(*(np.linspace(-1, 1, m) if m > 1 else np.zeros(1) for m in scan_shape), indexing="ij")
    return descan * np.stack([u - 0.4 * v, 0.5 * u + v], -1)


def _shifter(n: int, side: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that gives Fourier factors to move a real function from f(x) to f(x + r). Take the real part of the result."""
    k = fft.frequencies(n, side / n)

    def shift(r: np.ndarray) -> np.ndarray:
        return np.exp(2j * np.pi * k[:, None] * r[..., 0, None, None]) * np.exp(2j * np.pi * k * r[..., 1, None, None])

    return shift


def _far_field_view(n: int, detector: tuple[int, int]) -> tuple[Any, Any]:
    """Return the index that takes a corner-centred (n, n) far field to the detector, direct beam at Q // 2."""
    x, y = ((np.arange(m) - m // 2) % n for m in detector)
    return x[:, None], y[None, :]


def _truth(
    phase: np.ndarray, wave: np.ndarray, positions: np.ndarray, side: float, rotation: float, transpose: bool
) -> dict[str, np.ndarray]:
    """Return phase, convolved phase and its gradient at the probe positions, by Fourier interpolation."""
    n = len(phase)
    k = fft.frequencies(n, side / n)
    intensity = np.abs(wave) ** 2 / (np.abs(wave) ** 2).sum()
    spectrum = fft.fft2(phase)
    blurred = spectrum * np.conj(fft.fft2(intensity))
    shift = _shifter(n, side)
    inner = np.where(np.arange(n) == n // 2, 0.0, k)  # the derivative of a real function has no Nyquist component
    derivative = [2j * np.pi * (inner[:, None] + 0 * k), 2j * np.pi * (0 * k[:, None] + inner)]
    fields = np.stack([spectrum, blurred, blurred * derivative[0], blurred * derivative[1]]) / n**2
    at = np.stack([np.einsum("fxy,pxy->pf", fields, shift(row), optimize=True).real for row in positions])
    return {"phase": at[..., 0], "phase_conv": at[..., 1], "gradient": at[..., 2:] @ scan_matrix(rotation, transpose).T}
