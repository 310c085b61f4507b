"""The simulations against the physics they state: positions, strain, counts, deflections."""

import numpy as np
import pytest

from gpu4d import physics
from gpu4d.errors import InputError
from gpu4d.simulate import bragg_scan, phase_object_scan


def first_moment(pattern: np.ndarray) -> np.ndarray:
    x, y = (np.arange(n, dtype=float) for n in pattern.shape)
    return np.array([pattern.sum(1) @ x, pattern.sum(0) @ y]) / pattern.sum(dtype=float)


# ---------------------------------------------------------------- Bragg disks


@pytest.fixture(scope="module")
def quiet():
    """Noise-free, no background but the floor; disks far apart, with edges soft enough that samples hold their centroid."""
    return bragg_scan((4, 5), (128, 96), edge=2.5, spacing=34.0, reach=1.5, background=0.0, noise=False, descan=3.0, seed=2)


def test_disks_are_where_the_truth_says(quiet):
    patterns, truth = quiet.cube.source.array, quiet.truth
    half = 14
    for rx, ry in ((0, 0), (3, 4), (2, 1)):
        for position in truth["positions"][rx, ry]:
            x, y = np.round(position).astype(int)
            if not (half < x < 127 - half and half < y < 95 - half):
                continue
            window = patterns[rx, ry, x - half : x + half + 1, y - half : y + half + 1].astype(float)
            found = first_moment(window - window.min()) + np.array([x - half, y - half])
            assert np.abs(found - position).max() < 2e-3


def test_disk_height_is_dose_times_amplitude(quiet):
    patterns, truth = quiet.cube.source.array, quiet.truth
    for n, (x, y) in enumerate(np.round(truth["positions"][1, 1]).astype(int)):
        if 0 < x < 127 and 0 < y < 95:
            assert patterns[1, 1, x, y] == pytest.approx(100 * (truth["amplitudes"][1, 1, n] + 0.002), rel=1e-3)


def test_a_disk_across_the_border_is_cut_not_moved():
    scan = bragg_scan((1, 1), (64, 64), spacing=30.0, angle=0.0, reach=1.1, strain=None, background=0.0, descan=0.0, noise=False)
    position = next(p for p, hk in zip(scan.truth["positions"][0, 0], scan.truth["hk"]) if tuple(hk) == (1, 0))
    x, y = np.arange(64)[:, None] - position[0], np.arange(64) - position[1]
    amplitude = scan.truth["amplitudes"][0, 0][(scan.truth["hk"] == (1, 0)).all(1)][0]
    expected = 100 * (amplitude / (1 + np.exp(4 * (np.hypot(x, y) - 6.0))) + 0.002)
    np.testing.assert_allclose(scan.cube[0, 0].data[50:], expected[50:], rtol=1e-5, atol=1e-5)
    assert 55 < position[0] < 64


def test_positions_follow_the_deformation_gradient(quiet):
    truth = quiet.truth
    reference = truth["hk"] @ np.stack([truth["g1"], truth["g2"]])
    for rx, ry in ((0, 3), (3, 0)):
        g = truth["positions"][rx, ry] - truth["origin"][rx, ry]
        np.testing.assert_allclose(truth["F"][rx, ry].T @ g.T, reference.T, atol=1e-10)  # Fᵀ g = g_ref


def test_finite_strain_is_u_minus_one_of_f_equal_r_u(quiet):
    truth = quiet.truth
    for index in np.ndindex(truth["exx"].shape):
        F = truth["F"][index]
        w, s, vt = np.linalg.svd(F)  # U = V S Vᵀ, R = W Vᵀ
        U, R = vt.T @ np.diag(s) @ vt, w @ vt
        np.testing.assert_allclose(
            [[truth["exx"][index], truth["exy"][index]], [truth["exy"][index], truth["eyy"][index]]], U - np.eye(2), atol=1e-12
        )
        assert truth["rotation"][index] == pytest.approx(np.arctan2(R[1, 0], R[0, 0]), abs=1e-12)
        assert truth["theta"][index] == -truth["rotation"][index]


def test_a_rigid_rotation_reads_zero_strain_and_its_angle():
    angle = 0.02
    R = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    truth = bragg_scan((2, 2), (64, 64), spacing=20, reach=1.1, strain=lambda x, y: np.broadcast_to(R, (*x.shape, 2, 2))).truth
    assert max(np.abs(truth[name]).max() for name in ("exx", "eyy", "exy")) < 1e-15
    np.testing.assert_allclose(truth["rotation"], angle)
    g = truth["positions"] - truth["origin"][:, :, None]
    (n,) = np.flatnonzero((truth["hk"] == (1, 0)).all(1))
    assert np.arctan2(g[0, 0, n, 1], g[0, 0, n, 0]) == pytest.approx(np.deg2rad(10) + angle)  # g turns with the lattice


def test_noise_is_poisson():
    options = dict(spacing=26.0, reach=1.1, strain=None, descan=0.0, dose=50.0)
    noisy = bragg_scan((20, 20), (64, 64), seed=5, **options)
    quiet = bragg_scan((20, 20), (64, 64), seed=5, noise=False, **options)
    expected = quiet.cube.source.array.astype(float)
    z = (noisy.cube.source.array - expected) / np.sqrt(expected)
    assert noisy.cube.dtype == np.uint16
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert np.var(z) == pytest.approx(1.0, abs=0.02)
    np.testing.assert_array_equal(noisy.truth["positions"], quiet.truth["positions"])


def test_the_seed_decides_everything():
    a, b, c = (bragg_scan((3, 3), (64, 64), spacing=20, reach=1.1, seed=s).cube.source.array for s in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_the_direct_beam_descans_along_a_plane(quiet):
    origin = quiet.truth["origin"]
    x, y = np.meshgrid(np.arange(4), np.arange(5), indexing="ij")
    plane = np.stack([np.ones(20), x.ravel(), y.ravel()], 1)
    fit = plane @ np.linalg.lstsq(plane, origin.reshape(-1, 2), rcond=None)[0]
    np.testing.assert_allclose(fit, origin.reshape(-1, 2), atol=1e-10)
    assert np.ptp(origin[..., 0]) > 6


def test_vacuum_has_the_direct_beam_alone_and_no_strain():
    scan = bragg_scan((6, 4), (96, 96), edge=2.5, reach=1.5, strain="inclusion", vacuum_rows=2, thickness=0.4, descan=0.0, noise=False)
    truth, patterns = scan.truth, scan.cube.source.array
    assert not truth["specimen"][:2].any()
    assert truth["specimen"][2:].all()
    assert np.isnan(truth["exx"][:2]).all()
    assert np.isfinite(truth["exx"][2:]).all()
    shown = patterns[0, 0] - patterns[0, 0].min()
    assert np.abs(first_moment(shown) - truth["origin"][0, 0]).max() < 1e-3
    area = np.pi * (36 + (np.pi * 2.5 / 4) ** 2 / 3)  # one disk of radius 6, with the Sommerfeld term of its logistic edge
    np.testing.assert_allclose(shown.sum() / shown.max(), area, rtol=1e-3)
    assert patterns[0, 0].max() > patterns[4, 2].max()
    assert np.isfinite(truth["positions"][:2]).all(-1).sum() == 2 * 4


def test_the_inclusion_strains_its_matrix_as_elasticity_says():
    """Plane strain about a misfitting cylinder: no volume change outside, uniform dilation inside."""
    truth = bragg_scan((24, 24), (32, 32), radius=3.0, spacing=10.0, reach=1.1, strain="inclusion", strain_size=0.01, noise=False).truth
    inside = truth["inclusion"]
    assert 20 < inside.sum() < 120
    np.testing.assert_allclose(truth["exx"][inside], 0.01, atol=1e-12)
    np.testing.assert_allclose(truth["eyy"][inside], 0.01, atol=1e-12)
    determinant = np.linalg.det(truth["F"])
    assert np.abs(determinant[~inside] - 1).max() < 2e-4  # second order in the strain
    assert np.abs(truth["exx"][~inside]).max() > 0.005
    x, y = np.meshgrid(np.arange(24), np.arange(24), indexing="ij")
    nx, ny = x - x[inside].mean(), y - y[inside].mean()
    radial = (truth["exx"] * nx**2 + 2 * truth["exy"] * nx * ny + truth["eyy"] * ny**2)[~inside]
    around = (truth["exx"] * ny**2 - 2 * truth["exy"] * nx * ny + truth["eyy"] * nx**2)[~inside]
    assert (radial < 0).all()  # the matrix is pressed away from the wall and stretched along it
    assert (around > 0).all()


@pytest.mark.parametrize("transpose", [False, True])
def test_detector_rotation_follows_the_qr_convention(transpose):
    """v_scan = R(θ) v_det after the swap: the lattice on the detector is the scan's, turned back."""
    theta, stretch = 0.7, np.diag([1.05, 1.0])
    F = lambda x, y: np.broadcast_to(stretch, (*x.shape, 2, 2))  # noqa: E731
    truth = bragg_scan((1, 1), (128, 128), reach=1.1, strain=F, rotation=theta, transpose=transpose, noise=False).truth
    g = truth["positions"][0, 0] - truth["origin"][0, 0]
    reference = truth["hk"] @ np.stack([truth["g1"], truth["g2"]])
    R = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    to_scan = lambda v: (v[:, ::-1] if transpose else v) @ R.T  # noqa: E731
    np.testing.assert_allclose(to_scan(g), to_scan(reference) @ np.linalg.inv(stretch), atol=1e-10)
    assert truth["exx"][0, 0] == pytest.approx(0.05)


def test_calibration_holds_what_the_operator_knows_and_not_what_is_measured(quiet):
    known = quiet.cube.calibration.known()
    assert set(known) == {"energy", "semiangle", "r_pixel", "q_pixel"}
    assert known["q_pixel"] == pytest.approx(physics.angle_to_frequency(3.0, 200e3) / 6.0)


def test_probe_is_the_vacuum_disk(quiet):
    assert quiet.probe.shape == (128, 96)
    assert quiet.probe[64, 48] == pytest.approx(1 / (1 + np.exp(-4 * 6.0 / 2.5)))
    np.testing.assert_allclose(first_moment(quiet.probe), (64, 48), atol=1e-9)


def test_a_high_dose_is_not_clipped():
    scan = bragg_scan((1, 1), (32, 32), radius=3.0, spacing=10.0, reach=1.1, dose=2e5)
    assert scan.cube.dtype == np.uint32
    assert scan.cube.source.array.max() > 1.5e5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dose": 0}, "dose=0"),
        ({"radius": -1}, "radius=-1"),
        ({"strain": "twist"}, "strain='twist'"),
        ({"strain": lambda x, y: np.eye(2)}, "F of shape"),
        ({"vacuum_rows": 4}, "vacuum_rows=4"),
        ({"g1": (1.0, 0.0)}, "belong together"),
        ({"g1": (10.0, 0.0), "g2": (5.0, 0.0)}, "parallel"),
        ({"scan_shape": (4, 4, 4)}, "scan_shape"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        bragg_scan(**({"scan_shape": (4, 4), "detector_shape": (32, 32)} | options))


# ---------------------------------------------------------------- phase objects


def deflection(scan, rotation=0.0, transpose=False) -> np.ndarray:
    """2π⟨k⟩ along the scan axes, rad/Å, from the patterns by definition."""
    patterns = scan.cube.source.array.astype(float)
    x, y = (np.arange(n) - n // 2 for n in patterns.shape[2:])
    total = patterns.sum((2, 3))
    v = np.stack([(patterns.sum(3) @ x) / total, (patterns.sum(2) @ y) / total], -1)
    v = v[..., ::-1] if transpose else v
    c, s = np.cos(rotation), np.sin(rotation)
    return 2 * np.pi * scan.cube.calibration.q_pixel * v @ np.array([[c, -s], [s, c]]).T


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"object": "particles", "strength": 2.0},
        {"defocus": 60.0},
        {"rotation": 0.6},
        {"rotation": -2.1, "transpose": True},
        {"scan_shape": (20, 28), "detector_shape": (44, 40), "cell": 7.0},
    ],
    ids=["atoms", "strong particles", "defocus", "rotation", "rotation and transpose", "oblong"],
)
def test_center_of_mass_is_the_gradient_of_the_blurred_phase(options):
    """⟨k⟩ = (∇φ ⊗ |ψ₀|²) / 2π, exactly for a phase object of any strength (Ehrenfest)."""
    scan = phase_object_scan(**({"scan_shape": (24, 24), "detector_shape": (48, 48), "r_pixel": 0.3} | options))
    found = deflection(scan, options.get("rotation", 0.0), options.get("transpose", False))
    expected = scan.truth["gradient"]
    assert np.abs(found - expected).max() < 2e-3 * expected.std()


def test_truth_gradient_is_the_gradient_of_truth():
    truth = phase_object_scan((32, 32), (32, 32), r_pixel=0.4).truth
    k = np.fft.fftfreq(32, 0.4)
    k[16] = 0
    spectrum = np.fft.fft2(truth["phase_conv"])
    for axis, factor in enumerate((k[:, None], k[None, :])):
        np.testing.assert_allclose(np.fft.ifft2(2j * np.pi * factor * spectrum).real, truth["gradient"][..., axis], atol=1e-9)


def test_phase_is_positive_and_the_probe_blurs_it():
    truth = phase_object_scan((32, 32), (32, 32), r_pixel=0.4, strength=0.5).truth
    assert truth["object"].min() >= 0
    assert truth["object"].max() == pytest.approx(0.5)
    assert truth["phase_conv"].std() < truth["phase"].std()
    assert truth["phase_conv"].mean() == pytest.approx(truth["phase"].mean(), abs=1e-9)


def test_electrons_are_conserved_and_counted():
    quiet = phase_object_scan((6, 6), (40, 40), r_pixel=1.0, semiangle=20)
    np.testing.assert_allclose(quiet.cube.source.array.sum((2, 3)), 1.0, atol=1e-5)
    np.testing.assert_allclose(quiet.probe.sum(), 1.0, atol=1e-12)
    noisy = phase_object_scan((6, 6), (40, 40), r_pixel=1.0, semiangle=20, dose=1e4)
    assert noisy.cube.dtype == np.uint16
    total = noisy.cube.source.array.sum((2, 3), dtype=float)
    assert abs(total.mean() - 1e4) < 5 * 100 / 6


def test_descan_moves_the_patterns_along_a_plane():
    options = dict(scan_shape=(9, 9), detector_shape=(64, 64), r_pixel=0.8, cell=12.0)
    moved = deflection(phase_object_scan(descan=2.0, **options)) - deflection(phase_object_scan(**options))
    moved *= 12.0 / (2 * np.pi)  # to pixels
    np.testing.assert_allclose(moved[4, 4], 0, atol=2e-3)
    np.testing.assert_allclose(moved[8, 4], (2.0, 1.0), atol=2e-2)
    np.testing.assert_allclose(moved[4, 8], (-0.8, 2.0), atol=2e-2)


def test_underfocus_is_positive():
    """χ = π λ k² C10 with C10 = -defocus: the wave's phase in the aperture grows with k²."""
    wave = phase_object_scan((2, 2), (64, 64), cell=16.0, defocus=100.0).truth["wave"]
    spectrum = np.fft.fft2(wave)
    k2 = (3 / 16.0) ** 2
    expected = np.pi * physics.wavelength(80e3) * k2 * 100.0
    assert np.angle(spectrum[3, 0] / spectrum[0, 0]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"semiangle": 200.0}, "bright-field disk has a radius"),
        ({"object": "glass"}, "object='glass'"),
        ({"object": np.ones((3, 3))}, "need finite phases"),
        ({"dose": -1.0}, "dose=-1.0"),
    ],
)
def test_phase_scans_that_cannot_be_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        phase_object_scan(**({"scan_shape": (8, 8), "detector_shape": (32, 32), "r_pixel": 1.0} | options))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rotation": 20.0}, "rotation is 20 rad, 3.2 turns: is it in degrees"),
        ({"semiangle": 0.003}, "semiangle is 0.003 mrad"),
        ({"semiangle": 3000.0}, "semiangle is 3000 mrad"),
        ({"energy": 200.0}, r"did you mean 200e3, that is 200 keV"),
    ],
)
@pytest.mark.parametrize("make", [bragg_scan, phase_object_scan])
def test_other_units_are_refused_with_the_right_ones(make, given, words):
    """Before the work: a scan of this size would take minutes."""
    with pytest.raises(InputError) as error:
        make((4000, 4000), (64, 64), **given)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_angle_of_a_lattice_is_in_degrees():
    with pytest.raises(InputError, match="angle=400: need degrees from -360 to 360"):
        bragg_scan((4000, 4000), (64, 64), angle=400)
