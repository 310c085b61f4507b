"""Dark-field images of Bragg disks, against sums over lists made one by one."""

import math

import numpy as np
import pytest

import gpu4d
from gpu4d import PointListArray
from gpu4d.bragg import dark_field, lattice_aperture, reflection
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.errors import InputError

SCAN = (4, 5)


def disks(seed=0, many=600, origin=None):
    """Disks at random places, in lists of random lengths, one of them empty."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(many, np.r_[0.0, np.full(19, 1 / 19)])
    fields = {"qx": rng.uniform(0, 64, many), "qy": rng.uniform(0, 64, many), "intensity": rng.uniform(1, 9, many)}
    return PointListArray(np.r_[0, np.cumsum(counts)], fields, SCAN)


ORIGIN = np.array([31.5, 32.0]) + np.random.default_rng(1).normal(0, 1, (*SCAN, 2))
LATTICE = np.array([[14.0, 2.0], [-2.0, 14.0]])


def by_hand(found, inside, origin=ORIGIN, matrix=None):
    image = np.zeros(SCAN)
    for i, one in enumerate(found):
        place = np.unravel_index(i, SCAN)
        for qx, qy, intensity in zip(one.qx, one.qy, one.intensity):
            v = np.array([qx, qy]) - np.broadcast_to(origin, (*SCAN, 2))[place]
            image[place] += intensity * bool(inside(*(v if matrix is None else matrix @ v)))
    return image


def near(x, y, nodes, radius):
    return any(np.hypot(x - a, y - b) < radius for a, b in nodes)


CASES = {
    "disk": (gpu4d.detectors.disk(9.0), lambda x, y: np.hypot(x, y) < 9),
    "ring": (gpu4d.detectors.annulus(8, 20), lambda x, y: 8 <= np.hypot(x, y) < 20),
    "rectangle": (gpu4d.detectors.rectangle(10, 30), lambda x, y: abs(x) < 5 and abs(y) < 15),
    "sector": (
        gpu4d.detectors.segmented(5, 25, 5, 0.3)[4],
        lambda x, y: 5 <= np.hypot(x, y) < 25 and (math.atan2(y, x) - 0.3) % (2 * math.pi) >= 8 / 5 * math.pi,
    ),
    "pair": (reflection((14.0, 2.0), 3.0), lambda x, y: near(x, y, [(14, 2), (-14, -2)], 3)),
    "one": (reflection((14.0, 2.0), 3.0, mate=False), lambda x, y: near(x, y, [(14, 2)], 3)),
    "nodes": (
        lattice_aperture(LATTICE, 3.0),
        lambda x, y: near(x, y, [h * LATTICE[0] + k * LATTICE[1] for h in range(-4, 5) for k in range(-4, 5) if h or k], 3),
    ),
    "some nodes": (lattice_aperture(LATTICE, 3.0, [[1, 1], [0, -2]]), lambda x, y: near(x, y, [LATTICE.sum(0), -2 * LATTICE[1]], 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_an_image_is_the_sum_over_the_lists(name):
    aperture, inside = CASES[name]
    found = disks()
    image = dark_field(found, aperture, origin=ORIGIN)
    np.testing.assert_allclose(image, by_hand(found, inside), rtol=1e-12)
    assert image[0, 0] == 0.0, "a position without disks"
    assert np.asarray(image).any()


def test_the_calibrated_view_is_used():
    calibration = gpu4d.Calibration(origin=(31.0, 33.0), ellipse=(1.2, 1.0, 0.5), q_pixel=0.05, r_pixel=2.0)
    found = disks()
    matrix = ellipse_matrix(calibration.ellipse)
    for units, scale in (("px", 1.0), ("1/Å", 0.05)):
        ring = gpu4d.detectors.annulus(8 * scale, 20 * scale)
        image = dark_field(found, ring, calibration=calibration, units=units)
        expected = by_hand(found, lambda x, y: 8 <= np.hypot(x, y) < 20, np.array([31.0, 33.0]), matrix)
        np.testing.assert_allclose(image, expected, rtol=1e-12)
    assert (image.pixel_size, image.pixel_units) == (2.0, "Å")


def test_adjoining_rings_and_sectors_count_every_disk_once():
    """Also those that lie exactly on the edge between two of them."""
    x, y = np.meshgrid(np.arange(-12.0, 13), np.arange(-12.0, 13), indexing="ij")
    grid = PointListArray(np.array([0, 625]), {"qx": x.ravel(), "qy": y.ravel(), "intensity": np.ones(625)}, (1, 1))
    whole = dark_field(grid, gpu4d.detectors.annulus(3, 10), origin=(0.0, 0.0))[0, 0]
    rings = dark_field(grid, [gpu4d.detectors.annulus(3, 5), gpu4d.detectors.annulus(5, 10)], origin=(0.0, 0.0))
    assert rings.data.sum() == whole
    for segments in (1, 2, 3, 4, 8):
        parts = dark_field(grid, gpu4d.detectors.segmented(3, 10, segments), origin=(0.0, 0.0))
        assert parts.data.sum() == whole, segments


def test_counts_where_nan_and_other_libraries(need):
    found = disks()
    found.flat("intensity")[3] = np.nan
    origin = ORIGIN.copy()
    origin[2, 2] = np.nan
    where = np.ones(SCAN, bool)
    where[3] = False
    stack = dark_field(
        found, {"in": gpu4d.detectors.disk(9.0), "out": gpu4d.detectors.annulus(9, 90)}, origin=origin, value="count", where=where
    )
    known = np.isfinite(origin).all(-1) & where
    assert stack.labels == ("in", "out")
    assert np.isnan(np.asarray(stack)[:, ~known]).all()
    assert np.asarray(stack)[:, known].sum() == np.asarray(found.counts)[known].sum() - 1, "the NaN is left out"
    strict = need("array_api_strict")
    there = PointListArray(strict.asarray(found.offsets), {n: strict.asarray(found.flat(n)) for n in found.fields}, SCAN)
    for aperture, _ in CASES.values():
        same = dark_field(there, aperture, origin=ORIGIN)
        np.testing.assert_allclose(np.asarray(same), dark_field(found, aperture, origin=ORIGIN), rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give origin="),
        ({"origin": (0.0, 0.0), "value": "sum"}, "'intensity' or 'count'"),
        ({"origin": (0.0, 0.0), "units": "mrad"}, "'px' or '1/Å'"),
        ({"origin": (0.0, 0.0), "units": "1/Å"}, "q_pixel"),
    ],
)
def test_errors_say_what_to_do(options, says):
    with pytest.raises(InputError, match=says):
        dark_field(disks(), gpu4d.detectors.disk(3.0), **options)
    with pytest.raises(InputError, match=r"need gpu4d\.detectors\.disk"):
        dark_field(disks(), gpu4d.detectors.from_array(np.ones((4, 4))), origin=(0.0, 0.0))
