"""What other programs mean by aberrations and rotation: each row of the table in docs/how-to/ptychography.md."""

import numpy as np
import pytest
from ssb_scans import ENERGY, aberrated, correlation

import gpu4d
from gpu4d import physics
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.probe.wavefunction import chi, wavefunction
from gpu4d.simulate import phase_object_scan

K = np.random.default_rng(0).uniform(-0.6, 0.6, (2, 40))  # 1/Å
WAVELENGTH = physics.wavelength(ENERGY)
POLAR = {
    "C10": -80.0,
    "C12": 30.0,
    "phi12": 0.4,
    "C21": 700.0,
    "phi21": -1.1,
    "C23": 400.0,
    "phi23": 0.3,
    "C30": 2e4,
    "C32": 3e4,
    "phi32": 0.7,
}


def polar(values: dict) -> np.ndarray:
    """χ as abTEM's and py4DSTEM's documentation writes it: 2π/λ Σ 1/(n+1) C_nm (α)^(n+1) cos(m (φ − φ_nm))."""
    alpha, phi = WAVELENGTH * np.hypot(*K), np.arctan2(K[1], K[0])
    total = np.zeros(K.shape[1])
    for name, size in values.items():
        if name.startswith("C"):
            n, m = int(name[1]), int(name[2])
            total += size * alpha ** (n + 1) / (n + 1) * np.cos(m * (phi - values.get(f"phi{n}{m}", 0.0)))
    return 2 * np.pi / WAVELENGTH * total


def test_abtem_and_py4dstem():
    """Coefficients are the same, `defocus` is −C10, and the wave is exp(−iχ)."""
    np.testing.assert_allclose(chi(K[0], K[1], POLAR, ENERGY), polar(POLAR), rtol=1e-9)
    np.testing.assert_allclose(chi(K[0], K[1], {"defocus": 80.0}, ENERGY), polar({"C10": -80.0}), rtol=1e-9)
    q = 0.04
    wave = wavefunction(20.0, {"C10": -80.0}, energy=ENERGY, q_pixel=q, shape=(33, 33))
    np.testing.assert_allclose(wave[16 + 8, 16], np.exp(1j * np.pi * WAVELENGTH * 80.0 * (8 * q) ** 2), rtol=1e-9)


def test_abtems_scans(shared_data):
    """The simulator's coefficients and axes as they come; atoms are positive. The probe of the file is abTEM's."""
    cube, truth, aberrations = aberrated(shared_data)
    assert correlation(gpu4d.ssb(cube, rotation=0.0, transpose=False, aberrations=aberrations).phase, truth, 6) > 0.95


def test_haider():
    """χ = (2π/λ) Re{½ C1 w w̄ + ½ A1 w̄² + B2 w² w̄ + ⅓ A2 w̄³ + ¼ C3 (w w̄)² + S3 w³ w̄ + ¼ A3 w̄⁴}, w = λ (kx + i ky)."""
    c1, c3 = -90.0, 3e4
    a1, b2, a2 = 25 * np.exp(0.7j), 300 * np.exp(-0.4j), 450 * np.exp(1.2j)
    s3, a3 = 9e3 * np.exp(0.5j), 2e4 * np.exp(-0.9j)
    w = WAVELENGTH * (K[0] + 1j * K[1])
    v = w.conj()
    theirs = (c1 * w * v + a1 * v**2) / 2 + b2 * w**2 * v + a2 * v**3 / 3 + (c3 * (w * v) ** 2 + a3 * v**4) / 4 + s3 * w**3 * v
    ours = {"C10": c1, "C12": abs(a1), "phi12": np.angle(a1) / 2, "C21": 3 * abs(b2), "phi21": -np.angle(b2), "C23": abs(a2)}
    ours |= {
        "phi23": np.angle(a2) / 3,
        "C30": c3,
        "C32": 4 * abs(s3),
        "phi32": -np.angle(s3) / 2,
        "C34": abs(a3),
        "phi34": np.angle(a3) / 4,
    }
    np.testing.assert_allclose(chi(K[0], K[1], ours, ENERGY), 2 * np.pi / WAVELENGTH * theirs.real, rtol=1e-9)


@pytest.mark.parametrize("theta", [0.3, -2.0])
@pytest.mark.parametrize("transpose", [False, True])
def test_an_azimuth_in_scan_axes(theta, transpose):
    """The same χ at the same wave, whose vector has other components in the scan's axes."""
    along_scan = scan_matrix(theta, transpose) @ K
    for name, (n, m) in {"C12": (1, 2), "C21": (2, 1), "C23": (2, 3)}.items():
        phi = 0.8
        in_detector = np.pi / 2 - (phi - theta) if transpose else phi - theta
        scan = chi(*along_scan, {name: 100.0, f"phi{n}{m}": phi}, ENERGY)
        np.testing.assert_allclose(chi(K[0], K[1], {name: 100.0, f"phi{n}{m}": in_detector}, ENERGY), scan, atol=1e-9)


def test_rotations_of_py4dstem_and_libertem():
    """x' = x cos − y sin, y' = x sin + y cos after the exchange; LiberTEM turns the other way, after y → −y where flip_y is set."""
    for theta in np.deg2rad([0.0, 27.0, -126.0]):
        c, s = np.cos(theta), np.sin(theta)
        for flip in (False, True):
            swapped = K[::-1] if flip else K
            theirs = np.stack([c * swapped[0] - s * swapped[1], s * swapped[0] + c * swapped[1]])
            np.testing.assert_allclose(scan_matrix(theta, flip) @ K, theirs, atol=1e-12)
            first = -K[0] if flip else K[0]
            theirs = np.stack([c * first + s * K[1], -s * first + c * K[1]])
            np.testing.assert_allclose(scan_matrix(np.pi / 2 - theta if flip else -theta, flip) @ K, theirs, atol=1e-12)


def test_a_rotation_wrong_by_half_a_turn_turns_the_signs_of_defocus_and_phase():
    scan = phase_object_scan((28, 28), (36, 36), r_pixel=0.35, strength=0.1, defocus=60.0)
    right = gpu4d.ssb(scan.cube, origin=(18, 18), rotation=0.0, aberrations={"C10": -60.0}).phase
    wrong = gpu4d.ssb(scan.cube, origin=(18, 18), rotation=np.pi, aberrations={"C10": 60.0}).phase
    np.testing.assert_allclose(wrong, -np.asarray(right), atol=1e-6)
    assert correlation(right, scan.truth["phase"]) > 0.9


def test_objects_of_py4dstem_and_abtem():
    """Their object is exp(iσV), seen as |F{probe · object}|² with F = exp(−2πi kr): where V is higher, our phase is."""
    n, pixel = 32, 0.4
    wave = wavefunction(20.0, {"C10": -60.0}, energy=ENERGY, q_pixel=1 / (n * pixel), shape=(n, n))
    probe = np.fft.ifft2(np.fft.ifftshift(wave))
    x = np.arange(n)
    potential = 300.0 * np.exp(-((x[:, None] - 12) ** 2 + (x - 19) ** 2) / 8)  # V Å
    seen = np.exp(1j * physics.interaction_constant(ENERGY) * potential)
    shifted = np.array([[np.roll(probe, (i, j), (0, 1)) for j in x] for i in x])
    patterns = np.abs(np.fft.fftshift(np.fft.fft2(shifted * seen), axes=(2, 3))) ** 2
    known = gpu4d.Calibration(energy=ENERGY, semiangle=20.0, q_pixel=1 / (n * pixel), r_pixel=pixel, origin=(n // 2, n // 2))
    for method in (gpu4d.ssb, gpu4d.wdd):
        phase = method(gpu4d.DataCube(patterns.astype("float32"), known), aberrations={"C10": -60.0}).phase
        assert correlation(phase, potential) > 0.9
