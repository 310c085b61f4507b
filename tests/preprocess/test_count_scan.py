"""A whole scan of raw frames counted by one call."""

import functools

import h5py
import numpy as np
import pytest
from gpu4d.benchmarks.counting_occupancy import judged

import gpu4d
from gpu4d.errors import InputError
from gpu4d.preprocess import CountedElectrons, Electrons, count_electrons, count_scan, counting_setup
from gpu4d.testing.reductions import ReductionTests

RAW = gpu4d.simulate.raw_frames((6, 7), (64, 72), occupancy=0.01, seed=1)
FRAMES = RAW.cube.source.array.reshape(-1, 64, 72)


@functools.cache  # compiled code runs when a test asks, not while every worker imports this file
def setup():
    return counting_setup(RAW.cube.source.array, RAW.darks)


def test_events_are_the_electrons_of_the_operation():
    counted = count_scan(RAW.cube, setup=setup())
    found = count_electrons(FRAMES, setup().dark, setup().lower, setup().upper, electron=setup().electron, mask=setup().mask)
    np.testing.assert_array_equal(counted.cube.source.offsets, found.offsets)
    np.testing.assert_array_equal(counted.cube.source.pixels, found.qx.astype(int) * 72 + found.qy)
    assert counted.electrons == len(found.qx)
    np.testing.assert_array_equal(counted.cube.detector_mask, setup().mask)


def test_setup_finds_the_detector_that_was_put_in():
    bad = RAW.hot | RAW.dead | RAW.flickering
    np.testing.assert_array_equal(~setup().mask, bad)
    np.testing.assert_array_equal(setup().flickering, RAW.flickering)
    assert abs(setup().electron / RAW.electrons[:, 3].mean() - 1) < 0.05
    assert abs(setup().model.spread - 0.38) < 0.03 and abs(setup().noise / 3.0 - 1) < 0.1
    assert setup().pixels.sum() == setup().mask.sum() * setup().frames


@pytest.mark.parametrize("drift", [-9.0, 9.0])
@pytest.mark.parametrize("gain", [None, np.full((64, 72), 1.25)])
def test_a_level_that_drifted_since_the_dark_frames_changes_nothing(drift, gain):
    right = count_scan(RAW.cube, RAW.darks, gain=gain)
    drifted = count_scan(RAW.cube, RAW.darks.astype(float) - drift, gain=gain)
    assert abs(drifted.electrons / right.electrons - 1) < 0.002 and right.false_share < 1e-3
    assert abs(drifted.setup.electron / right.setup.electron - 1) < 1e-3
    np.testing.assert_allclose(drifted.setup.dark[setup().mask], right.setup.dark[setup().mask], atol=0.1)


def test_few_frames_do_not_make_the_loss_larger():
    where = np.zeros((6, 7), bool)
    where[2, 3:5] = True
    every, few = count_scan(RAW.cube, setup=setup()), count_scan(RAW.cube, setup=setup(), where=where)
    assert abs(few.coincidence_loss - every.coincidence_loss * few.occupancy / every.occupancy) < 0.01


def test_sums_and_centres_of_mass_are_those_of_dense_frames():
    counted = count_scan(RAW.cube, setup=setup(), mode="likelihood")
    dense = gpu4d.DataCube(np.asarray(counted.cube), detector_mask=setup().mask)
    make = {"sum": gpu4d.VirtualImage(np.ones((64, 72), bool)), "com": gpu4d.CenterOfMass(), "mean": gpu4d.MeanPattern()}
    a, b = (gpu4d.sweep(cube, make) for cube in (counted.cube, dense))
    for name in make:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]))


@pytest.mark.parametrize("occupancy", [0.002, 0.03])
@pytest.mark.parametrize("mode", ["maxima", "likelihood"])
def test_stated_loss_and_occupancy_are_those_of_the_simulation(occupancy, mode):
    raw = gpu4d.simulate.raw_frames((1, 40), (96, 96), occupancy=occupancy, bad_pixels=0, xray_rate=0.0, seed=2)
    counted = count_scan(raw.cube, raw.darks, mode=mode)
    lost = 1 - counted.electrons / len(raw.electrons)
    assert abs(counted.coincidence_loss - lost) < 0.012
    assert abs(counted.occupancy / (1 - counted.coincidence_loss) / occupancy - 1) < 0.05
    assert counted.false_share < 1e-3


def test_places_and_super_resolution():
    counted = count_scan(RAW.cube, setup=setup(), mode="places", upsample=2, places=True)
    points, source = counted.points, counted.cube.source
    assert counted.cube.shape == (6, 7, 128, 144) and counted.cube.detector_mask.shape == (128, 144)
    fine = [np.floor((points.flat(q) + 0.5) * 2).clip(0, n - 1).astype(int) for q, n in (("qx", 128), ("qy", 144))]
    np.testing.assert_array_equal(source.pixels, fine[0] * 144 + fine[1])
    found = Electrons(points.offsets, points.flat("qx"), points.flat("qy"), points.flat("intensity"))
    recall, false, _, rms = judged(found, RAW.electrons, setup().mask)
    assert recall > 0.94 and false < 2e-3 and rms < 0.12
    halves = Electrons(points.offsets, *(np.rint(points.flat(q) * 2 - 0.5) / 2 + 0.25 for q in ("qx", "qy")), points.flat("intensity"))
    whole = Electrons(points.offsets, np.rint(points.flat("qx")), np.rint(points.flat("qy")), points.flat("intensity"))
    # even places in a square of side a lie a / √6 from its middle, rms over both axes
    assert judged(halves, RAW.electrons, setup().mask)[3] < 0.27 < 0.38 < judged(whole, RAW.electrons, setup().mask)[3]


def test_calibration_follows_the_finer_pixels():
    cube = gpu4d.DataCube(RAW.cube.source, gpu4d.Calibration(q_pixel=0.02, origin=(30.0, 35.5)))
    c = count_scan(cube, setup=setup(), mode="places", upsample=2).cube.calibration
    assert c.q_pixel == 0.01 and c.origin.tolist() == [60.5, 71.5]


def test_positions_that_are_not_visited_have_no_events():
    where = np.zeros((6, 7), bool)
    where[1:3, 2:6] = True
    counted = count_scan(RAW.cube, setup=setup(), where=where)
    sizes = np.diff(counted.cube.source.offsets).reshape(6, 7)
    assert (sizes[where] > 0).all() and (sizes[~where] == 0).all()
    assert counted.electrons == sizes.sum() and counted.occupancy == counted.electrons / (8 * setup().mask.sum())


def test_a_path_and_dark_frames_of_a_file(tmp_path):
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["frames"], file["dark"] = RAW.cube.source.array, RAW.darks
    a = count_scan(str(tmp_path / "raw.h5"), f"{tmp_path / 'raw.h5'}:/dark", seed=3)
    b = count_scan(RAW.cube.source.array, RAW.darks, seed=3)
    np.testing.assert_array_equal(a.cube.source.pixels, b.cube.source.pixels)
    assert a.compression == a.raw_bytes / a.event_bytes > 20 and "likelihood" not in repr(a)


def test_a_gain_that_is_given_is_used():
    gain = np.where(np.arange(72) < 36, 1.0, 2.0) * np.ones((64, 1))
    frames = np.rint(RAW.dark + (FRAMES[:12] - RAW.dark) * gain).clip(0).astype("uint16")
    plain = counting_setup(FRAMES[:12], RAW.darks)
    right = counting_setup(frames, RAW.dark, gain=gain, mask=plain.mask)
    wrong = counting_setup(frames, RAW.dark, mask=plain.mask)
    assert abs(right.electron / plain.electron - 1) < 0.03 < wrong.electron / plain.electron - 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "counting needs the level of the detector"),
        ({"dark": RAW.darks[:, :5]}, "dark is"),
        ({"dark": RAW.darks, "setup": setup}, "either setup="),
        ({"setup": setup, "mode": "many"}, "mode='many'"),
        ({"setup": setup, "upsample": 2}, "local maxima are whole pixels"),
        ({"setup": setup, "places": True}, "local maxima are whole pixels"),
        ({"setup": setup, "mode": "places", "upsample": 0}, "upsample=0"),
        ({"dark": RAW.darks, "sample": 0}, "sample=0"),
        ({"dark": RAW.darks, "where": np.zeros((6, 7), bool)}, "no position"),
        ({"dark": RAW.darks, "gain": np.ones(3)}, "gain is"),
    ],
)
def test_impossible_arguments_are_refused(options, said):
    given = {name: value() if value is setup else value for name, value in options.items()}
    with pytest.raises(InputError, match=said):
        count_scan(RAW.cube, **given)


def test_a_setup_of_another_detector_is_refused():
    with pytest.raises(InputError, match=r"frames of \(64, 72\), the scan has \(64, 70\)"):
        count_scan(RAW.cube.crop(qy=(0, 70)), setup=setup())


def test_no_beam_is_said():
    with pytest.raises(InputError, match="no electrons"):
        counting_setup(RAW.darks, RAW.darks)
    with pytest.raises(InputError, match="at least one frame"):
        counting_setup(RAW.darks[:0], RAW.darks)


class TestCountedElectrons(ReductionTests):
    def make(self):
        return CountedElectrons(setup(), "likelihood", places=True, per_frame=60.0)

    def cube(self):
        return RAW.cube

    def bits(self, result):
        source, points = result
        return source.offsets.tobytes(), source.pixels.tobytes(), points.flat("qx").tobytes(), points.flat("intensity").tobytes()


@pytest.mark.shared
def test_a_scan_of_a_detector_whose_truth_is_known(shared_data):
    """From the file alone: bad pixels, thresholds, electrons. Local maxima find 0.85 of them, as tests of `count_electrons` say."""
    name = str(shared_data / "counting_raw.h5")
    counted = count_scan(name, name + ":/dark_frames", mode="likelihood", places=True)
    with h5py.File(name) as file:
        bad = {i for kind in ("hot", "dead", "flicker") for i in file[f"truth/{kind}_px_flat"][:].tolist()}
        truth = file["truth/events"][:].astype(float)
    assert set(np.flatnonzero(~counted.setup.mask)) == bad
    assert abs(counted.setup.electron / truth[:, 3].mean() - 1) < 0.03
    points = counted.points
    found = Electrons(points.offsets, *(points.flat(field) for field in ("qx", "qy", "intensity")))
    recall, false, extra, rms = judged(found, truth, np.ones(counted.setup.mask.shape, bool))
    assert recall >= 0.93 and false <= 1e-3 and extra <= 0.01 and rms <= 0.2
    assert counted.compression > 100
    assert abs(counted.coincidence_loss - (1 - counted.electrons / len(truth))) < 0.015
