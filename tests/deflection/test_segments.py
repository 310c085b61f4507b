"""Segmented detectors: shifts of a disk, their errors, and a phase."""

import numpy as np
import pytest

import gpu4d
from gpu4d.deflection import divergence, segment_response, segmented_center_of_mass
from gpu4d.errors import InputError

CENTER = (23.5, 23.5)
QUADRANTS = gpu4d.detectors.segmented(0.0, 22.0, 4, rotation=0.3)
RINGS = (*gpu4d.detectors.segmented(0.0, 9.0, 4), *gpu4d.detectors.segmented(9.0, 20.0, 8))


def disk(dx=0.0, dy=0.0):
    return gpu4d.probe.synthetic((48, 48), 12.0, edge=2.0, center=(CENTER[0] + dx, CENTER[1] + dy))


@pytest.mark.parametrize("segments", [QUADRANTS, RINGS], ids=["quadrants", "two rings"])
def test_shifts_of_a_disk_are_measured_in_pixels(segments):
    shifts = np.random.default_rng(1).uniform(-0.6, 0.6, (5, 6, 2))
    patterns = np.stack([[50 * disk(*s) for s in row] for row in shifts])
    images = gpu4d.virtual_image(gpu4d.DataCube(patterns), segments, origin=CENTER)
    found, _ = segmented_center_of_mass(images, disk(), segments, CENTER)
    np.testing.assert_allclose(found, shifts, atol=0.02)


def test_its_errors_are_those_of_the_counts():
    mean = 4.0 * disk(0.2, -0.1)
    patterns = np.random.default_rng(4).poisson(mean, (40, 30, 48, 48)).astype("uint8")
    images = gpu4d.virtual_image(gpu4d.DataCube(patterns), QUADRANTS, origin=CENTER)
    found, variance = segmented_center_of_mass(images, disk(), QUADRANTS, CENTER)
    for i, plane in ((0, 0), (1, 2)):
        pulls = (found[..., i] - found[..., i].mean()) / np.sqrt(variance[plane])
        assert np.std(pulls) == pytest.approx(1, abs=0.05)
    covariance = np.mean((found - found.mean((0, 1))).prod(-1))
    assert covariance == pytest.approx(variance[1].mean(), abs=0.1 * variance[0].mean())


def test_a_phase_from_quadrants_is_nearly_that_of_all_pixels():
    scan = gpu4d.simulate.phase_object_scan((36, 36), (48, 48), r_pixel=0.5, strength=0.3)
    options = {"q_pixel": scan.cube.calibration.q_pixel, "r_pixel": 0.5, "rotation": 0.0, "transpose": False}
    middle = (24.0, 24.0)
    radius = gpu4d.probe.measure_disk(np.asarray(scan.cube).mean((0, 1))).radius
    segments = gpu4d.detectors.segmented(0.0, 2.0 * radius, 4)
    images = gpu4d.virtual_image(scan.cube, segments, origin=middle)
    shift, _ = segmented_center_of_mass(images, np.asarray(scan.cube).mean((0, 1)), segments, middle)
    phase = np.asarray(gpu4d.dpc(shift, **options).phase)
    right = np.asarray(gpu4d.dpc(scan.cube, rotation=0.0, transpose=False).phase)
    assert np.corrcoef(phase.ravel(), right.ravel())[0, 1] > 0.97
    com = np.asarray(gpu4d.center_of_mass(np.asarray(scan.cube)))
    assert np.corrcoef(divergence(shift).ravel(), divergence(com).ravel())[0, 1] > 0.9


def test_empty_positions_are_nan():
    images = np.ones((4, 3, 3))
    images[:, 0, 0] = 0
    images[2, 1, 1] = np.nan
    found, variance = segmented_center_of_mass(images, disk(), QUADRANTS, CENTER)
    bad = np.isnan(found).all(-1)
    assert bad[0, 0] and bad[1, 1] and bad.sum() == 2 and np.isnan(variance[:, 1, 1]).all()


def test_segments_must_see_both_axes():
    assert segment_response(disk(), QUADRANTS, CENTER)[:, 0].sum() == pytest.approx(1, abs=0.01)
    halves = [np.indices((48, 48))[0] // 16 == i for i in range(3)]
    with pytest.raises(InputError, match="along both axes"):
        segment_response(disk(), halves)
    with pytest.raises(InputError, match="at least 3"):
        segment_response(disk(), QUADRANTS[:2])
    with pytest.raises(InputError, match="4 segments"):
        segmented_center_of_mass(np.ones((3, 2, 2)), disk(), QUADRANTS)
    with pytest.raises(InputError, match="no counts"):
        segment_response(np.zeros((48, 48)), QUADRANTS)
