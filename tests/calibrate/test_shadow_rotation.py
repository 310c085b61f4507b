"""Rotation from shadow images, against simulated ones with truth, and from points that are written down."""

import math

import h5py
import numpy as np
import pytest
import scipy.ndimage

import gpu4d
from gpu4d.calibrate import rotation_from_points, scan_matrix, shadow_rotation
from gpu4d.errors import InputError

STEP = 5.0  # Å


@pytest.fixture(scope="module")
def measured(shared_data):
    """STEM image, shadow images by name with their true angle (degrees) and transpose, probe positions (scan px), calibration."""
    with h5py.File(shared_data / "shadow_image.h5") as file:
        shadows = {}
        for name in ("plain_overfocus", "plain_underfocus", "transposed_overfocus", "transposed_underfocus"):
            kind = name.split("_")[0]
            truth = math.degrees(file[f"truth/{kind}_rotation_rad"][()]), bool(file[f"truth/{kind}_transpose"][()])
            shadows[name] = (file[name][:].reshape(9, 192, 192), *truth)
        calibration = gpu4d.Calibration(energy=200e3, q_pixel=file.attrs["detector_pixel_1_per_A"], r_pixel=STEP)
        return file["stem_image"][:], shadows, file["shadow_positions_A"][:].reshape(9, 2) / STEP, calibration


@pytest.mark.parametrize("name", ["plain_overfocus", "plain_underfocus", "transposed_overfocus", "transposed_underfocus"])
def test_one_shadow_image_whose_defocus_is_known(measured, name):
    stem, shadows, positions, calibration = measured
    frames, angle, transpose = shadows[name]
    defocus = 31000.0 if "under" in name else -31000.0
    found = shadow_rotation(stem, frames[4], positions[4], center=(96, 96), radius=86.1, defocus=defocus, calibration=calibration)
    off = math.degrees(math.remainder(found.angle - math.radians(angle), 2 * math.pi))
    assert abs(off) < 0.3 and abs(off) < 4 * math.degrees(found.error) + 0.05
    assert found.transpose == transpose and found.decided and found.half_turn == "defocus" and found.correlation < -0.7
    c = gpu4d.Calibration()
    found.apply(c)
    assert c.rotation == found.angle and c.transpose == transpose and c.rotation_error == found.error


@pytest.mark.parametrize("name", ["plain_overfocus", "transposed_underfocus"])
def test_fringes_tell_over_from_underfocus(measured, name):
    stem, shadows, positions, calibration = measured
    frames, angle, transpose = shadows[name]
    some = slice(0, 9, 2)
    found = shadow_rotation(stem, frames[some], positions[some], center=(96, 96), radius=86.1, scale=0.864, calibration=calibration)
    assert abs(math.remainder(found.angle - math.radians(angle), 2 * math.pi)) < math.radians(0.3)
    assert found.transpose == transpose and found.half_turn == "fringes" and found.decided


def test_without_a_sign_the_half_turn_is_asked_for(measured):
    stem, shadows, positions, _ = measured
    frames, angle, _ = shadows["plain_underfocus"]
    with pytest.warns(UserWarning, match=r"27\.\d° or 180° more|-15[23]\.\d° or 180° more"):
        found = shadow_rotation(stem, frames[4], positions[4], center=(96, 96), radius=86.1, scale=0.864)
    assert abs(math.remainder(found.angle - math.radians(angle), math.pi)) < math.radians(0.3)
    assert not found.decided and found.half_turn == "undecided"
    with pytest.raises(InputError, match=r"not decided .* give defocus="):
        found.apply(gpu4d.Calibration())


def test_the_scale_is_found(measured):
    stem, shadows, positions, calibration = measured
    frames, _, _ = shadows["plain_overfocus"]
    true = calibration.wavelength * 31000 * calibration.q_pixel / STEP
    found = shadow_rotation(stem, frames[4], positions[4], center=(96, 96), radius=86.1, defocus=-1.0)
    assert found.scale == pytest.approx(true, rel=0.02)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("defocus", [-2e4, 2e4])
def test_points_that_a_user_gives(transpose, defocus):
    q = np.array([[10.0, 20.0], [60.0, 15.0], [33.0, 80.0], [70.0, 70.0]])
    side = -1 if defocus > 0 else 1
    r = 12 + side * 0.7 * (q - 40) @ scan_matrix(0.4, transpose).T
    found = rotation_from_points(r, q, defocus=defocus)
    assert found.angle == pytest.approx(0.4) and found.transpose == transpose and found.scale == pytest.approx(0.7) and found.decided
    two = rotation_from_points(r[:2], q[:2], defocus=defocus, transpose=transpose)
    assert two.angle == pytest.approx(0.4) and math.isnan(two.error)


def test_the_error_of_points_is_that_of_their_scatter():
    rng = np.random.default_rng(0)
    q = rng.uniform(0, 100, (6, 2))
    pulls = []
    for _ in range(200):
        r = 0.7 * q @ scan_matrix(0.4).T + rng.normal(0, 0.5, q.shape)
        found = rotation_from_points(r, q, defocus=-1.0)
        pulls.append((found.angle - 0.4) / found.error)
    assert 0.55 < np.mean(np.abs(pulls) < 1) < 0.75  # Student's t of 8 degrees of freedom: 0.65


def test_a_mirror_symmetric_specimen_leaves_the_transpose_undecided():
    """Both transposes fit, each after its own refinement. The probe is two pixels from where it is said to be."""
    rng = np.random.default_rng(3)
    half = np.zeros((128, 128))
    for x, y, r in zip(rng.uniform(0, 128, 40), rng.uniform(0, 128, 40), rng.uniform(2, 6, 40), strict=True):
        half += np.hypot(*(np.indices(half.shape) - np.array([x, y])[:, None, None])) < r
    q = np.stack(np.indices((128, 128)), -1) - 63.5

    def seen(image):
        place = (63.5 + 2.0, 63.5 - 1.5) + 0.7 * q @ scan_matrix(math.radians(12)).T
        return 1000 - 50 * scipy.ndimage.map_coordinates(image, np.moveaxis(place, -1, 0), order=1)

    options = {"center": (63.5, 63.5), "radius": 60.0, "defocus": -1.0, "scale": 0.7}
    mirrored = half + half.T
    assert shadow_rotation(mirrored, seen(mirrored), (63.5, 63.5), **options).margin < 1.1
    found = shadow_rotation(half, seen(half), (63.5, 63.5), **options)
    assert found.decided and not found.transpose and math.degrees(found.angle) == pytest.approx(12, abs=0.3)


def test_points_without_scatter_are_told_as_more_than_a_thousand_times_clearer():
    there = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [7.0, 3.0]])
    found = rotation_from_points(there, there @ scan_matrix(0.3), defocus=-1)
    assert found.margin > 1e6 and ", more than 1000 times clearer" in str(found)


def test_what_is_refused(measured):
    stem, shadows, positions, _ = measured
    with pytest.raises(InputError, match="two points fit with and without transpose"):
        rotation_from_points([[0, 0], [1, 1]], [[0, 0], [1, 1]], defocus=-1)
    with pytest.raises(InputError, match="lie on one line"):
        rotation_from_points([[0, 0], [1, 1], [3, 3]], [[0, 0], [1, 1], [3, 3]], defocus=-1)
    with pytest.raises(InputError, match="the STEM image has NaN"):
        shadow_rotation(
            np.where(stem == stem.max(), np.nan, stem), shadows["plain_overfocus"][0][0], positions[0], center=(96, 96), radius=86.1
        )
    with pytest.raises(InputError, match="need one position"):
        shadow_rotation(stem, shadows["plain_overfocus"][0], positions[0], center=(96, 96), radius=86.1)
    with pytest.raises(InputError, match="outside the STEM image"):
        shadow_rotation(stem, shadows["plain_overfocus"][0][0], (900.0, 900.0), center=(96, 96), radius=86.1, scale=0.86)
    with pytest.raises(InputError, match=r"need the centre and the radius"):
        shadow_rotation(stem, shadows["plain_overfocus"][0][0], positions[0], center=(96, 96), radius=1.0)


def test_places_that_detector_vectors_show(shared_data, measured):
    """The particles of the shadow image are seen at their places in the STEM image, over- and underfocused, and from points alone."""
    stem, shadows, positions, calibration = measured
    with h5py.File(shared_data / "shadow_image.h5") as file:
        particles = file["truth/particles_A"][:, :2] / STEP
        for name, defocus in (("plain_overfocus", -31000.0), ("transposed_underfocus", 31000.0)):
            q = file[f"truth/{name}_particles_px"][1, 1].astype(float)
            found = shadow_rotation(
                stem, shadows[name][0][4], positions[4], center=(96, 96), radius=86.1, defocus=defocus, calibration=calibration
            )
            inside = np.hypot(*(q - 96).T) < 80
            assert found.underfocused is (defocus > 0)
            assert np.hypot(*(found.seen_at(q[inside] - 96, positions[4]) - particles[inside]).T).max() < 1.5
            points = rotation_from_points(particles[inside], q[inside], defocus=defocus)
            assert np.hypot(*(points.seen_at(q[inside]) - particles[inside]).T).max() < 0.05 and points.underfocused is (defocus > 0)
    with pytest.raises(InputError, match=r"vectors is \(3,\): need"):
        found.seen_at([1.0, 2.0, 3.0])
