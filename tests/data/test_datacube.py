"""The lazy views of a cube, against NumPy."""

import numpy as np
import pytest
from small_scan import SHAPE, whole

import gpu4d
from gpu4d import arrays
from gpu4d.data import ArraySource, Calibration, DataCube, DiffractionSlice, Source
from gpu4d.errors import InputError, MemoryBudgetError


def test_cube_describes_itself(data):
    cube = DataCube(data, metadata={"detector": "x"})
    assert (cube.shape, cube.scan_shape, cube.detector_shape, cube.dtype, cube.nbytes) == (SHAPE, (4, 5), (6, 7), np.uint8, 840)
    assert cube.metadata == {"detector": "x"}
    assert isinstance(cube.source, Source)
    assert np.shares_memory(whole(cube), data)


def test_one_pattern(data):
    cube = gpu4d.DataCube(data, Calibration(q_pixel=0.02))
    pattern = cube[3, -1]
    assert isinstance(pattern, DiffractionSlice)
    np.testing.assert_array_equal(pattern, data[3, 4])
    assert (pattern.pixel_size, pattern.pixel_units, pattern.units) == (0.02, "1/Å", "counts")
    assert DataCube(data)[0, 0].pixel_units == "px"
    with pytest.raises(IndexError, match="outside the scan"):
        cube[4, 0]
    for wrong in ((0, 0, 0), (0, slice(1)), (0,), (1, 2, 3, 4, 5), "x"):
        with pytest.raises(InputError):
            cube[wrong]


def test_crop_is_a_view(data):
    cube = DataCube(data)
    part = cube.crop(rx=(1, 3), qx=slice(2, None), qy=(0, 4))
    assert part.shape == (2, 5, 4, 4)
    np.testing.assert_array_equal(whole(part), data[1:3, :, 2:, :4])
    assert np.shares_memory(whole(part), data)
    np.testing.assert_array_equal(whole(cube[1:3, 2:]), data[1:3, 2:])
    np.testing.assert_array_equal(whole(part.crop(rx=(1, 2), qy=(1, 3))), data[2:3, :, 2:, 1:3])
    np.testing.assert_array_equal(part[0, 1], data[1, 1, 2:, :4])


@pytest.mark.parametrize("wrong", [{"rx": (3, 3)}, {"rx": (-1, 9)}, {"qx": (0, 7)}, {"qy": slice(0, 7, 2)}, {"ry": 3}])
def test_crop_refuses(data, wrong):
    with pytest.raises(InputError):
        DataCube(data).crop(**wrong)


def test_bin_sums(data):
    cube = DataCube(data).bin(detector=3, scan=2)
    assert cube.shape == (2, 2, 2, 2)
    expected = data[:4, :4, :6, :6].astype(int).reshape(2, 2, 2, 2, 2, 3, 2, 3).sum((1, 3, 5, 7))
    np.testing.assert_array_equal(whole(cube), expected)
    assert cube.dtype == whole(cube).dtype == np.uint16  # 36 × 255 fits
    for wrong in ({"detector": 0}, {"scan": 5}, {"detector": 1.5}, {"detector": 7}):
        with pytest.raises(InputError, match="whole number"):
            DataCube(data).bin(**wrong)


@pytest.mark.parametrize(
    ("dtype", "n", "binned"),
    [
        ("uint8", 16, "uint16"),
        ("uint8", 1, "uint8"),
        ("uint16", 2, "uint32"),
        ("int16", 2, "int32"),
        ("uint32", 2, "uint64"),
        ("float32", 2, "float32"),
    ],
)
def test_binned_counts_never_wrap(dtype, n, binned):
    top = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 1.5
    cube = DataCube(np.full((1, 1, 16, 16), top, dtype)).bin(detector=n)
    assert cube.dtype == binned
    assert whole(cube)[0, 0, 0, 0] == float(top) * n * n


def test_swapped_axes(data):
    cube = DataCube(data)
    assert cube.swap_axes() is cube
    np.testing.assert_array_equal(whole(cube.swap_axes(detector=True)), data.transpose(0, 1, 3, 2))
    np.testing.assert_array_equal(whole(cube.swap_axes(scan=True)), data.transpose(1, 0, 2, 3))
    both = cube.swap_axes(scan=True, detector=True)
    assert both.shape == (5, 4, 7, 6)
    np.testing.assert_array_equal(whole(both), data.transpose(1, 0, 3, 2))
    part = both.source.read(slice(1, 3), slice(0, 4))
    np.testing.assert_array_equal(part, data.transpose(1, 0, 3, 2)[1:3])


def gaussian_cube(origin):
    """Frames with one Gaussian each, at `origin` (Rx, Ry, 2): its centroid says where the origin went."""
    x, y = np.arange(24)[:, None], np.arange(20)[None, :]
    d2 = (x - origin[..., 0, None, None]) ** 2 + (y - origin[..., 1, None, None]) ** 2
    return DataCube(np.exp(-d2 / 8), Calibration(origin=origin, origin_measured=origin, q_pixel=0.02, r_pixel=3.0, probe_radius=4.0))


def centroids(cube):
    frames = whole(cube)
    total = frames.sum((2, 3))
    x, y = np.arange(frames.shape[2])[:, None], np.arange(frames.shape[3])[None, :]
    return np.stack([(frames * x).sum((2, 3)) / total, (frames * y).sum((2, 3)) / total], -1)


@pytest.mark.parametrize(
    "view",
    [
        lambda c: c.crop(qx=(2, 22), qy=(1, 19)),
        lambda c: c.crop(rx=(1, 4), ry=(0, 2)),
        lambda c: c[1:, 1:4],
        lambda c: c.bin(detector=2),
        lambda c: c.bin(detector=4),
        lambda c: c.swap_axes(detector=True),
        lambda c: c.swap_axes(scan=True),
        lambda c: c.swap_axes(scan=True, detector=True).crop(rx=(1, 3)).bin(detector=2),
    ],
)
def test_the_origin_follows_every_view(view):
    rng = np.random.default_rng(1)
    origin = np.stack([rng.uniform(11, 13, (4, 4)), rng.uniform(9, 11, (4, 4))], -1)
    cube = view(gaussian_cube(origin))
    np.testing.assert_allclose(cube.calibration.origin, centroids(cube), atol=5e-3)
    np.testing.assert_array_equal(cube.calibration.origin_measured, cube.calibration.origin)


def test_one_origin_for_all_follows_too():
    origin = np.broadcast_to([12.3, 9.6], (4, 4, 2))
    cube = gaussian_cube(origin)
    cube.calibration.set(origin=(12.3, 9.6), origin_measured=None, how="given")
    for view in (cube.crop(qx=(2, 22)), cube.bin(detector=2, scan=2), cube.swap_axes(detector=True)):
        np.testing.assert_allclose(np.broadcast_to(view.calibration.origin, (*view.scan_shape, 2)), centroids(view), atol=5e-3)


def test_pixel_sizes_follow_binning():
    cube = gaussian_cube(np.full((4, 4, 2), 10.0))
    binned = cube.bin(detector=2, scan=2).calibration
    assert (binned.q_pixel, binned.r_pixel, binned.probe_radius) == (0.04, 6.0, 2.0)
    assert cube.calibration.q_pixel == 0.02


@pytest.mark.parametrize("theta", [0.3, -0.4, 1.2])
def test_rotation_and_ellipse_follow_swapped_axes(theta):
    """`v_scan = R(θ) v_det` after the swap: the same deflection must point the same way in the sample whichever view measures it."""
    cube = DataCube(np.zeros((2, 2, 8, 8)), Calibration(rotation=theta, transpose=False, ellipse=(1.1, 1.0, theta)))
    vector = np.asarray([0.7, 0.2])

    def in_scan(calibration, v):
        v = v[::-1] if calibration.transpose else v
        c, s = np.cos(calibration.rotation), np.sin(calibration.rotation)
        return np.asarray([[c, -s], [s, c]]) @ v

    swapped = cube.swap_axes(detector=True).calibration
    np.testing.assert_allclose(in_scan(swapped, vector[::-1]), in_scan(cube.calibration, vector))
    np.testing.assert_allclose(in_scan(cube.swap_axes(scan=True).calibration, vector)[::-1], in_scan(cube.calibration, vector))
    long = np.asarray([np.cos(theta), np.sin(theta)])[::-1]  # the long axis, seen with qx and qy exchanged
    angle = swapped.ellipse[2]
    assert abs(long @ [np.cos(angle), np.sin(angle)]) == pytest.approx(1)


def test_detector_mask_follows_every_view(data):
    mask = np.ones((6, 7), bool)
    mask[2, 5] = False
    cube = DataCube(data, detector_mask=mask)
    np.testing.assert_array_equal(cube.crop(qx=(1, 5), qy=(3, 7)).detector_mask, mask[1:5, 3:7])
    np.testing.assert_array_equal(cube.bin(detector=2).detector_mask, [[True] * 3, [True, True, False], [True] * 3])
    np.testing.assert_array_equal(cube.swap_axes(detector=True).detector_mask, mask.T)
    np.testing.assert_array_equal(cube.swap_axes(scan=True).detector_mask, mask)
    with pytest.raises(InputError, match=r"\(7, 6\).*\(6, 7\)"):
        DataCube(data, detector_mask=mask.T)
    with pytest.raises(InputError, match="leaves no pixel"):
        DataCube(data, detector_mask=np.zeros((6, 7)))


def test_what_a_cube_refuses(data):
    with pytest.raises(InputError, match="Rx, Ry, Qx, Qy"):
        DataCube(data[0])
    with pytest.raises(InputError, match=r"\(1, 2\), need \(Rx"):
        DataCube([[1, 2]])
    with pytest.raises(InputError, match="got str"):
        DataCube("scan.h5")
    with pytest.raises(InputError, match=r"\(3, 3, 2\).*\(4, 5, 2\)"):
        DataCube(data, Calibration(origin=np.zeros((3, 3, 2))))


def test_a_loaded_cube_is_the_same(data):
    cube = DataCube(data, Calibration(origin=(3, 3))).crop(qx=(1, 5)).bin(detector=2)
    loaded = cube.load()
    np.testing.assert_array_equal(whole(loaded), whole(cube))
    np.testing.assert_array_equal(loaded.calibration.origin, cube.calibration.origin)
    assert isinstance(loaded.source, ArraySource)


@pytest.mark.parametrize(
    "view", [lambda c: c, lambda c: c.crop(qx=(1, 5)), lambda c: c.bin(detector=2), lambda c: c.swap_axes(detector=True)]
)
def test_views_stay_in_their_library(data, view, need):
    strict = need("array_api_strict")
    cube = DataCube(strict.asarray(data, device=strict.Device("device1")))
    frames = view(cube).source.read(slice(0, 2), slice(0, 2))
    assert arrays.device(frames) == strict.Device("device1")
    np.testing.assert_array_equal(arrays.to_numpy(frames), whole(view(DataCube(data)))[:2, :2])


def test_cubes_of_torch_and_jax(data, need):
    for make in (need("torch").from_numpy, need("jax.numpy").asarray):
        frames = DataCube(make(data)).bin(detector=2).source.read(slice(0, 1), slice(0, 1))
        assert type(frames) is type(make(data))
        np.testing.assert_array_equal(arrays.to_numpy(frames), whole(DataCube(data).bin(detector=2))[:1, :1])


def test_a_cube_acts_as_an_array_where_it_fits_into_memory(data, monkeypatch):
    cube = DataCube(data)
    assert len(cube) == data.shape[0]
    np.testing.assert_array_equal(np.asarray(cube.crop(qx=(1, 5))), data[:, :, 1:5])
    assert np.asarray(cube, dtype="float64").dtype == np.float64
    monkeypatch.setattr("gpu4d.data.datacube.available_memory", lambda: cube.nbytes - 1)
    with pytest.raises(MemoryBudgetError, match="all patterns needs"):
        np.asarray(cube)


def test_a_cube_in_place_of_patterns_keeps_its_mask_or_is_refused(data):
    np.testing.assert_array_equal(gpu4d.center_of_mass(DataCube(data)), gpu4d.center_of_mass(data))
    valid = np.ones(data.shape[2:], bool)
    valid[0, 0] = False
    with pytest.raises(InputError, match="has a detector mask"):
        gpu4d.center_of_mass(DataCube(data, detector_mask=valid))


class Later:
    """A dataset of a file, or an array that is computed later."""

    shape = (1, 1, 2, 2)

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("must not be read")


@pytest.mark.parametrize("given", [Later(), "scan.h5", None, 3.0])
def test_a_cube_of_no_array_says_what_to_do(given):
    with pytest.raises(InputError, match=r"gpu4d\.open"):
        DataCube(given)


def test_a_masked_array_is_no_scan():
    masked = np.ma.masked_array(np.ones((1, 2, 3, 4)), np.zeros((1, 2, 3, 4), bool))
    assert DataCube(masked).shape == (1, 2, 3, 4)
    masked[0, 0, 1, 1] = np.ma.masked
    with pytest.raises(InputError, match="detector_mask="):
        DataCube(masked)
