"""A masked pixel is never looked at: whatever stands there, every result is that of a zero in its place."""

import numpy as np
import pytest

import gpu4d

SCAN, DETECTOR = (5, 6), (24, 20)
RNG = np.random.default_rng(11)
VALID = np.ones(DETECTOR, bool)
VALID[1, 2] = VALID[12, 9] = VALID[11, 9] = False  # at the rim, and two in the disk
VALID[:, 17] = False  # a gap between modules
COUNTS = RNG.poisson(60 * gpu4d.probe.synthetic(DETECTOR, 4.0, center=(11.6, 9.3)) + 0.5, (*SCAN, *DETECTOR))
ORIGINS = np.stack(np.broadcast_arrays(11.6 + 0.1 * np.arange(5)[:, None], 9.3 - 0.1 * np.arange(6)), -1)
FLOATS = {"NaN": np.nan, "inf": np.inf, "-inf": -np.inf, "large": 1e38, "negative": -1e30}
KNOWN = {"q_pixel": 0.05, "r_pixel": 1.0, "energy": 200e3, "semiangle": 4.0, "origin": (11.6, 9.3)}
BF, ADF = gpu4d.detectors.disk(4.0), gpu4d.detectors.annulus(5.0, 9.0)
WEIGHTS = np.hypot(np.arange(24.0)[:, None] - 11, np.arange(20.0) - 9)


def with_junk(dtype, junk):
    """The counts with a value under the mask."""
    scan = COUNTS.astype(dtype)
    scan[..., ~VALID] = junk
    return scan


def cube(scan, **calibration):
    return gpu4d.DataCube(scan, gpu4d.Calibration(**{**KNOWN, **calibration}), detector_mask=VALID)


def swept(reduction):
    return lambda scan: gpu4d.sweep(cube(scan), reduction())


def moving(reduction):
    return lambda scan: gpu4d.sweep(cube(scan, origin=ORIGINS), reduction())


RESULTS = {
    "mean": swept(gpu4d.MeanPattern),
    "weighted mean": swept(lambda: gpu4d.MeanPattern(weights=np.arange(30.0).reshape(SCAN))),
    "aligned mean": swept(lambda: gpu4d.MeanPattern(origin=ORIGINS)),
    "maximum": swept(gpu4d.MaxPattern),
    "centre of mass": swept(gpu4d.CenterOfMass),
    "centre of mass under a disk": swept(lambda: gpu4d.CenterOfMass(BF)),
    "images": swept(lambda: gpu4d.VirtualImage([BF, ADF, np.ones(DETECTOR, bool)])),
    "weighted image": swept(lambda: gpu4d.VirtualImage(WEIGHTS)),
    "moving images": moving(lambda: gpu4d.VirtualImage([BF, ADF])),
    "moving shapes": moving(lambda: gpu4d.VirtualImage([gpu4d.detectors.rectangle(5, 4), gpu4d.detectors.bragg_spots([(1, 2)], 3)])),
    "together": lambda scan: np.stack(
        [np.asarray(x) for x in gpu4d.sweep(cube(scan), {"a": gpu4d.MeanPattern(), "b": gpu4d.MaxPattern()}).values()]
    ),
    "radial profile": swept(lambda: gpu4d.RadialProfile(ORIGINS)),
    "polar patterns": lambda scan: gpu4d.polar_transform(cube(scan), ORIGINS, n_theta=12),
    "radial profile of an array": lambda scan: gpu4d.radial_profile(scan, ORIGINS, mask=VALID),
    "polar patterns of an array": lambda scan: gpu4d.polar_transform(scan, ORIGINS, n_theta=12, mask=VALID),
    "centre of mass of an array": lambda scan: gpu4d.center_of_mass(scan, VALID),
    "vacuum probe": lambda scan: gpu4d.probe.from_vacuum(cube(scan)),
    "vacuum probe, not aligned": lambda scan: gpu4d.probe.from_vacuum(cube(scan), align=False),
    "disk": lambda scan: np.array(gpu4d.probe.measure_disk(scan[0, 0], VALID)),
    "hot pixels": lambda scan: gpu4d.preprocess.hot_pixels(scan, mask=VALID),
    "hot pixels of an image": lambda scan: gpu4d.preprocess.hot_pixels(scan[0, 0], mask=VALID),
    "hot pixels replaced": lambda scan: gpu4d.preprocess.hot_pixel_median(scan, mask=VALID)[0],
    "electrons": lambda scan: gpu4d.preprocess.count_electrons(scan, 0 * WEIGHTS, 0.5, 9.0, electron=20.0, mask=VALID).qx,
    "filled": lambda scan: gpu4d.preprocess.fill_from_neighbours(scan, VALID),
    "bad pixels replaced": lambda scan: cube(scan).corrected(bad_pixels=~VALID)[2, 3],
    "binned": lambda scan: gpu4d.sweep(cube(scan).bin(detector=2), gpu4d.MeanPattern()),
    "cropped": lambda scan: gpu4d.sweep(cube(scan).crop(qx=(2, 20)), gpu4d.MaxPattern()),
    "exchanged axes": lambda scan: gpu4d.sweep(cube(scan).swap_axes(detector=True), gpu4d.CenterOfMass()),
    "DPC": lambda scan: gpu4d.dpc(cube(scan)).phase,
    "SSB": lambda scan: gpu4d.ssb(cube(scan), rotation=0.0).phase,
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("way", ["definition", "cpu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RESULTS)
def test_floats_under_the_mask(name, dtype, way):
    with gpu4d.using(way):
        right = np.asarray(RESULTS[name](with_junk(dtype, 0)))
        assert np.isfinite(right).any()
        for what, junk in FLOATS.items():
            found = np.asarray(RESULTS[name](with_junk(dtype, junk)))
            np.testing.assert_array_equal(found, right, err_msg=what)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int16", "int32", "int64"])
@pytest.mark.parametrize("name", RESULTS)
def test_whole_numbers_under_the_mask(name, dtype):
    right = np.asarray(RESULTS[name](with_junk(dtype, 0)))
    for junk in {np.iinfo(dtype).max, np.iinfo(dtype).min}:
        np.testing.assert_array_equal(np.asarray(RESULTS[name](with_junk(dtype, junk))), right)


def test_a_nan_that_is_not_masked_still_leaves_out_its_pattern():
    scan = with_junk("float32", np.nan)
    scan[1, 2, 3, 3] = np.nan
    mean = gpu4d.MeanPattern()
    found = np.asarray(gpu4d.sweep(cube(scan), mean))
    rest = np.delete(COUNTS.reshape(-1, *DETECTOR), 8, axis=0).mean(0)
    np.testing.assert_allclose(found, np.where(VALID, rest, np.nan), rtol=1e-12)
    assert mean.left_out == 1


def test_the_input_is_not_written():
    scan = with_junk("float32", np.nan)
    kept = scan.copy()
    gpu4d.sweep(cube(scan), {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern(), "moved": gpu4d.MeanPattern(origin=ORIGINS)})
    np.testing.assert_array_equal(scan, kept)
