"""Sums of very large counts: right to the last digits of float64, the same in definition and twins, or refused. Nothing wraps round."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError

LARGE = (2**62, 2**63 + 4096, 2**64 - 1)
WAYS = ("definition", "cpu")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", LARGE)
def test_flags_near_the_end_of_uint64_do_not_wrap_round(value, way):
    scan = np.full((2, 3, 8, 8), 3, "uint64")
    scan[..., 2, 2:6] = value
    truth = float(60 * 3 + 4 * value)
    reductions = {
        "sum": gpu4d.VirtualImage(np.ones((8, 8), bool)),
        "max": gpu4d.MaxPattern(),
        "mean": gpu4d.MeanPattern(),
        "com": gpu4d.CenterOfMass(),
    }
    with gpu4d.using(way):
        got = gpu4d.sweep(gpu4d.DataCube(scan), reductions)
    np.testing.assert_allclose(got["sum"], truth, rtol=1e-15)
    np.testing.assert_allclose(np.asarray(got["max"])[2, 2:6], float(value), rtol=0)
    np.testing.assert_allclose(np.asarray(got["mean"])[2, 2:6], float(value), rtol=1e-15)
    np.testing.assert_allclose(np.asarray(got["com"])[:, 0, 0], (2.0, 3.5), rtol=1e-12)
    assert np.asarray(got["mean"])[0, 0] == 3


@pytest.mark.parametrize("way", WAYS)
def test_signed_64_bit_numbers_do_not_wrap_round(way):
    scan = np.full((2, 2, 4, 4), 2**62, "int64")
    scan[..., 0] *= -1
    with gpu4d.using(way):
        got = gpu4d.sweep(gpu4d.DataCube(scan), {"sum": gpu4d.VirtualImage(np.ones((4, 4), bool)), "max": gpu4d.MaxPattern()})
        rings, pixels = gpu4d.rings.radial_sums(scan, np.array([1.5, 1.5]), r_max=4.0, n_r=1)
    np.testing.assert_allclose(got["sum"], 8 * 2.0**62, rtol=1e-15)
    np.testing.assert_array_equal(np.asarray(got["max"])[0], [-(2.0**62), 2.0**62, 2.0**62, 2.0**62])
    np.testing.assert_allclose(rings[..., 0], 8 * 2.0**62, rtol=1e-15)
    assert (pixels == 16).all()


@pytest.mark.parametrize("way", WAYS)
def test_the_centre_of_mass_of_a_large_saturated_detector(way):
    frames = np.full((1, 1700, 1640), 2**32 - 1, "uint32")
    with gpu4d.using(way):
        np.testing.assert_allclose(gpu4d.center_of_mass(frames), [[849.5, 819.5]], rtol=1e-12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_ordinary_counts_of_64_bits_are_exact(dtype, way):
    counts = np.random.default_rng(0).integers(0, 2**20, (3, 4, 6, 5))
    narrow, wide = (gpu4d.DataCube(counts.astype(kind)) for kind in ("uint32", dtype))

    def reductions():
        own = {"sum": gpu4d.VirtualImage(np.ones((6, 5), bool)), "max": gpu4d.MaxPattern()}
        return {**own, "mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass()}

    with gpu4d.using(way):
        a, b = gpu4d.sweep(narrow, reductions()), gpu4d.sweep(wide, reductions())
    for name in a:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]))


@pytest.mark.parametrize(("dtype", "value"), [("int64", 2**63 - 1), ("int64", -(2**63)), ("uint64", 2**64 - 1), ("uint64", 2**62)])
def test_binning_refuses_sums_that_do_not_fit(dtype, value):
    scan = np.full((2, 2, 4, 4), 7, dtype)
    scan[0, 0, :2, :2] = value
    binned = gpu4d.DataCube(scan).bin(detector=2)
    if value == 2**62:  # 4 · 2⁶² is 2⁶⁴
        scan[0, 0, 0, 0] = 0
        assert binned[0, 0].data[0, 0] == np.uint64(3 * 2**62)
        return
    with pytest.raises(InputError, match="do not fit into"):
        binned[0, 0]
    assert binned[1, 1].data.tolist() == [[28, 28], [28, 28]]


def test_binning_does_not_look_at_masked_pixels():
    scan, valid = np.full((2, 2, 4, 4), 7, "uint64"), np.ones((4, 4), bool)
    scan[:, :, 1, 1], valid[1, 1] = 2**64 - 1, False
    binned = gpu4d.DataCube(scan, detector_mask=valid).bin(detector=2)
    mean = np.asarray(gpu4d.sweep(binned, gpu4d.MeanPattern()))
    np.testing.assert_array_equal(mean, [[np.nan, 28], [28, 28]])


def test_counts_of_events_whose_moments_pass_64_bits_are_refused():
    given = (np.array([0, 1]), np.array([5]), (1, 1), (64, 64))
    assert gpu4d.data.EventSource(*given, counts=np.array([2**40]), dtype="uint64").counts is not None
    with pytest.raises(InputError, match="below 2⁶³"):
        gpu4d.data.EventSource(*given, counts=np.array([2**58]), dtype="uint64")
