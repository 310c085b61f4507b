"""Simulate a scan of a strained glass: a diffuse ring at every position."""

from __future__ import annotations

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.errors import InputError
from gpu4d.real_arrays import radians, real_number
from gpu4d.simulate.bragg import relative_thickness, scan_origin
from gpu4d.simulate.deformation import Deformation, deformation_gradient
from gpu4d.simulate.simulated import Simulated, count_dtype, plane_shape

BEAM = 0.1  # of the electrons of a pattern: the unscattered beam
SECOND = (1.72, 0.35, 1.9)  # radius, height and width of the second ring, in those of the first
DECAY = 0.55  # of the first ring's radius: the diffuse scattering falls with it, as (1 + (r / decay)²)^-1
HEIGHT = 1.6  # of the first ring over the diffuse scattering beneath it
FINE = 0.05  # px: step of the profile of the truth


def amorphous_scan(
    scan_shape: tuple[int, int] = (24, 24),
    detector_shape: tuple[int, int] = (96, 96),
    *,
    radius: float = 28.0,
    width: float = 2.6,
    beam_radius: float = 2.0,
    dose: float = 5e4,
    strain: Deformation = "smooth",
    strain_size: float = 0.02,
    unstrained_rows: int = 0,
    turn: float = 0.0,
    descan: float = 0.8,
    ellipse: tuple[float, float, float] | None = None,
    radius_drift: float = 0.0,
    thickness: float = 0.0,
    rotation: float = 0.0,
    transpose: bool = False,
    energy: float = 200e3,
    q_pixel: float = 0.0145,
    r_pixel: float = 30.0,
    noise: bool = True,
    seed: int = 0,
) -> Simulated:
    """Simulate a 4D-STEM scan of a glass whose strain, origin and profile are known.

    The unstrained glass has the radial profile P: a first ring, a second one, diffuse scattering, and the unscattered beam. With the
    deformation gradient F the pattern is P(|Fᵀ T (q − q₀)|), T being the matrix that removes the ellipse of the detector. It depends on
    F Fᵀ alone, so that a rotation does not show. The beam is round. Rings have no speckles.

    Parameters
    ----------
    scan_shape, detector_shape : (int, int)
    radius, width : float
        Radius of the first ring, and standard deviation of its width, pixels.
    beam_radius : float
        Radius of the unscattered disk, pixels.
    dose : float
        Electrons of a pattern, of which a tenth is the unscattered beam.
    strain : {"smooth", "inclusion", None} or callable
        Field of F, as in `bragg_scan`.
    strain_size : float
        Largest strain of the named fields.
    unstrained_rows : int
        Number of first scan rows in which F is the identity: a reference.
    turn : float
        The glass is turned as well, by an angle that grows to this one in the last row, radians. The patterns do not show it.
    descan : float
        Distance that the beam moves over half the scan, pixels. It follows a plane.
    ellipse : (a, b, theta), optional
        Distortion of the detector, as `Calibration.ellipse`.
    radius_drift : float
        Relative change of the ring's radius from the first row to the last, as a drift of the camera length makes it.
    thickness : float
        0 for an even specimen. Otherwise its brightness varies by about ± this much.
    rotation, transpose : float, bool
        From detector to scan axes: v_scan = R(rotation) v_det, after exchanging (qx, qy) if `transpose` is set. Radians.
        F and the strain of the truth are in scan axes.
    energy, q_pixel, r_pixel : float
        In eV, 1/Å and Å.
    noise : bool
        False gives the expected counts in float32.
    seed : int

    Returns
    -------
    Simulated
        `cube` is uint16 (uint32 if the dose needs it). `truth` has exx, eyy, exy (Rx, Ry) of V − 1, V = (F Fᵀ)^½ being the left stretch
        (tension positive), rotation (Rx, Ry) of F = V R, F (Rx, Ry, 2, 2), origin (Rx, Ry, 2) px, and profile (K, 2): radius, px, and P
        without the beam, counts. `probe` is the unscattered beam alone.

    Raises
    ------
    InputError
        Impossible shapes, sizes or doses, or a callable that returns F of a wrong shape.

    Examples
    --------
    >>> scan = amorphous_scan((3, 4), (64, 64), radius=18.0, seed=1)
    >>> scan.cube.shape, scan.truth["exx"].shape
    ((3, 4, 64, 64), (3, 4))
    """
    scan_shape, detector_shape = plane_shape(scan_shape, "scan_shape"), plane_shape(detector_shape, "detector_shape")
    for name, value in dict(radius=radius, width=width, beam_radius=beam_radius, dose=dose).items():
        if not real_number(value, name) > 0:
            raise InputError(f"{name}={value!r}: need a positive number")
    if not 0 <= unstrained_rows <= scan_shape[0]:
        raise InputError(f"unstrained_rows={unstrained_rows}: need 0 … {scan_shape[0]}")
    calibration, rotation = Calibration(), radians(rotation, "rotation")
    calibration.set(energy=energy, q_pixel=q_pixel, r_pixel=r_pixel, how="simulation")
    rng = np.random.default_rng(seed)
    F = _deformed(deformation_gradient(strain, scan_shape, strain_size)[0], unstrained_rows, radians(turn, "turn"))
    stretch, angle = _left_stretch(F)
    axes = scan_matrix(rotation, transpose)
    on_detector = axes.T @ stretch @ axes
    drift = 1 + radius_drift * np.linspace(0, 1, scan_shape[0])[:, None]
    undistort = np.eye(2) if ellipse is None else ellipse_matrix(ellipse)
    origin = scan_origin(scan_shape, detector_shape, descan)
    brightness = relative_thickness(scan_shape, thickness, rng)
    scene = _Scene(detector_shape, radius, width, beam_radius, dose)
    data = np.empty((*scan_shape, *detector_shape), count_dtype(scene.largest * brightness.max()) if noise else np.float32)
    for rx, ry in np.ndindex(*scan_shape):
        expected = scene.pattern(origin[rx, ry], undistort, on_detector[rx, ry] / drift[rx, 0], float(brightness[rx, ry]))
        data[rx, ry] = rng.poisson(expected) if noise else expected
    r = np.arange(0, np.hypot(*detector_shape), FINE)
    truth = dict(
        exx=stretch[..., 0, 0] - 1, eyy=stretch[..., 1, 1] - 1, exy=stretch[..., 0, 1], rotation=angle, F=F, origin=origin,
        profile=np.stack([r, scene.profile(r)], axis=-1),
    )  # fmt: skip
    cube = DataCube(data, calibration, {"simulation": "gpu4d.simulate.amorphous_scan", "seed": seed, "dose": dose}, name="amorphous_scan")
    return Simulated(cube, truth, scene.beam(np.array([n // 2 for n in detector_shape], float)))


def _deformed(F: np.ndarray, unstrained_rows: int, turn: float) -> np.ndarray:
    """Return F without strain in the first rows, and with the rotation that grows over the rows."""
    F = F.copy()
    F[:unstrained_rows] = np.eye(2)
    a = turn * np.linspace(0, 1, len(F))
    turns = np.stack([np.stack([np.cos(a), -np.sin(a)], -1), np.stack([np.sin(a), np.cos(a)], -1)], -2)
    return F @ turns[:, None]  # turned before it is strained, so that V of F = V R is the same


def _left_stretch(F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return V and the angle of R, F = V R, from the singular values of F."""
    u, s, vt = np.linalg.svd(F)
    turned = u @ vt
    return (u * s[..., None, :]) @ u.swapaxes(-1, -2), np.arctan2(turned[..., 1, 0], turned[..., 0, 0])


class _Scene:
    """Everything that is the same for all patterns."""

    def __init__(self, shape: tuple[int, int], radius: float, width: float, beam_radius: float, dose: float):
        self.radius, self.width, self.beam_radius, self.height, self.light = radius, width, beam_radius, 1.0, 1.0
        self.x, self.y = np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij")
        middle = np.array([n // 2 for n in shape], float)
        self.light = BEAM * dose / self.beam(middle).sum()
        self.height = (1 - BEAM) * dose / self.profile(np.hypot(self.x - middle[0], self.y - middle[1])).sum()
        self.largest = self.light + self.height * (1 + HEIGHT)

    def profile(self, r: np.ndarray) -> np.ndarray:
        """Return P at radii, without the beam."""
        place, height, wide = SECOND
        first = np.exp(-0.5 * ((r - self.radius) / self.width) ** 2)
        second = height * np.exp(-0.5 * ((r - place * self.radius) / (wide * self.width)) ** 2)
        return self.height / (1 + (r / (DECAY * self.radius)) ** 2) * (1 + HEIGHT * (first + second))

    def beam(self, origin: np.ndarray) -> np.ndarray:
        """Return the unscattered disk at an origin."""
        from scipy.special import expit

        return self.light * expit(4 * (self.beam_radius - np.hypot(self.x - origin[0], self.y - origin[1])))

    def pattern(self, origin: np.ndarray, undistort: np.ndarray, stretch: np.ndarray, brightness: float) -> np.ndarray:
        """Return the expected counts of a pattern."""
        places = np.stack([self.x - origin[0], self.y - origin[1]], axis=-1) @ (stretch @ undistort).T
        return brightness * (self.profile(np.hypot(places[..., 0], places[..., 1])) + self.beam(origin))
