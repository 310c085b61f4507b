"""Aligned images: defocus and rotation against truth, the transfer function, and what must not change them."""

import h5py
import numpy as np
import pytest
from ssb_scans import aberrated, aberrated_scan, correlation, random_cube

import gpu4d
from gpu4d import fft
from gpu4d.errors import InputError
from gpu4d.ptychography import acbf, tilted_dark_field
from gpu4d.ptychography.aligned_sum import aligned_sum
from gpu4d.ptychography.tracked_spectra import PixelImages

LENS = {"C10": -15000.0, "C12": 2000.0, "phi12": 0.5}
SCAN = {"scan": 40, "step": 8.0, "semiangle": 1.57, "energy": 200e3, "blur": 10.0, "strength": 0.4, "detector": 48}  # shifts of three steps


@pytest.fixture(scope="module")
def soft():
    return aberrated_scan(LENS, dose=2e4, **SCAN)


def rotavirus(shared_data):
    with h5py.File(shared_data / "rotavirus_cryo_ptycho_96x96_bin4.h5") as h:
        data = h["data"][()]
    known = {"energy": 300e3, "semiangle": 1.03, "q_pixel": 1.03e-3 / gpu4d.physics.wavelength(300e3) / 15.2, "r_pixel": 31.25}
    return gpu4d.DataCube(data, gpu4d.Calibration(**known, origin=(31.52, 31.17)))


def sharpness(image, low: float, high: float) -> float:
    """The power between two frequencies, cycles per scan step, inside the border."""
    inner = np.asarray(image)[6:-6, 6:-6]
    window = np.outer(np.hanning(inner.shape[0]), np.hanning(inner.shape[1]))
    k = np.hypot(np.fft.fftfreq(inner.shape[0])[:, None], np.fft.fftfreq(inner.shape[1]))
    power = np.abs(np.fft.fft2((inner / inner.mean() - 1) * window)) ** 2
    return float(power[(k > low) & (k < high)].mean())


# ---------------------------------------------------------------- real data


def test_rotavirus(shared_data):
    """Defocus as its authors give it, rotation as the centre of mass shows it, and spikes of the particles that bright field lacks."""
    cube = rotavirus(shared_data)
    found = gpu4d.parallax(cube)
    assert abs(found.aberrations["C10"]) == pytest.approx(1.35e5, rel=0.05)
    assert found.transpose and found.sign == "undecided"
    com = np.moveaxis(np.asarray(gpu4d.sweep(cube, gpu4d.CenterOfMass())), 0, -1)
    turn = gpu4d.calibrate.rotation(com if com.shape[-1] == 2 else np.moveaxis(com, 0, -1))
    assert turn.transpose and abs(np.remainder(found.rotation - turn.angle + np.pi / 2, np.pi) - np.pi / 2) < np.radians(3)
    assert found.scatter < 0.1, "of a scan step"
    bright = gpu4d.virtual_image(cube, gpu4d.detectors.disk(15.2))
    assert sharpness(found.image, 0.1, 0.3) > 20 * sharpness(bright, 0.1, 0.3)
    known = gpu4d.parallax(cube, rotation=found.rotation + np.pi, transpose=True, refine=False)
    assert known.sign == "overfocus" and known.aberrations["C10"] == pytest.approx(-found.aberrations["C10"], rel=0.02)
    dark = {f: tilted_dark_field(cube, found, inner=1.05, outer=1.2, tilt=f) for f in (0.0, 0.7)}
    assert sharpness(dark[0.7], 0.1, 0.2) > 1.5 * sharpness(dark[0.0], 0.1, 0.2)


@pytest.mark.slow
def test_half_of_the_pixels_see_what_the_other_half_sees(shared_data):
    """Fourier ring correlation between 0.1 and 0.3 cycles per step: aligned halves agree, halves of the bright field are noise."""
    cube = rotavirus(shared_data)
    found = gpu4d.parallax(cube, refine=False)
    numbers = np.round(found.pixels + np.array([31.52, 31.17])).astype(int) @ (64, 1)
    halves, still = [], []
    for half in (slice(0, None, 2), slice(1, None, 2)):
        images = PixelImages(cube, numbers[half], {})
        halves.append(aligned_sum(images, found.shifts[half])[0])
        still.append(aligned_sum(images, 0 * found.shifts[half])[0])

    def ring(a, b):
        a, b = (np.fft.fft2((x - x.mean())[6:-6, 6:-6] * np.outer(np.hanning(84), np.hanning(84))) for x in (a, b))
        k = np.hypot(np.fft.fftfreq(84)[:, None], np.fft.fftfreq(84))
        some = (k > 0.1) & (k < 0.3)
        a, b = a[some], b[some]
        return float((a * b.conj()).sum().real / np.sqrt((np.abs(a) ** 2).sum() * (np.abs(b) ** 2).sum()))

    assert ring(*halves) > 0.9
    assert ring(*still) < ring(*halves) - 0.2


# ---------------------------------------------------------------- simulated


@pytest.mark.parametrize(
    ("rotation", "transpose", "flip"),
    [pytest.param(0.0, False, 1, marks=pytest.mark.slow), (np.pi / 2, True, -1), pytest.param(np.pi, False, -1, marks=pytest.mark.slow)],
)
def test_defocus_astigmatism_and_rotation(rotation, transpose, flip):
    lens = LENS | {"C10": flip * LENS["C10"]}
    cube, _ = aberrated_scan(lens, dose=2e4, rotation=rotation, transpose=transpose, **SCAN)
    found = gpu4d.parallax(cube)
    assert found.transpose == transpose
    assert abs(np.remainder(found.rotation - rotation + np.pi, 2 * np.pi) - np.pi) < 0.1
    assert found.aberrations["C10"] == pytest.approx(lens["C10"], rel=0.02)
    c12 = found.aberrations["C12"] * np.exp(2j * found.aberrations["phi12"])
    assert abs(c12 - 2000 * np.exp(1j)) < 150
    assert found.sign == ("underfocus" if flip > 0 else "overfocus") and not found.warnings
    bare = gpu4d.DataCube(cube.source.array, gpu4d.Calibration(**{**cube.calibration.known(), "rotation": None, "transpose": None}))
    blind = gpu4d.parallax(bare)
    assert blind.sign == "undecided" and "fits as well" in blind.warnings[-1]
    assert blind.aberrations["C10"] == pytest.approx(-abs(found.aberrations["C10"]), rel=1e-3)


def test_the_transfer_function(soft):
    """The spectrum of the image over that of the phase, where a noise-free weak phase has a spectrum."""
    cube, phase = aberrated_scan({"C10": -15000.0}, **(SCAN | {"strength": 0.01}))
    found = gpu4d.parallax(cube, aberrations={"C10": -15000.0})
    seen, true = (fft.rfft2(np.asarray(x, float) - np.mean(np.asarray(x, float))) for x in (found.image, phase))
    kx, ky = np.fft.fftfreq(40, 8.0)[:, None] + np.zeros(21), np.fft.rfftfreq(40, 8.0) + np.zeros((40, 1))
    some = (np.hypot(kx, ky) > 0.008) & (np.hypot(kx, ky) < 0.045) & (np.abs(true) > 0.2 * np.abs(true).max())
    expected = found.transfer(np.stack([kx[some], ky[some]], -1))
    measured = seen[some] / true[some]
    # The border of the scan has no image of some pixels, so single frequencies differ; they agree with slope 1.
    assert np.abs(expected.imag).max() < 0.05 * np.abs(expected).max()
    slope = (measured * expected.conj()).sum().real / (np.abs(expected) ** 2).sum()
    assert slope == pytest.approx(1, abs=0.1)
    assert np.corrcoef(measured.real, expected.real)[0, 1] > 0.9


@pytest.mark.slow
def test_finer_samples_than_the_scan_has():
    """A scan of every second position, aligned on the grid of the whole one, shows what lies between its positions."""
    lens = {"C10": -20000.0}
    cube, _ = aberrated_scan(lens, **(SCAN | {"scan": 48, "blur": 5.0, "strength": 0.1}))
    whole = np.asarray(gpu4d.parallax(cube, aberrations=lens).image)
    coarse = gpu4d.DataCube(cube.source.array[::2, ::2], gpu4d.Calibration(**{**cube.calibration.known(), "r_pixel": 16.0}))
    found = gpu4d.parallax(coarse, aberrations=lens, upsample=2)
    assert found.image.shape == (48, 48) and found.image.pixel_size == 8.0
    assert correlation(found.image, whole, 8) > 0.95
    simple = np.kron(np.asarray(gpu4d.parallax(coarse, aberrations=lens).image), np.ones((2, 2)))
    assert correlation(simple, whole, 8) < correlation(found.image, whole, 8) - 0.1


def test_missing_positions(soft):
    cube, _ = soft
    gone = np.zeros((40, 40), bool)
    gone[20, 10:16] = gone[5:8, 30] = True
    data = cube.source.array.astype("float32")
    data[gone] = np.nan
    broken, chosen = gpu4d.parallax(gpu4d.DataCube(data, cube.calibration), refine=False), gpu4d.parallax(cube, where=~gone, refine=False)
    np.testing.assert_allclose(broken.image, chosen.image, atol=1e-4)
    whole = gpu4d.parallax(cube, refine=False)
    assert "9 of 1600 positions" in broken.warnings[-1]
    assert correlation(broken.image, whole.image, 4) > 0.98, "other pixels see what lies at the missing positions"


@pytest.mark.slow
def test_memory_and_threads_do_not_change_a_bit(soft, monkeypatch):
    cube, _ = soft
    whole = gpu4d.parallax(cube)
    tight = gpu4d.parallax(cube, memory=2_500_000)
    monkeypatch.setenv("GPU4D_THREADS", "1")
    alone = gpu4d.parallax(cube)
    for other in (tight, alone):
        np.testing.assert_array_equal(other.image, whole.image)
        np.testing.assert_array_equal(other.shifts, whole.shifts)


def test_arrays_of_other_libraries_stay_there(need, soft):
    strict = need("array_api_strict")
    cube, _ = soft
    other = gpu4d.parallax(gpu4d.DataCube(strict.asarray(cube.source.array), cube.calibration), aberrations=LENS, pixels=60)
    assert gpu4d.arrays.namespace(other.image.data) is strict
    here = gpu4d.parallax(cube, aberrations=LENS, pixels=60)
    np.testing.assert_allclose(np.asarray(other.image), np.asarray(here.image), atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: gpu4d.parallax(c, upsample=0), "upsample=0"),
        (lambda c: gpu4d.parallax(c, pixels=True), "pixels=True"),
        (lambda c: gpu4d.parallax(c, aberrations={"C1": 3.0}), "C1"),
        (lambda c: gpu4d.parallax(c.source.array), "DataCube"),
        (lambda c: acbf(c.source.array), "DataCube"),
        (lambda c: acbf(c, {"C1": 3.0}), "C1"),
        (lambda c: tilted_dark_field(c, gpu4d.parallax(c, aberrations={}), inner=1.2, outer=1.1), "inner < outer"),
        (lambda c: tilted_dark_field(c, gpu4d.parallax(c, aberrations={}), inner=8, outer=9), "no pixel lies"),
        (lambda c: gpu4d.parallax(c, aberrations={}).transfer(np.ones(3)), r"\(m, 2\)"),
    ],
)
def test_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(random_cube())


# ---------------------------------------------------------------- aberration-corrected bright field


def test_corrected_bright_field_is_the_phase_times_its_transfer():
    cube, phase = aberrated_scan({"C10": -120.0, "C12": 30.0}, strength=0.02, scan=56, detector=40)
    found = acbf(cube, {"C10": -120.0, "C12": 30.0})
    expected = fft.irfft2(fft.rfft2(phase) * found.transfer, phase.shape)
    assert correlation(found.image, expected) > 0.995
    slope = (np.asarray(found.image) * expected).sum() / (expected**2).sum()
    assert slope == pytest.approx(1, abs=0.05)
    k = np.hypot(np.fft.fftfreq(56, 0.3)[:, None], np.fft.rfftfreq(56, 0.3))
    k0 = gpu4d.physics.angle_to_frequency(22.0, 80e3)
    assert (found.transfer[(k > 0.1 * k0) & (k < 1.8 * k0)] > 0.1).all(), "no zero up to twice the semi-angle"
    assert (found.transfer[k > 2.2 * k0] == 0).all() and found.transfer[0, 0] == 0


def test_its_noise_is_white():
    """Counts without any object: 1 / √(counts in the disk) at every frequency that disks overlap at."""
    counts = 400.0
    cube, _ = aberrated_scan({"C10": -120.0}, strength=1e-9, dose=counts, scan=48)
    found = acbf(cube, {"C10": -120.0})
    power = np.abs(fft.rfft2(np.asarray(found.image))) ** 2 / 48**2
    k = np.hypot(np.fft.fftfreq(48, 0.3)[:, None], np.fft.rfftfreq(48, 0.3)) / gpu4d.physics.angle_to_frequency(22.0, 80e3)
    for low, high in ((0.2, 0.7), (0.7, 1.2), (1.2, 1.7)):
        assert power[(k > low) & (k < high)].mean() == pytest.approx(1 / counts, rel=0.2)


def test_corrected_bright_field_of_the_shared_data(shared_data):
    cube, truth, known = aberrated(shared_data)
    assert correlation(acbf(cube, known).image, truth) > 0.85
    assert abs(correlation(acbf(cube).image, truth)) < 0.3
