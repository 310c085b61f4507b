"""Radial distribution functions of glasses whose structure factor is known: scale, background, density, first shell, errors."""

import numpy as np
import pytest
from glasses import BLUR, DENSITY, DIAMETER, factor, structure_factor

import gpu4d
from gpu4d.amorphous import rdf, sine_transform
from gpu4d.amorphous.shells import shell_limits
from gpu4d.errors import InputError

K = np.arange(0.01, 3.0, 0.02)
F = factor(K)
S = structure_factor(K)
PROFILE = 40.0 * F**2 * S
PLAIN = {"k": K, "factor": F, "background": None}


def true_reduced(r, far=4.0):
    """G(r) of the spheres, of much finer and wider values than a detector has."""
    q = np.linspace(0, 2 * np.pi * far, 2501)
    return (2 / np.pi) * sine_transform(q, q * (structure_factor(q / (2 * np.pi)) - 1), r)


def rms(a, b):
    return np.sqrt(np.mean((a - b) ** 2))


def test_the_structure_factor_and_the_scale():
    found = rdf(PROFILE, **PLAIN)
    assert found.atoms == pytest.approx(40, rel=2e-3) and found.scale_ratio == pytest.approx(1, abs=3e-3)
    true = np.interp(found.k, K, S)
    assert rms(found.structure_factor, true) < 3e-3
    np.testing.assert_allclose(found.reduced_structure_factor, 2 * np.pi * found.k * (found.structure_factor - 1))
    assert found.resolution == pytest.approx(1 / (2 * 0.95 * K[-1]), rel=1e-9) and found.warnings == ()


def test_density_and_distances():
    """The line below the shell gives the density, and G(r) is that of much better data beyond the finest ripples."""
    found = rdf(PROFILE, **PLAIN)
    assert found.density == pytest.approx(DENSITY, rel=0.02)
    blurred = true_reduced(found.r)
    away = (found.r > 0.5) & (found.r < 12) & (np.abs(found.r - DIAMETER) > 0.6)
    assert rms(found.reduced[away], blurred[away]) < 0.02 * blurred.max()
    assert found.peak == pytest.approx(found.r[np.argmax(blurred)], abs=0.03)
    np.testing.assert_allclose(found.distribution, 4 * np.pi * found.r**2 * found.density * found.pair_distribution, atol=1e-9)
    assert found.distribution[found.r < 2].max() < 0.3, "no atoms"


def test_atoms_of_the_first_shell():
    """The integral of 4πr²ρ g(r) to its first minimum, of the same spheres on a fine scale."""
    found = rdf(PROFILE, density=DENSITY, **PLAIN)
    r = np.arange(0.01, 6, 0.01)
    g = 1 + true_reduced(r) / (4 * np.pi * DENSITY * r)
    inside = (r > 1.5) & (r <= found.shell[1])
    atoms = np.trapezoid((4 * np.pi * DENSITY * r**2 * g)[inside], r[inside])
    assert found.coordination == pytest.approx(atoms, rel=0.02)
    same = rdf(PROFILE, density=DENSITY, shell_limits=(1.5, 3.0), **PLAIN)
    inside = (r > 1.5) & (r <= 3.0)
    assert same.coordination == pytest.approx(np.trapezoid((4 * np.pi * DENSITY * r**2 * g)[inside], r[inside]), rel=0.02)
    assert same.shell.tolist() == [1.5, 3.0]


def test_neither_a_shoulder_nor_a_ripple_ends_the_first_shell():
    """A peak at 2.7 Å with a shoulder at 3.2 Å, and a second shell at 4.9 Å: with ripples in the minimum at 3.6 Å."""
    r = np.arange(1, 400) * 0.02
    pairs = sum(h * np.exp(-(((r - at) / w) ** 2) / 2) for h, at, w in ((3.5, 2.7, 0.15), (1.8, 3.2, 0.13), (1.3, 4.9, 0.5)))
    values = 4 * np.pi * DENSITY * r * (pairs - 1)
    rippled = values + 0.4 * np.sin(2 * np.pi * r / 0.4)
    for smooth in (values, values + 0.05 * np.sin(2 * np.pi * r / 0.4)):
        start, end = shell_limits(r, rippled, smooth, DENSITY, 2.7, 1.9)
        assert 2.0 < start < 2.5 and abs(end - 3.62) < 0.15
    none = shell_limits(r[:140], rippled[:140], values[:140], DENSITY, 2.7, 1.9)
    assert np.isnan(none).all(), "r ends before a minimum"


def test_a_gaussian_shell_is_fitted():
    """One shell of 6 atoms at 2.9 Å, of width 0.15 Å, in a structure factor that can be written down: RDF(r)/r is a Gaussian."""
    q = 2 * np.pi * K
    height = 6 / (np.sqrt(2 * np.pi) * 0.15 * 2.9)
    spectrum = height * np.sqrt(2 * np.pi) * 0.15 * np.sin(2.9 * q) * np.exp(-((0.15 * q) ** 2) / 2)
    profile = F**2 * (1 + spectrum / q)
    found = rdf(profile, low_k="cut", band=(0.02, None), band_width=(0.001, 0.02), density=1e-6, **PLAIN)
    np.testing.assert_allclose(found.gaussian / [2.9, 0.15, 6], 1, atol=0.02)
    assert found.peak == pytest.approx(2.9, abs=2e-3)


@pytest.mark.parametrize(
    ("form", "background"),
    [
        ("power", 3.0 * K**-1.5),
        ("exponential", 60.0 * np.exp(-K / 0.5)),
        ("constant", np.full_like(K, 2.0)),
        ("power", 0 * K),
    ],
)
def test_a_background_of_the_form_is_found(form, background):
    found = rdf(PROFILE + background, background=form, k=K, factor=F)
    bound = np.interp(found.k, K, background)
    assert found.atoms == pytest.approx(40, rel=0.1)
    assert np.abs(found.background - bound).max() < 3 + 0.5 * bound.max()  # of 1200 at the maximum of the profile
    assert np.corrcoef(found.structure_factor, np.interp(found.k, K, S))[0, 1] > 0.985
    assert (found.background <= found.intensity + 1e-9).all(), "never brighter than the profile"


def test_a_measured_background_is_subtracted():
    background = 60 * np.exp(-((K - 0.9) ** 2)) + 3
    plain, found = rdf(PROFILE, **PLAIN), rdf(PROFILE + background, **PLAIN | {"background": background})
    np.testing.assert_allclose(found.reduced, plain.reduced, atol=1e-9)
    np.testing.assert_allclose(found.intensity, plain.intensity, rtol=1e-9)


def test_spots_in_the_tail_do_not_move_the_scale():
    spots = PROFILE.copy()
    spots[[90, 110, 128]] *= 3.0  # Bragg peaks of a crystal
    assert rdf(spots, **PLAIN).atoms == pytest.approx(40, rel=5e-3)


@pytest.mark.parametrize("density", [None, DENSITY])
def test_the_scale_from_low_r_forgives_a_wrong_tail(density):
    """A tail that is 4 % too bright: the region without atoms gives back the scale."""
    bent = PROFILE * (1 + 0.04 / (1 + np.exp(-(K - 2.4) / 0.1)))
    tail, low = (rdf(bent, normalize=n, k_fit=(2.5, None), density=density, **PLAIN) for n in ("tail", "low r"))
    assert tail.atoms == pytest.approx(41.6, rel=5e-3)
    assert abs(low.atoms - 40) < 0.6 * abs(tail.atoms - 40)
    assert low.atoms == pytest.approx(tail.atoms * tail.scale_ratio, rel=1e-9)


def test_what_varies_slowly_is_corrected_at_low_r():
    """A ripple at r = 0.5 Å, as a wrong background makes: a tenth of it stays. The first shell keeps its height."""
    wave = 1 + 0.1 * np.cos(2 * np.pi * K * 0.5)
    plain, bent, mended = (rdf(p, low_r_rounds=n, **PLAIN) for p, n in ((PROFILE, 0), (PROFILE * wave, 0), (PROFILE * wave, 10)))
    true = np.interp(plain.k, K, S)
    assert rms(bent.structure_factor, true) > 0.06
    assert rms(mended.structure_factor, true) < 0.35 * rms(bent.structure_factor, true)
    assert mended.reduced.max() == pytest.approx(plain.reduced.max(), rel=0.03)


def test_the_bias_of_the_correction_on_good_data_is_small():
    """Ripples of the shells below r_min are subtracted too: 1 % of S, 2 % of the height of the first shell."""
    plain, mended = rdf(PROFILE, **PLAIN), rdf(PROFILE, low_r_rounds=10, **PLAIN)
    assert rms(mended.structure_factor, plain.structure_factor) < 0.01
    assert mended.reduced.max() == pytest.approx(plain.reduced.max(), rel=0.02)
    assert mended.peak == pytest.approx(float(plain.peak), abs=0.01) and mended.density == plain.density


def test_two_elements_are_weighted_after_faber_and_ziman():
    """A random mixture: one g(r) for all pairs, and I = N⟨f²⟩ + N⟨f⟩²(S − 1)."""
    pytest.importorskip("gemmi")
    cu, zr = (gpu4d.structures.electron_scattering_factor(e, K) for e in ("Cu", "Zr"))
    mean, square = 0.3 * cu + 0.7 * zr, 0.3 * cu**2 + 0.7 * zr**2
    profile = 5 * (square + mean**2 * (S - 1))
    found = rdf(profile, k=K, composition="Cu30Zr70", background=None)
    given = rdf(profile, k=K, composition={"Cu": 3, "Zr": 7}, factor={"Cu": cu, "Zr": lambda k: np.interp(k, K, zr)}, background=None)
    np.testing.assert_allclose(given.reduced, found.reduced, atol=1e-9)
    assert rms(found.structure_factor, np.interp(found.k, K, S)) < 5e-3
    assert list(found.pair_weights) == ["Cu-Cu", "Cu-Zr", "Zr-Zr"]
    np.testing.assert_allclose(sum(found.pair_weights.values()), 1)
    np.testing.assert_allclose(found.pair_weights["Cu-Zr"], 2 * 0.3 * 0.7 * (cu * zr / mean**2)[np.isin(K, found.k)])
    assert found.density == pytest.approx(DENSITY, rel=0.06)


def test_the_width_of_disk_and_rings_is_taken_out():
    """What a disk and rings do to G(r) by their formulas, done to the profile and undone."""
    r = np.arange(0.02, 40, 0.02)
    x = 2 * np.pi * 0.03 * r
    from scipy.special import j1

    damped = true_reduced(r) * 2 * j1(x) / x * np.sinc(0.02 * r)
    s = 1 + sine_transform(np.append(0, r), np.append(0, damped), 2 * np.pi * K) / (2 * np.pi * K)
    found = rdf(F**2 * s, disk_radius=0.03, density=DENSITY, **PLAIN)
    sharp = rdf(F**2 * structure_factor(K), density=DENSITY, **PLAIN)
    inner = (found.r > 2.2) & (found.r < 8)
    undone = sharp.reduced[inner] * np.sinc(0.02 * found.r[inner])  # this one was freed of rings that it never had
    assert rms(found.reduced[inner], undone) < 0.01 * undone.max()
    left = rdf(F**2 * s, density=DENSITY, **PLAIN).reduced[inner]
    assert rms(left, undone) > 0.02 * undone.max()


def test_claimed_errors_are_those_of_repeated_measurements():
    rng = np.random.default_rng(4)
    counts = 3e6 * PROFILE / PROFILE.max() * (K + 0.05)
    error = np.sqrt(counts) / (K + 0.05)
    profiles = 3e6 * PROFILE / PROFILE.max() + rng.normal(size=(300, len(K))) * error
    found = rdf(profiles, error=error, **PLAIN | {"background": "constant"})
    for values, claimed in (
        (found.structure_factor, found.structure_factor_error),
        (found.reduced, found.reduced_error),
        (found.density[:, None], found.density_error[:, None]),
        (found.coordination[:, None], found.coordination_error[:, None]),
        (found.peak[:, None], found.peak_error[:, None]),
    ):
        ratio = values.std(axis=0, ddof=1) / np.median(claimed, axis=0)
        assert 0.8 < np.median(ratio) < 1.2, ratio
    assert rdf(profiles[0], **PLAIN).peak_error.shape == () and np.isnan(rdf(profiles[0], **PLAIN).peak_error)


def test_groups_are_treated_one_by_one_and_empty_ones_are_nan():
    profiles = np.stack([PROFILE, 3 * PROFILE, np.full_like(PROFILE, np.nan), 0 * PROFILE, PROFILE]).reshape(5, 1, -1)
    profiles.flags.writeable = False
    found, alone = rdf(profiles, **PLAIN), rdf(PROFILE, **PLAIN)
    assert found.peak.shape == (5, 1) and found.reduced.shape == (5, 1, 750) and found.gaussian.shape == (5, 1, 3)
    for i in (0, 1, 4):
        np.testing.assert_allclose(found.reduced[i, 0], alone.reduced, atol=1e-9)
        assert found.coordination[i, 0] == pytest.approx(float(alone.coordination), rel=1e-6)
    for i in (2, 3):
        assert np.isnan(found.reduced[i]).all() and np.isnan(found.density[i]) and np.isnan(found.peak[i])
    assert found.atoms[1, 0] == pytest.approx(120, rel=2e-3) and "5×1 profiles" in repr(found)
    assert rdf(np.zeros((0, len(K))), **PLAIN).peak.shape == (0,)
    empty = rdf(np.full_like(K, np.nan), **PLAIN)
    assert np.isnan(empty.peak) and np.isnan(empty.structure_factor).all()


def test_missing_rings_are_left_out():
    holes = PROFILE.copy()
    holes[[0, 1, 2, 60]] = np.nan
    found, whole = rdf(holes, **PLAIN), rdf(PROFILE, **PLAIN)
    assert K[60] not in found.k and len(found.k) == len(whole.k) - 1
    assert rms(found.reduced, whole.reduced) < 0.02 * whole.reduced.max()


def test_cut_offs_and_damping():
    sharp, soft = rdf(PROFILE, **PLAIN), rdf(PROFILE, damping="lorch", **PLAIN)
    assert soft.reduced.max() < sharp.reduced.max() and soft.gaussian[1] > sharp.gaussian[1]
    thermal = rdf(PROFILE, damping=0.2, **PLAIN)
    np.testing.assert_allclose(thermal.window, sharp.window * np.exp(-0.2 * sharp.k**2))
    low = rdf(PROFILE, band=(0.25, 0.9), band_width=(0.02, 0.05), low_k="cut", **PLAIN)
    np.testing.assert_allclose(np.interp([0.25, 0.9], low.k, low.window), 0.5, atol=0.02)
    assert low.window[low.k > 1.2].max() < 3e-3 and low.k[-1] == K[-1], "rings beyond the band still fit the scale"
    assert low.resolution == pytest.approx(1 / 1.8) and any("cut at low k" in text for text in low.warnings)
    assert rdf(PROFILE, r=[2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5], **PLAIN).reduced.shape == (8,)


def rings_of(k_of_r, shape=(101, 90), center=(48.3, 44.1), counts=2e4):
    x, y = np.indices(shape)
    k = 0.03 * np.hypot(x - center[0], y - center[1])
    return counts * factor(k) ** 2 * structure_factor(k) / 64


def test_a_scan_gives_what_its_profile_gives():
    center, expected = (48.3, 44.1), rings_of(None)
    counts = np.random.default_rng(0).poisson(expected, (3, 4, *expected.shape)).astype("uint16")
    counts[2, 3] += 4000  # a Bragg crystal
    where, mask = np.ones((3, 4), bool), np.ones(expected.shape, bool)
    where[2, 3], mask[:40, 43:46] = False, False  # and a beam stop
    cube = gpu4d.DataCube(counts, calibration=gpu4d.Calibration(q_pixel=0.03, origin=center, semiangle=0.02, energy=300e3))
    found = rdf(cube, factor=factor, n_r=44, r_max=44.0, mask=mask, where=where, background=None)
    profile = gpu4d.radial_profile(counts[where], center, n_r=44, r_max=44.0, mask=mask).mean(axis=0)
    k = 0.03 * gpu4d.rings.mean_radii(expected.shape, center, n_r=44, r_max=44.0, mask=mask)
    same = rdf(profile, k=k, factor=factor, background=None, disk_radius=gpu4d.physics.angle_to_frequency(0.02, 300e3))
    np.testing.assert_allclose(found.structure_factor, same.structure_factor, rtol=1e-9)
    np.testing.assert_allclose(found.reduced, same.reduced, rtol=2e-3, atol=2e-3)  # the width of rings is that of the mean radii there
    silent = gpu4d.DataCube(expected[None, None], calibration=cube.calibration)
    quiet = rdf(silent, factor=factor, n_r=44, r_max=44.0, mask=mask, background=None)
    ratio = (found.structure_factor - quiet.structure_factor) / found.structure_factor_error
    assert 0.4 < np.median(np.abs(ratio)) < 1.0, "the scatter of the positions: 0.67 for Gaussian errors"
    assert np.corrcoef(found.structure_factor, structure_factor(found.k))[0, 1] > 0.998


def test_rings_beyond_the_sides_of_the_detector_do_not_drop():
    """Rings in the corners have few pixels, and the same mean."""
    cube = gpu4d.DataCube(rings_of(None)[None, None], calibration=gpu4d.Calibration(q_pixel=0.03, origin=(48.3, 44.1)))
    found = rdf(cube, factor=factor, n_r=62, r_max=62.0, background=None)
    np.testing.assert_allclose(found.structure_factor[found.k > 1.3], structure_factor(found.k[found.k > 1.3]), atol=0.03)


def test_ellipse_and_a_wandering_origin_are_followed():
    from gpu4d.calibrate import ellipse_matrix

    ellipse, centers = (1.06, 1.0, 0.4), np.array([[[48.3, 44.1], [49.7, 43.2]]])
    frames = []
    for center in centers[0]:
        v = (np.moveaxis(np.indices((101, 90)), 0, -1) - center) @ ellipse_matrix(ellipse).T
        k = 0.03 * np.hypot(*np.moveaxis(v, -1, 0))
        frames.append(2e4 * factor(k) ** 2 * structure_factor(k) / 64)
    cube = gpu4d.DataCube(np.array(frames)[None], calibration=gpu4d.Calibration(q_pixel=0.03, origin=centers, ellipse=ellipse))
    found = rdf(cube, factor=factor, n_r=40, r_max=40.0, background=None)
    assert rms(found.structure_factor, structure_factor(found.k)) < 0.03
    assert np.isnan(rdf(cube, factor=factor, n_r=40, where=np.zeros((1, 2), bool), background=None).peak)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": None}, "composition= is missing"),
        ({"k": None}, "need one of k="),
        ({"q_pixel": 0.1}, "need one of k="),
        ({"k": None, "q_pixel": -1.0}, "q_pixel=-1: need a positive number"),
        ({"k": K[:-1]}, "need one k ≥ 0 for each"),
        ({"k": K[::-1]}, "each larger than the one before"),
        ({"factor": F[:-1]}, "need one factor for each"),
        ({"factor": -F}, "need positive factors"),
        ({"factor": {"Cu": F}, "composition": "CuZr"}, "factor has no Zr"),
        ({"factor": F, "composition": "CuZr"}, "factor is one for 2 elements"),
        ({"composition": "CuZr", "factor": None, "k": 2 * K}, "the table 'electron' holds from 0 to 4"),
        ({"error": -F}, "error has negative values"),
        ({"error": F[:3]}, "error has shape"),
        ({"background": "cubic"}, "background='cubic'"),
        ({"background": F[:3]}, "background has shape"),
        ({"band": (0.9, 0.4)}, "need 0 ≤ low < high"),
        ({"band": (0.2, 0.25)}, "rings lie in the band"),
        ({"band": 3}, "band"),
        ({"band_width": -1}, "need 0 ≤ low < high"),
        ({"low_k": "drop"}, "low_k='drop'"),
        ({"damping": "hann"}, "damping='hann'"),
        ({"damping": -1.0}, "damping=-1.0"),
        ({"normalize": "eye"}, "normalize='eye'"),
        ({"density": -1}, "density=-1"),
        ({"r_min": 0}, "r_min=0"),
        ({"r": [1, 2, 4, 5, 6, 7, 8, 9]}, "equally spaced"),
        ({"r": [0.0, 1.0]}, "need 8 or more"),
        ({"k_fit": (2.0, 1.0)}, "k_fit=\\(2, 1\\)"),
        ({"k_fit": (2.9, None)}, "k_fit holds"),
        ({"first_shell": (3, 1)}, "first_shell=\\(3.0, 1.0\\)"),
        ({"shell_limits": (3, 1)}, "shell_limits=\\(3.0, 1.0\\)"),
        ({"low_r_rounds": -1}, "low_r_rounds=-1"),
        ({"low_r_rounds": 1.5}, "low_r_rounds is 1.5"),
        ({"disk_radius": -1}, "disk_radius=-1"),
        ({"origin": (1, 2)}, "origin belong to a DataCube"),
        ({"where": np.ones((1, 1), bool)}, "where belong to a DataCube"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        rdf(PROFILE, **PLAIN | options)


def test_what_a_scan_lacks_is_said():
    cube = gpu4d.DataCube(np.ones((1, 1, 40, 40)))
    with pytest.raises(InputError, match="size of a detector pixel is not known"):
        rdf(cube, factor=factor)
    with pytest.raises(InputError, match="origin is not known"):
        rdf(cube, factor=factor, q_pixel=0.05)
    with pytest.raises(InputError, match="k and error belong to a profile"):
        rdf(cube, factor=factor, q_pixel=0.05, k=K)
    assert BLUR < rdf(PROFILE, **PLAIN).gaussian[1]
