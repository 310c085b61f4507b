"""Probes at the specimen against closed forms: Airy, Bessel, Gaussian, vortex, defocus."""

import math
import warnings

import numpy as np
import pytest
from scipy.special import j0, j1

import gpu4d
from gpu4d.errors import InputError
from gpu4d.probe import apertures, depth_of_focus, probe_size, real_space, wavefunction

ENERGY, ALPHA = 300e3, 20.0
WAVELENGTH = gpu4d.physics.wavelength(ENERGY)
UNIT = WAVELENGTH / (ALPHA * 1e-3)  # λ/α, Å


def probe_of(aperture, aberrations=None, q=0.01, n=256, sampling=None):
    return real_space(wavefunction(aperture, aberrations, energy=ENERGY, q_pixel=q, shape=(n, n)), q, sampling=sampling)


def test_a_round_aperture_makes_an_airy_disk():
    probe = probe_of(ALPHA, sampling=0.1)
    assert (probe.intensity.sum() * probe.area) == pytest.approx(1.0, abs=1e-12)
    x, y = probe.grid()
    r = np.hypot(x, y)
    u = 2 * np.pi * np.where(r > 0, r, 1.0) / UNIT
    airy = np.pi / UNIT**2 * np.where(r > 0, (2 * j1(u) / u) ** 2, 1.0)
    near = r < 4 * UNIT
    assert np.abs(probe.intensity - airy)[near].max() < 0.005 * airy.max()
    size = probe_size(probe)
    assert size.peak == pytest.approx(np.pi / UNIT**2, rel=0.005)
    assert size.fwhm == pytest.approx(0.5145 * UNIT, rel=2e-3)
    assert size.r50 == pytest.approx(0.2671 * UNIT, rel=3e-3) and size.d50 == 2 * size.r50
    u80 = 2 * np.pi * size.r80 / UNIT  # 1 − J₀² − J₁² of the current is inside; the tails beyond the field of 100 Å come back into it
    assert 1 - j0(u80) ** 2 - j1(u80) ** 2 == pytest.approx(0.8, abs=0.005)
    assert size.rms == math.inf


def test_the_sizes_do_not_depend_on_the_pixels():
    coarse, fine = (probe_size(probe_of(ALPHA, sampling=s)) for s in (None, 0.13))
    assert np.allclose([coarse.fwhm, coarse.r50, coarse.r80], [fine.fwhm, fine.r50, fine.r80], rtol=1e-6)


def test_a_gaussian_aperture_makes_a_gaussian_probe():
    q, width = 0.02, 0.4  # amplitude exp(-k²/w²): intensity exp(-2 π² w² r²)
    k = np.hypot(*(np.mgrid[-64:64, -60:60] * q))
    size = probe_size(real_space(np.exp(-((k / width) ** 2)), q))
    sigma = 1 / (2 * math.pi * width)
    assert size.fwhm == pytest.approx(2 * math.sqrt(2 * math.log(2)) * sigma, rel=1e-4)
    assert size.rms == pytest.approx(math.sqrt(2) * sigma, rel=1e-4)
    assert size.r50 == pytest.approx(math.sqrt(2 * math.log(2)) * sigma, rel=1e-4)


def test_a_thin_annulus_makes_a_bessel_beam():
    low, high = 19.5, 20.5
    probe = probe_of(apertures.bessel(low, high), q=0.01, n=256, sampling=0.05)
    _, y = probe.grid()
    middle = probe.psi.shape[0] // 2
    line, r = probe.psi[middle, middle:].real, y[0, middle:]
    zero = r[np.flatnonzero(line < 0)[0]]  # the first pixel behind the zero
    assert 0 <= zero - 2.405 * WAVELENGTH / (2 * math.pi * ALPHA * 1e-3) < 0.06
    expected = j0(2 * math.pi * ALPHA * 1e-3 / WAVELENGTH * r[:60])
    assert np.abs(line[:60] / line[0] - expected).max() < 0.02
    assert probe_size(probe).fwhm < 0.75 * 0.5145 * UNIT  # thinner than Airy's


@pytest.mark.parametrize("charge", [1, -2])
def test_a_vortex_is_dark_in_the_middle_and_carries_its_charge(charge):
    probe = probe_of(apertures.vortex(ALPHA, charge), {"C30": 2e4})
    middle = tuple(n // 2 for n in probe.psi.shape)
    assert probe.intensity[middle] < 1e-12 * probe.intensity.max()
    assert gpu4d.probe.angular_momentum(probe) == pytest.approx(charge, abs=0.005)


def test_defocus_spreads_the_probe_over_its_geometric_disk():
    size = probe_size(probe_of(ALPHA, {"defocus": 1000.0}, q=0.01))
    assert size.r50 == pytest.approx(1000 * ALPHA * 1e-3 * math.sqrt(0.5), rel=0.02)
    assert size.r80 == pytest.approx(1000 * ALPHA * 1e-3 * math.sqrt(0.8), rel=0.05)
    assert gpu4d.probe.angular_momentum(probe_of(ALPHA, {"defocus": 1000.0})) == pytest.approx(0, abs=1e-9)
    assert (np.sin(np.pi / 4) / (np.pi / 4)) ** 2 == pytest.approx(0.81, abs=0.001)  # what depth_of_focus says of half its depth
    half_depth = probe_size(probe_of(ALPHA, {"defocus": depth_of_focus(ALPHA, ENERGY) / 2}))
    u = np.pi / 4  # the phase at the rim is π/2: the intensity in the middle is that of a linear zone, (sin u / u)²
    assert half_depth.peak == pytest.approx(np.pi / UNIT**2 * (np.sin(u) / u) ** 2, rel=0.01)


def test_a_tilt_of_the_wave_moves_the_probe():
    q, n = 0.02, 128
    wave = wavefunction(ALPHA, energy=ENERGY, q_pixel=q, shape=(n, n))
    k = (np.arange(n) - n // 2) * q
    shift = (1.3, -2.1)
    moved = real_space(wave * np.exp(-2j * np.pi * (k[:, None] * shift[0] + k[None, :] * shift[1])), q)
    size = probe_size(moved)
    assert np.allclose(size.center, shift, atol=1e-6)
    assert size.fwhm == pytest.approx(probe_size(real_space(wave, q)).fwhm, rel=1e-6)


def test_scherzers_defocus_beats_the_gaussian_focus():
    """The defocus 1.2 √(Cs λ) widens the band of the lens: with a fitting aperture the peak is higher than in focus."""
    cs = 1.2e7  # Å
    fitting = 1e3 * 1.5 * (WAVELENGTH / cs) ** 0.25  # mrad
    peaks = [probe_size(probe_of(fitting, {"C30": cs, "defocus": d}, q=0.006)).peak for d in (0.0, math.sqrt(1.5 * cs * WAVELENGTH))]
    assert peaks[1] > 2 * peaks[0]


def test_a_zernike_plate_conserves_the_current_and_shifts_the_phase():
    plate = wavefunction(apertures.phase_plate(ALPHA, radius=3.0), energy=ENERGY, q_pixel=0.01, shape=(256, 256))
    plain = wavefunction(ALPHA, energy=ENERGY, q_pixel=0.01, shape=(256, 256))
    assert np.angle(plate[128, 128]) == pytest.approx(np.pi / 2)
    assert np.angle(plate[128, 160]) == pytest.approx(0)
    assert (np.abs(plate) ** 2).sum() == pytest.approx((np.abs(plain) ** 2).sum(), rel=0.01)


@pytest.mark.parametrize("q, n, alpha, energy", [(0.01, 64, 25.0, 80e3), (0.01, 128, ALPHA, ENERGY), (0.05, 24, 25.0, 80e3)])
def test_an_aperture_that_the_detector_cuts_is_refused(q, n, alpha, energy):
    wave = wavefunction(alpha, {"defocus": 100.0}, energy=energy, q_pixel=q, shape=(n, n))  # a bright-field disk may be cut
    with pytest.raises(InputError, match=rf"the wave is cut: \d+ of the {4 * n - 4} pixels .* reach {n // 2 * q:.3g} 1/Å"):
        real_space(wave, q)
    whole = 2 * math.ceil(gpu4d.physics.angle_to_frequency(alpha, energy) / q + 1.5)
    one, large = (probe_size(real_space(wavefunction(alpha, energy=energy, q_pixel=q, shape=(m, m)), q)) for m in (whole, 2 * whole))
    assert one.fwhm == pytest.approx(large.fwhm, rel=1e-6)  # the smallest detector that takes the aperture loses nothing
    assert one.fwhm == pytest.approx(0.5145 * gpu4d.physics.wavelength(energy) / (alpha * 1e-3), rel=0.02)


@pytest.mark.parametrize("aberrations", [{"defocus": 1000.0}, {"C12": 1000.0, "phi12": 0.4}, {"C30": 2.5e6}])
def test_a_probe_larger_than_its_field_is_said_with_the_pixel_that_it_needs(aberrations):
    with pytest.warns(UserWarning) as told:
        full = probe_of(ALPHA, aberrations, q=0.05, n=64)
    with pytest.raises(InputError, match=r"at the border of the field of 20 × 20 Å: .* half of the q_pixel"):
        probe_size(full)
    steep, full = (str(warning.message) for warning in told)
    assert "the field of view 1/q_pixel is 20 Å" in steep and "of the current is at the border of the field" in full
    assert float(full.split("Need a q_pixel of ")[1].split()[0]) == 0.025
    needed = float(steep.split("need a q_pixel below ")[1].split()[0])
    assert 0.02 < needed < 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        size = probe_size(probe_of(ALPHA, aberrations, q=needed / 2, n=4 * math.ceil(0.05 / needed * 32)))
    assert size.r80 < 0.25 / (needed / 2)  # and now the probe is in the middle half


def test_aberrations_make_the_probe_as_large_as_rays_say():
    """A defocus d spreads it over 2 d α. The warning comes as soon as this is more than the field."""
    for d, warned in ((450.0, False), (560.0, True)):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            wavefunction(ALPHA, {"defocus": d}, energy=ENERGY, q_pixel=0.05, shape=(64, 64))
        assert bool(told) == warned
    assert float(str(told[0].message).split("probe over ")[1].split()[0]) == pytest.approx(2 * d * ALPHA * 1e-3, rel=0.03)


@pytest.mark.parametrize("q, n", [(0.01, 256), (0.02, 128), (0.05, 64)])
def test_tails_of_apertures_are_no_reason_to_warn(q, n):
    forms = [apertures.disk(ALPHA), apertures.bullseye(ALPHA), apertures.vortex(ALPHA, 5), apertures.phase_plate(ALPHA, radius=3.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in [*forms, apertures.bessel(18.0, 20.0)]:
            probe_of(form, q=q, n=n)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: real_space(np.zeros((8, 8)), 0.1), "not all 0"),
        (lambda: real_space(np.full((8, 8), np.nan), 0.1), "infinite"),
        (lambda: real_space(np.ones((8, 8)), -0.1), "positive"),
        (lambda: real_space(np.ones((8, 8)), 0.1, sampling=0), "positive"),
        (lambda: depth_of_focus(0.0, ENERGY), "positive"),
        (lambda: wavefunction(apertures.disk(20.0), energy=ENERGY, q_pixel=0.1), "shape"),
        (lambda: wavefunction(np.full((4, 4), np.nan + 1j), energy=ENERGY, q_pixel=0.1), "NaN"),
    ],
)
def test_what_is_no_wave_is_refused(call, word):
    with pytest.raises(InputError, match=word):
        call()
