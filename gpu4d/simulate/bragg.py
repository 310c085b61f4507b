"""Simulate a scan of Bragg disks on a strained lattice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d import physics
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.errors import InputError
from gpu4d.real_arrays import radians, real_number
from gpu4d.simulate.deformation import Deformation, deformation_gradient, finite_strain
from gpu4d.simulate.simulated import Simulated, count_dtype, plane_shape

ABSORPTION = 0.4  # the direct beam is proportional to exp(-ABSORPTION (thickness - 1)): vacuum is 1.5 times brighter than the mean foil
TURN = 360.0  # degrees
FLOOR = 0.002  # share of the direct beam: an even background on the detector, also in vacuum


def bragg_scan(
    scan_shape: tuple[int, int] = (32, 32),
    detector_shape: tuple[int, int] = (128, 128),
    *,
    radius: float = 6.0,
    edge: float = 1.0,
    dose: float = 100.0,
    spacing: float = 22.0,
    angle: float = 10.0,
    g1: tuple[float, float] | None = None,
    g2: tuple[float, float] | None = None,
    reach: float = 2.3,
    strain: Deformation = "smooth",
    strain_size: float = 0.02,
    descan: float = 1.5,
    background: float = 0.03,
    thickness: float = 0.0,
    vacuum_rows: int = 0,
    rotation: float = 0.0,
    transpose: bool = False,
    energy: float = 200e3,
    semiangle: float = 3.0,
    r_pixel: float = 20.0,
    noise: bool = True,
    seed: int = 0,
) -> Simulated:
    """Simulate a 4D-STEM scan of convergent-beam disks whose positions, amplitudes and strain are known.

    Every pattern is the sum of disks of logistic edge, 1 / (1 + exp(4 (r - radius) / edge)), at origin + g, a Gaussian
    background and Poisson noise. The lattice deforms as g = F⁻ᵀ g_ref with F the deformation gradient of the crystal.
    Diffracted amplitudes are random (±40 %) at every position, as dynamical scattering makes them.

    Parameters
    ----------
    scan_shape, detector_shape : (int, int)
    radius, edge : float
        Radius and edge of the disks, detector pixels. `edge` is the width over which the intensity falls from 0.88 to 0.12.
    dose : float
        Counts per pixel inside the direct disk.
    spacing, angle : float
        Length of g1 in pixels, and its angle from qx towards qy in degrees. g2 is perpendicular to g1.
    g1, g2 : (float, float), optional
        Reference vectors in pixels, instead of `spacing` and `angle`.
    reach : float
        Disks are made up to `reach` × the length of g1.
    strain : {"smooth", "inclusion", None} or callable
        Field of F: waves in every component, a particle with misfit in a bent matrix, or none. A function of the scan
        coordinates (x, y) returns F (Rx, Ry, 2, 2).
    strain_size : float
        Largest strain of the named fields.
    descan : float
        Distance that the direct beam moves over half the scan, pixels. It follows a plane.
    background : float
        Height of the diffuse background relative to the direct disk.
    thickness : float
        0 for an even foil. Otherwise the relative thickness varies by about ± this much, as a wedge with undulations.
    vacuum_rows : int
        Number of first scan rows beside the specimen. Only the direct beam is there.
    rotation, transpose : float, bool
        From detector to scan axes: v_scan = R(rotation) v_det, after exchanging (qx, qy) if `transpose` is set. Radians.
        F and the strain of the truth are in scan axes, g1 and g2 in detector pixels.
    energy, semiangle, r_pixel : float
        In eV, mrad and Å. With `radius` they give the calibration's q_pixel.
    noise : bool
        False gives the expected counts in float32.
    seed : int

    Returns
    -------
    Simulated
        `cube` is uint16 (uint32 if the dose needs it). `truth` has positions (Rx, Ry, N, 2) px, amplitudes (Rx, Ry, N)
        (relative to the direct beam), hk (N, 2), origin (Rx, Ry, 2), g1, g2, F (Rx, Ry, 2, 2), exx, eyy, exy, theta,
        rotation (finite strain), specimen, inclusion (Rx, Ry) bool. In vacuum, F, strain, and the
        positions of disks that do not exist are NaN. `probe` is the direct disk alone, with height 1, at Q // 2.

    Raises
    ------
    InputError
        Impossible shapes, sizes or doses, a callable that returns F of a wrong shape, or numbers in other units: a rotation or an `angle`
        of more than one turn, a semi-angle in rad, an energy in keV.

    Examples
    --------
    >>> scan = bragg_scan((4, 4), (64, 64), spacing=20.0, reach=1.1, seed=1)
    >>> scan.cube.shape, scan.truth["positions"].shape
    ((4, 4, 64, 64), (4, 4, 5, 2))
    """
    scan_shape, detector_shape = plane_shape(scan_shape, "scan_shape"), plane_shape(detector_shape, "detector_shape")
    _check(dict(radius=radius, edge=edge, dose=dose, spacing=spacing), vacuum_rows, scan_shape)
    calibration, rotation = Calibration(), radians(rotation, "rotation")
    calibration.set(energy=energy, semiangle=semiangle, r_pixel=r_pixel, how="simulation")  # refuses other units before the work
    rng = np.random.default_rng(seed)
    reference = _reference(spacing, angle, g1, g2)
    hk = _reflections(reference, reach)
    F, inclusion = deformation_gradient(strain, scan_shape, strain_size)
    specimen = np.ones(scan_shape, bool)
    specimen[:vacuum_rows] = False
    origin = scan_origin(scan_shape, detector_shape, descan)
    positions = origin[:, :, None] + _lattice(F, hk @ reference, rotation, transpose)
    relative = np.where(specimen, relative_thickness(scan_shape, thickness, rng), 0.0)
    amplitudes = _amplitudes(hk, relative, inclusion, rng)
    positions[~specimen] = np.where((hk == 0).all(1)[:, None], positions[~specimen], np.nan)
    F = np.where(specimen[..., None, None], F, np.nan)

    scene = _Scene(detector_shape, radius, edge, background * np.minimum(relative, 1.0), 1.4 * float(np.linalg.norm(reference[0])))
    largest = dose * (amplitudes.max() + background + FLOOR)
    data = np.empty((*scan_shape, *detector_shape), count_dtype(largest) if noise else np.float32)
    for rx in range(scan_shape[0]):
        for ry in range(scan_shape[1]):
            expected = dose * scene.pattern(rx, ry, positions[rx, ry], amplitudes[rx, ry])
            data[rx, ry] = rng.poisson(expected) if noise else expected

    calibration.set(q_pixel=physics.pixel_from_disk(radius, semiangle, energy), how="simulation")
    truth = dict(
        positions=positions, amplitudes=amplitudes, hk=hk, origin=origin, g1=reference[0], g2=reference[1], F=F,
        specimen=specimen, inclusion=inclusion & specimen, **finite_strain(F),
    )  # fmt: skip
    cube = DataCube(data, calibration, {"simulation": "gpu4d.simulate.bragg_scan", "seed": seed, "dose": dose}, name="bragg_scan")
    return Simulated(cube, truth, soft_disk(detector_shape, (detector_shape[0] // 2, detector_shape[1] // 2), radius, edge))


def soft_disk(shape: tuple[int, int], center: tuple[float, float], radius: float, edge: float) -> np.ndarray:
    """Return a disk of height 1 with a logistic edge, 1 / (1 + exp(4 (r - radius) / edge)), (Qx, Qy) float64."""
    x, y = (np.arange(n) - c for n, c in zip(shape, center))
    return _profile(np.sqrt(x[:, None] ** 2 + y**2), radius, edge)


def _profile(r: np.ndarray, radius: float, edge: float) -> np.ndarray:
    from scipy.special import expit

    return expit((radius - r) * (4 / edge))


@dataclass
class _Scene:
    """Everything that is the same for all patterns."""

    shape: tuple[int, int]
    radius: float
    edge: float
    background: np.ndarray  # (Rx, Ry)
    sigma: float

    def __post_init__(self) -> None:
        x, y = (np.arange(n) - n // 2 for n in self.shape)
        self.diffuse = np.exp(-(x[:, None] ** 2 + y**2) / self.sigma**2)
        self.half = int(np.ceil(self.radius + 6 * self.edge)) + 1  # the logistic is 4e-11 there

    def pattern(self, rx: int, ry: int, positions: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
        """Return the expected pattern in units of the direct disk. Disks that cross the border of the detector are cut there."""
        out = self.background[rx, ry] * self.diffuse + FLOOR
        for (qx, qy), amplitude in zip(positions[amplitudes > 0], amplitudes[amplitudes > 0]):
            xs, ys = (slice(max(round(q) - self.half, 0), min(round(q) + self.half + 1, n)) for q, n in zip((qx, qy), self.shape))
            if xs.stop <= xs.start or ys.stop <= ys.start:
                continue
            x, y = np.arange(xs.start, xs.stop) - qx, np.arange(ys.start, ys.stop) - qy
            out[xs, ys] += amplitude * _profile(np.sqrt(x[:, None] ** 2 + y**2), self.radius, self.edge)
        return out


def _check(positive: dict[str, float], vacuum_rows: int, scan_shape: tuple[int, int]) -> None:
    for name, value in positive.items():
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name}={value!r}: need a positive number")
    if not 0 <= vacuum_rows < scan_shape[0]:
        raise InputError(f"vacuum_rows={vacuum_rows}: need 0 … {scan_shape[0] - 1}, some rows must lie on the specimen")


def _reference(spacing: float, angle: float, g1: tuple[float, float] | None, g2: tuple[float, float] | None) -> np.ndarray:
    """Return reference vectors g1, g2 as rows, detector pixels."""
    if (g1 is None) != (g2 is None):
        raise InputError("g1 and g2 belong together: give both, or spacing and angle")
    if g1 is not None and g2 is not None:
        reference = np.array([g1, g2], dtype=float)
    else:
        if not abs(real_number(angle, "angle")) <= TURN:
            raise InputError(f"angle={angle}: need degrees from -{TURN:g} to {TURN:g}")
        a = np.deg2rad(angle)
        reference = spacing * np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    if abs(np.linalg.det(reference)) < 1e-6:
        raise InputError(f"g1={g1} and g2={g2} are parallel: need two directions")
    return reference


def _reflections(reference: np.ndarray, reach: float) -> np.ndarray:
    """Return indices (N, 2) with |h g1 + k g2| ≤ reach |g1|, including the direct beam."""
    limit = reach * np.linalg.norm(reference[0])
    most = int(np.ceil(limit * np.abs(np.linalg.inv(reference)).sum(0).max())) + 1
    h, k = np.meshgrid(*(np.arange(-most, most + 1),) * 2, indexing="ij")
    hk = np.stack([h.ravel(), k.ravel()], -1)
    return hk[np.linalg.norm(hk @ reference, axis=1) <= limit * (1 + 1e-9)]


def scan_origin(scan_shape: tuple[int, int], detector_shape: tuple[int, int], descan: float) -> np.ndarray:
    """Return positions of the direct beam (Rx, Ry, 2): a plane, slightly off the centre of the detector."""
    u, v = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in scan_shape), indexing="ij")
    cx, cy = (n // 2 for n in detector_shape)
    return np.stack([cx + 0.3 + descan * (u - 0.27 * v), cy - 0.2 + descan * (0.33 * u + v)], -1)


def _lattice(F: np.ndarray, g: np.ndarray, rotation: float, transpose: bool) -> np.ndarray:
    """Return g of the deformed crystal on the detector, (Rx, Ry, N, 2). F is in scan axes, g (N, 2) in detector axes."""
    to_scan = scan_matrix(rotation, transpose)
    scan = np.einsum("xyab,nb->xyna", np.linalg.inv(F).swapaxes(-1, -2), g @ to_scan.T)
    return scan @ to_scan  # to_scan is orthogonal: v @ to_scan is its inverse acting on v


def relative_thickness(scan_shape: tuple[int, int], variation: float, rng: np.random.Generator) -> np.ndarray:
    """Return relative thickness (Rx, Ry), about 1: a wedge and long waves of random phase."""
    u, v = np.meshgrid(*(np.linspace(0, 1, n) for n in scan_shape), indexing="ij")
    phases = rng.uniform(0, 2 * np.pi, 3)
    waves = sum(np.cos(2 * np.pi * (h * u + k * v) + p) for (h, k), p in zip(((1, 1), (2, -1), (1, 3)), phases))
    return np.maximum(1 + variation * (0.6 * (2 * u - 1) + 0.2 * waves), 0.05)


def _amplitudes(hk: np.ndarray, thickness: np.ndarray, inclusion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return disk heights (Rx, Ry, N) relative to the direct beam of the mean foil. A second phase diffracts less."""
    order = (hk**2).sum(1)
    direct = order == 0
    base = np.where(direct, 1.0, 0.45 * np.exp(-0.12 * order))
    dynamical = np.where(direct, 1.0, rng.uniform(0.6, 1.4, (*thickness.shape, len(hk))))
    scattering = thickness * np.where(inclusion, 0.6, 1.0)
    through = np.where(direct, np.exp(-ABSORPTION * (thickness - 1))[..., None], scattering[..., None])
    return base * dynamical * through
