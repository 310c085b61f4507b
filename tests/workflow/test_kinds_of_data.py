"""A run on data with defects, and on data that are neither a crystal nor a phase object: it says what they are."""

import numpy as np
import pytest
from recipes_in_tests import recipe
from spot_scenes import crystal, disk

import gpu4d
from gpu4d import DataCube
from gpu4d.errors import InputError
from gpu4d.workflow import analyse
from gpu4d.workflow.pipeline import found

SHAPE = (96, 96)


def scan(mean, positions=(8, 8), seed=0):
    return np.random.default_rng(seed).poisson(np.broadcast_to(mean, (*positions, *np.shape(mean)[-2:]))).astype("uint32")


def left_out(state):
    mask = state.cube.detector_mask
    return [] if mask is None else np.argwhere(~mask).tolist()


def rings(radius, width, spots=0, seed=0):
    x, y = (np.arange(n)[:, None] for n in SHAPE)
    r = np.hypot(x - 47.7, y.T - 47.2)
    mean = 0.05 + 2000 * disk(SHAPE, (47.7, 47.2), 1.6) + (0 if spots else 4) * np.exp(-(((r - radius) / width) ** 2))
    for t in np.random.default_rng(seed).uniform(0, 2 * np.pi, spots):
        mean += 40 * disk(SHAPE, (47.7 + radius * np.cos(t), 47.2 + radius * np.sin(t)), 1.6)
    return mean


@pytest.mark.parametrize(
    "places",
    [[(10, 80), (10, 81)], [(10, 80), (10, 81), (11, 80), (11, 81)], [(20, 20), (21, 21), (60, 5)]],
    ids=["pair", "square", "three"],
)
def test_hot_pixels_are_not_the_beam(places):
    data = scan(crystal())
    for x, y in places:
        data[:, :, x, y] = np.random.default_rng(x + y).poisson(9000, (8, 8))
    a = analyse(DataCube(data), recipe(analysis__technique="images"))
    assert left_out(a) == sorted(map(list, places))
    assert np.hypot(a["disk"].qx - 47.7, a["disk"].qy - 47.2) < 0.1 and abs(a["disk"].radius - 5) < 0.1


@pytest.mark.parametrize("value", [0, 65535])
def test_gaps_are_not_the_beam(value):
    data = scan(crystal())
    data[:, :, 31:33], data[:, :, :, 60:63] = value, value
    a = analyse(DataCube(data), recipe(analysis__technique="images"))
    assert abs(len(left_out(a)) - 474) <= 2 and np.hypot(a["disk"].qx - 47.7, a["disk"].qy - 47.2) < 0.1


def test_stuck_pixels_of_a_small_detector():
    """Six of 32×32, at thirty thousand times the beam: however many, they are defects."""
    data = scan(30 * disk((32, 32), (15.7, 15.2), 6.0) + 0.1, (12, 12))
    stuck = [[1, 27], [4, 8], [20, 2], [20, 29], [28, 14], [29, 21]]
    data[:, :, *np.transpose(stuck)] = 1_000_000
    a = analyse(DataCube(data), recipe(analysis__technique="images"))
    assert left_out(a) == stuck
    assert np.hypot(a["disk"].qx - 15.7, a["disk"].qy - 15.2) < 0.1 and abs(a["disk"].radius - 6) < 0.2


def test_a_hit_in_one_frame_is_not_the_beam():
    data = scan(crystal())
    data[3, 4, 20, 20:22] = 200000, 150000
    a = analyse(DataCube(data), recipe(analysis__technique="images"))
    assert np.hypot(a["disk"].qx - 47.7, a["disk"].qy - 47.2) < 0.1


def test_an_analogue_detector_without_defects():
    counts = scan(200 * disk(SHAPE, (47.7, 47.2), 5.0) + 0.05)
    data = (100.0 * counts + np.random.default_rng(1).normal(0, 8, counts.shape)).astype("f4")
    assert left_out(analyse(DataCube(data), recipe(analysis__technique="images"))) == []


def test_pixels_that_are_nan_everywhere_are_left_out():
    """The run says so, before it reads the scan."""
    data = scan(crystal()).astype("f4")
    data[:, :, 5, 7] = np.nan
    a = analyse(DataCube(data), recipe(analysis__technique="images"))
    assert [5, 7] in left_out(a) and any("(5, 7)" in d.what and "NaN" in d.why for d in a.record.decisions)


def test_the_direct_beam_is_not_the_brightest():
    """Two-beam condition in the middle of the scan: the bright field is the same everywhere."""
    columns = np.stack([crystal(strong=2.5 if 3 <= i < 9 else 0.2) for i in range(12)])
    a = analyse(DataCube(scan(columns, (8, 12))), recipe(analysis__technique="images"))
    bright = np.asarray(a.products["bf"])
    assert np.hypot(a["disk"].qx - 47.7, a["disk"].qy - 47.2) < 0.2
    assert abs(np.median(bright[:, 3:9]) / np.median(bright[:, :3]) - 1) < 0.02
    assert any(d.what.startswith("Direct beam at (47.7, 47.2)") for d in a.record.decisions)


def test_a_hidden_direct_beam_is_told():
    mean = crystal()
    mean[40:56, :56] = 0
    a = analyse(DataCube(scan(mean)), recipe(analysis__technique="images"))
    assert any("not seen (a beam stop?)" in line and "(47.7, 47.2)" in line for line in a.record.warnings)


@pytest.mark.parametrize(
    "mean, says",
    [
        (rings(24, 3), "amorphous (a diffuse ring at 24 px"),
        (rings(30, 6), "amorphous (a diffuse ring at 30 px"),
        (rings(26, 1, spots=90), "many small crystals (rings of spots at 26 px"),
        (np.full(SHAPE, 3.0), "An empty scan"),
    ],
    ids=["sharp halo", "wide halo", "polycrystal", "empty"],
)
def test_neither_crystal_nor_phase_object(mean, says):
    """No phase and no rotation, but a sentence that says what it is."""
    a = analyse(DataCube(scan(mean, (9, 9))))
    assert a["technique"] == ("amorphous" if "diffuse" in says else "images") and "dpc" not in a
    assert says in found(a), found(a)
    assert not any(what in ("Detector rotation", "Range of the phase") for what, _, _ in a.record.figures)


def test_raw_frames_of_a_counting_detector():
    rng = np.random.default_rng(0)
    data = rng.normal(60, 3, (8, 8, 96, 96))
    lit = rng.random(data.shape) < 0.01
    data[lit] += rng.exponential(120, lit.sum()) + 40
    a = analyse(DataCube(np.rint(data).astype("uint16")))
    assert a["technique"] == "images" and "count them first" in found(a)


def test_spots_of_a_parallel_beam_give_strain():
    """Sharp spots: no setting is needed, and no detector pixel is derived from so small a disk."""
    cube = gpu4d.simulate.bragg_scan((9, 9), (96, 96), spacing=14.0, radius=1.5, seed=1).cube
    a = analyse(DataCube(cube.source.array, gpu4d.Calibration(energy=200e3, semiangle=0.5)))
    assert a["technique"] == "bragg" and "strain" in a
    assert abs(a["disk"].radius - 1.5) < 0.35 and a.calibration.q_pixel is None
    assert np.asarray(a["braggvectors"].counts).max() < 60, "no false disks"


def test_the_detector_pixel_has_a_standard_error():
    a = analyse(DataCube(scan(crystal()), gpu4d.Calibration(energy=200e3, semiangle=3.0)), recipe(analysis__technique="images"))
    c = a.calibration
    assert c.q_pixel_error / c.q_pixel == pytest.approx(c.probe_radius_error / c.probe_radius)
    assert 0.01 < c.q_pixel_error / c.q_pixel < 0.03
    assert any(what == "Detector pixel" and "±" in value for what, value, _ in a.record.figures)


@pytest.mark.parametrize("offset, says", [(-12.0, "negative"), (None, "zero"), (np.nan, "finite")])
def test_scans_without_usable_patterns_say_why(offset, says):
    counts = scan(20 * disk(SHAPE, (47.7, 47.2), 5.0) + 0.05)
    data = np.zeros_like(counts) if offset is None else (counts + offset).astype("f4")
    with pytest.raises(InputError, match=says):
        analyse(DataCube(data))
