"""Apertures, and the vacuum images that patterned ones make."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.probe import apertures, measure_disk, patterned, synthetic, template, wavefunction
from gpu4d.probe.template_kernel import pattern_inside

OPTIONS = {"energy": 300e3, "q_pixel": 0.01, "shape": (64, 64)}


def test_a_round_aperture_is_the_one_of_a_number():
    assert np.array_equal(wavefunction(apertures.disk(4.0), **OPTIONS), wavefunction(4.0, **OPTIONS))
    assert np.allclose(patterned((64, 60), 9.0, "round", center=(31.3, 29.0), edge=1.4), synthetic((64, 60), 9.0, (31.3, 29.0), 1.4))


def test_products_of_apertures_are_products_of_waves():
    a, b = apertures.bullseye(4.0), apertures.vortex(4.0, 2)
    both = wavefunction(a * b, **OPTIONS)
    one, other = (wavefunction(part, **OPTIONS) for part in (a, b))
    assert np.allclose(both, one * other)
    assert (apertures.disk(3.0) * a).semiangle == 3.0


def test_a_complex_array_is_taken_as_it_is():
    wave = wavefunction(apertures.vortex(4.0, 1), **OPTIONS)
    again = wavefunction(wave, energy=300e3, q_pixel=0.01)
    assert np.array_equal(again, wave)


def test_maps_have_the_axes_of_the_detector():
    dark_above = apertures.mask(4.0, [[0.0, 0.0], [1.0, 1.0]])  # x, the first axis, goes down
    image = patterned((64, 64), 20.0, dark_above)
    assert image[20, 32] < 0.2 < 0.8 < image[44, 32]
    tilted = apertures.phase_plate(4.0, np.array([[0.0, 1.0], [0.0, 1.0]]))
    wave = wavefunction(tilted, **OPTIONS)
    assert np.angle(wave[32, 37]) > np.angle(wave[32, 27]) + 0.1


def test_a_bullseye_has_rings_of_equal_breadth_and_a_bar():
    image = patterned((96, 96), 35.0, apertures.bullseye(1.0, rings=3, bars=1), edge=0.5)
    for zone in range(7):  # bright, dark, bright, … from the middle
        assert image[48 + int(35 * (zone + 0.5) / 7), 48] == pytest.approx(1.0 if zone % 2 == 0 else 0.0, abs=0.02)
    assert image[48, 48 - 12] < 0.02  # the bar points to −y
    assert image[48, 48 + 12] > 0.98
    assert image.sum() < synthetic((96, 96), 35.0).sum() * 0.62


@pytest.mark.parametrize(
    "aperture",
    [
        apertures.bullseye(1.0, rings=1),
        apertures.bullseye(1.0),
        apertures.bullseye(1.0, rings=4, bars=4),
        apertures.cross(1.0),
        apertures.bessel(0.8, 1.0),
    ],
    ids=lambda a: a.name,
)
@pytest.mark.parametrize("radius", [13.0, 24.0])
def test_a_patterned_disk_is_measured_by_its_outermost_rim(aperture, radius):
    rng = np.random.default_rng(0)
    image = rng.poisson(3000 * patterned((128, 120), radius, aperture, center=(63.7, 58.2)) + 5)
    disk = measure_disk(image)
    assert disk.radius == pytest.approx(radius, abs=0.07)
    assert np.hypot(disk.qx - 63.7, disk.qy - 58.2) < 0.05
    assert disk.residual < 0.2


def test_a_half_disk_says_that_it_is_no_round_disk():
    half = apertures.mask(1.0, np.repeat([[1.0], [0.0]], 2, 1))
    assert measure_disk(patterned((96, 96), 20.0, half)).residual > 1.0


def test_disks_about_the_beam_are_no_outline():
    """Seven equally bright disks of a hexagonal pattern: the middle of one of them is measured, not the ring about all."""
    angle = np.arange(6) * np.pi / 3
    places = [(64.0, 64.0), *(64 + 22 * np.stack([np.cos(angle), np.sin(angle)], -1))]
    image = sum(synthetic((128, 128), 9.0, center=tuple(c)) * (1.2 if i == 0 else 1.0) for i, c in enumerate(places))
    assert measure_disk(image).radius == pytest.approx(9.0, abs=0.05)


def test_the_template_of_a_patterned_probe_is_its_own_shape():
    probe = 1e3 * patterned((96, 96), 13.0)
    made = template(probe)
    assert made.kind == "own" and abs(made.kernel.sum()) < 1e-12
    x = np.fft.fftfreq(96, 1 / 96)
    assert np.abs(made.kernel[np.hypot(x[:, None], x) > 16]).max() < 1e-6  # no trench outside
    assert template(probe, "sigmoid").kind == "sigmoid"
    assert template(1e3 * synthetic((96, 96), 13.0)).kind == "sigmoid"
    with pytest.raises(InputError, match="no pattern"):
        template(1e3 * synthetic((96, 96), 13.0), "own")


def test_noise_and_slopes_are_no_pattern():
    rng = np.random.default_rng(1)
    for radius in (6.0, 13.0, 24.0):
        even = rng.poisson(5 * synthetic((96, 96), radius)).astype(float)
        sloping = patterned((96, 96), radius, apertures.mask(1.0, np.linspace(0.3, 1, 16)[:, None] * np.ones((1, 16))))
        assert pattern_inside(even, (48, 48), radius) < 0.2 and pattern_inside(sloping, (48, 48), radius) < 0.1
    assert pattern_inside(rng.poisson(5 * patterned((96, 96), 24.0)).astype(float), (48, 48), 24.0) > 0.7


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: patterned((32, 32), 8.0, "star"), "bullseye"),
        (lambda: patterned((32, 32), -1.0), "positive"),
        (lambda: patterned((32, 32), 8.0, np.ones(3)), "image"),
        (lambda: apertures.mask(1.0, [[0.0, 2.0]]), "between 0 and 1"),
        (lambda: apertures.bessel(3.0, 2.0), "inner < outer"),
        (lambda: apertures.vortex(20.0, 1.5), "charge"),
        (lambda: apertures.disk(0.0), "positive"),
        (lambda: apertures.phase_plate(20.0), "radius"),
        (lambda: apertures.phase_plate(20.0, np.zeros((2, 2)), radius=3.0), "map"),
        (lambda: apertures.bullseye(20.0, rings=0), "rings"),
        (lambda: apertures.cross(20.0, bar=2.0), "bar"),
        (lambda: apertures.disk(2.0) * 3.0, "unsupported"),
    ],
)
def test_what_makes_no_aperture_is_refused(call, word):
    with pytest.raises((InputError, TypeError), match=word):
        call()


def test_the_semiangle_of_the_aperture_is_the_radius_on_the_detector():
    wave = wavefunction(apertures.bullseye(4.0), **OPTIONS)
    radius = gpu4d.physics.angle_to_frequency(4.0, 300e3) / 0.01
    assert measure_disk(np.abs(wave)).radius == pytest.approx(radius, abs=0.15)
