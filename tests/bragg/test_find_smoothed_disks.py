"""The search on smoothed maps against filters and Fourier sums of other libraries, and its rules on maps made by hand."""

import numpy as np
import pytest
import scipy.ndimage

import gpu4d
from gpu4d.bragg.find_smoothed_disks import SmoothedSearch, find_smoothed_disks, largest_sample, smoothing_matrix
from gpu4d.errors import InputError

ONES = np.ones((32, 17), complex)  # the spectrum of a kernel that leaves a pattern as it is


def spots(*placed, shape=(32, 32)):
    """A pattern with spots (x, y, height) of one pixel."""
    pattern = np.zeros((1, *shape))
    for x, y, height in placed:
        pattern[0, x, y] = height
    return pattern


@pytest.mark.parametrize(("n", "sigma"), [(20, 0.6), (20, 2.0), (7, 3.0)])
def test_smoothing_is_the_filter_of_scipy(n, sigma, rng=np.random.default_rng(1)):  # noqa: B008
    line = rng.random(n)
    np.testing.assert_allclose(smoothing_matrix(n, sigma) @ line, scipy.ndimage.gaussian_filter1d(line, sigma), atol=1e-15)


@pytest.mark.parametrize("shape", [(16, 18), (15, 18), (17, 15)])
def test_samples_are_sums_of_the_whole_fourier_plane(shape):
    rng = np.random.default_rng(2)
    plane = np.fft.fft2(scipy.ndimage.gaussian_filter(rng.random(shape), 1.0, mode="wrap"))
    x, y = largest_sample(np.fft.rfft2(np.fft.ifft2(plane).real)[None] / plane.size, shape, np.array([[7.3]]), np.array([[8.9]]), 8)
    places = np.arange(12) - 6
    samples = np.array(
        [
            [
                np.sum(
                    plane
                    * np.exp(2j * np.pi * (np.fft.fftfreq(shape[0])[:, None] * (7.5 + a / 8) + np.fft.fftfreq(shape[1]) * (9 + b / 8)))
                )
                for b in places
            ]
            for a in places
        ]
    ).real
    i, j = np.unravel_index(samples.argmax(), samples.shape)
    step = lambda low, here, high: (high - low) / (4 * here - 2 * low - 2 * high)  # noqa: E731
    inside = 0 < i < 11 and 0 < j < 11
    dx = step(*samples[i - 1 : i + 2, j]) if inside else 0.0
    dy = step(*samples[i, j - 1 : j + 2]) if inside else 0.0
    np.testing.assert_allclose((x[0, 0], y[0, 0]), (7.5 + (places[i] + dx) / 8, 9 + (places[j] + dy) / 8), atol=1e-9)


@pytest.mark.parametrize("kind", ["definition", "cpu"])
def test_thresholds_come_before_the_spacing(kind):
    """The second spot is too near to the first; the third has less than the threshold, which is relative to the second."""
    pattern = spots((10, 10, 4.0), (10, 13, 3.0), (20, 20, 1.4), (24, 8, 2.0))
    rules = SmoothedSearch(smoothing=0.0, subpixel="pixel", min_relative=0.5, relative_to=1, min_spacing=4.0, edge=1)
    with gpu4d.using(kind):
        disks = find_smoothed_disks(pattern, ONES, search=rules)
    assert disks.count.tolist() == [2]
    np.testing.assert_allclose(np.stack([disks.qx[0, :2], disks.qy[0, :2], disks.intensity[0, :2]]), [[10, 24], [10, 8], [4, 2]], atol=1e-5)


@pytest.mark.parametrize("kind", ["definition", "cpu"])
def test_the_border_the_number_and_broken_patterns(kind):
    pattern = np.concatenate([spots((2, 16, 5.0), (16, 16, 3.0), (25, 20, 2.0)), np.zeros((1, 32, 32)), np.full((1, 32, 32), np.nan)])
    with gpu4d.using(kind):
        disks = find_smoothed_disks(
            pattern, ONES, search=SmoothedSearch(smoothing=0.5, subpixel="poly", edge=3, max_peaks=1, min_spacing=0.0)
        )
    assert disks.count.tolist() == [1, 0, 0] and np.isnan(disks.qx[1:]).all()
    np.testing.assert_allclose((disks.qx[0, 0], disks.qy[0, 0]), (16, 16), atol=1e-5)


def test_a_tie_of_two_samples_is_settled_in_double_precision():
    """Over shifts in tiny steps through the middle between two samples, twin and definition take the same one."""
    k = np.fft.fftfreq(32)[:, None], np.fft.rfftfreq(32)[None]
    x, y = np.meshgrid(np.arange(32) - 16, np.arange(32) - 16, indexing="ij")
    image = np.fft.rfft2(np.exp(-((x + 0.6 * y) ** 2) / 18 - y**2 / 40 - 0.02 * (x + y) ** 3 / 100))
    shifts = 1 / 32 + 0.2 + np.linspace(-2e-5, 2e-5, 9)
    patterns = np.stack([np.fft.irfft2(image * np.exp(-2j * np.pi * (k[0] * s + k[1] * 0.11)), (32, 32)) for s in shifts])
    rules = SmoothedSearch(edge=5, min_spacing=20.0, max_peaks=1)
    with gpu4d.using("definition"):
        sure = find_smoothed_disks(patterns, ONES, search=rules)
    quick = find_smoothed_disks(patterns, ONES, search=rules)
    assert quick.count.tolist() == [1] * 9
    assert np.abs(quick.qx - sure.qx).max() < 4e-4 and np.abs(quick.qy - sure.qy).max() < 4e-4


def test_wrong_rules_are_refused():
    with pytest.raises(InputError, match="need one of 'pixel', 'poly', 'multicorr'"):
        SmoothedSearch(subpixel="none")
    with pytest.raises(InputError, match="both must be 1 or more"):
        SmoothedSearch(upsample=0)


@pytest.mark.parametrize("upsample", [3, 16])
def test_a_tie_across_a_corner_is_settled_in_double_precision(upsample):
    """The top of a slanted peak lies between two samples that share only a corner, where the choice moves the other coordinate too."""
    rng, shape, n = np.random.default_rng(0), (33, 32), 60
    k = np.fft.fftfreq(33)[:, None], np.fft.rfftfreq(32)[None]
    x, y = np.meshgrid(np.arange(33) - 16, np.arange(32) - 16, indexing="ij")
    image = np.fft.rfft2(np.exp(-((x + 0.6 * y) ** 2) / 18 - y**2 / 40 - 0.02 * (x + y) ** 3 / 100))
    sx = rng.choice([0.5, -0.5, 1.5], n) / upsample + rng.normal(0, 2e-5, n)
    sy = np.where(rng.random(n) < 0.5, 0.5 / upsample + rng.normal(0, 2e-5, n), rng.random(n))
    patterns = np.stack([np.fft.irfft2(image * np.exp(-2j * np.pi * (k[0] * a + k[1] * b)), shape) for a, b in zip(sx, sy)])
    rules, spectrum = SmoothedSearch(edge=4, min_spacing=20.0, max_peaks=1, upsample=upsample), np.ones((33, 17), complex)
    with gpu4d.using("definition"):
        sure = find_smoothed_disks(patterns, spectrum, search=rules)
    quick = find_smoothed_disks(patterns, spectrum, search=rules)
    assert np.abs(quick.qx - sure.qx).max() < 4e-4 and np.abs(quick.qy - sure.qy).max() < 4e-4
