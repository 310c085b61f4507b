"""Calibration, slices, point lists and the lazy views of a cube, against NumPy."""

import pickle

import numpy as np
import pytest

import gpu4d
from gpu4d import arrays
from gpu4d.data import ArraySource, Calibration, DataCube, DiffractionSlice, PointList, PointListArray, RealSlice, Source
from gpu4d.errors import InputError

SHAPE = (4, 5, 6, 7)


@pytest.fixture
def data():
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype("uint8")


def whole(cube):
    """All frames of a cube, as its source gives them."""
    return arrays.to_numpy(cube.source.read(slice(0, cube.shape[0]), slice(0, cube.shape[1])))


# ---------------------------------------------------------------- calibration


def test_every_change_is_written_down():
    c = Calibration(q_pixel=0.02)
    c.set(energy=200e3, semiangle=3, how="log book")
    c.rotation = 0.1
    assert [(m.field, m.value, m.how) for m in c.history] == [
        ("q_pixel", 0.02, "given"),
        ("energy", 200e3, "log book"),
        ("semiangle", 3.0, "log book"),
        ("rotation", 0.1, "set"),
    ]
    assert c.known() == {"q_pixel": 0.02, "energy": 200e3, "semiangle": 3.0, "rotation": 0.1}
    assert c.r_pixel is None
    assert c.wavelength == pytest.approx(0.025079, abs=1e-6)


def test_a_copy_is_another_calibration():
    a = Calibration(q_pixel=0.02)
    b = a.copy()
    b.set(q_pixel=0.03, how="refined")
    assert a.q_pixel == 0.02 and len(a.history) == 1
    assert pickle.loads(pickle.dumps(b)).q_pixel == 0.03


@pytest.mark.parametrize("field", ["q_pixel", "r_pixel", "energy", "semiangle", "probe_radius"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_sizes_must_be_positive(field, value):
    with pytest.raises(InputError, match=f"{field} is .* positive"):
        Calibration(**{field: value})


def test_what_calibration_refuses():
    with pytest.raises(InputError, match="no field 'camera_length'"):
        Calibration(camera_length=100)
    with pytest.raises(AttributeError, match="no field 'qpixel'"):
        Calibration().qpixel  # noqa: B018
    with pytest.raises(InputError, match="a ≥ b > 0"):
        Calibration(ellipse=(1.0, 1.1, 0.0))
    with pytest.raises(InputError, match=r"origin is \(3,\)"):
        Calibration(origin=(1, 2, 3))
    with pytest.raises(InputError, match=r"set calibration\.energy"):
        Calibration().wavelength  # noqa: B018


def test_a_misspelt_field_is_refused_on_setting():
    with pytest.raises((AttributeError, InputError), match="qpixel"):
        Calibration().qpixel = 0.02


def test_pixel_size_follows_from_the_disk():
    c = Calibration(energy=200e3, semiangle=3.0, probe_radius=6.0)
    c.complete()
    assert c.q_pixel == pytest.approx(3e-3 / 0.025079 / 6, rel=1e-4)
    assert "semi-angle" in c.history[-1].how
    given = Calibration(energy=200e3, semiangle=3.0, probe_radius=6.0, q_pixel=0.5)
    given.complete()
    assert given.q_pixel == 0.5


def test_the_disk_follows_from_the_pixel_size():
    c = Calibration(energy=200e3, semiangle=3.0, q_pixel=0.02)
    c.complete()
    assert c.probe_radius == pytest.approx(3e-3 / 0.025079 / 0.02, rel=1e-4)


def test_origin_by_position():
    positions = np.asarray([[0, 1], [1, 0]])
    assert Calibration().origin_at(positions) is None and Calibration().origin_mean is None
    np.testing.assert_array_equal(Calibration(origin=(3, 4)).origin_at(positions), [[3, 4], [3, 4]])
    field = np.arange(8.0).reshape(2, 2, 2)
    field[1, 1] = np.nan
    c = Calibration(origin=field)
    np.testing.assert_array_equal(c.origin_at(positions), [[2, 3], [4, 5]])
    np.testing.assert_array_equal(c.origin_mean, [2, 3])


# ---------------------------------------------------------------- cube and its views


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
    with pytest.raises(InputError, match="list"):
        DataCube([[1, 2]])
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


# ---------------------------------------------------------------- slices


def test_a_slice_is_an_array_with_a_name():
    a = np.arange(6.0).reshape(2, 3)
    s = RealSlice(a, "bf", "counts", 5.0, "Å")
    assert (s.shape, s.dtype, s.ndim, len(s), s.name, s.units, s.pixel_size, s.pixel_units) == (
        (2, 3),
        a.dtype,
        2,
        2,
        "bf",
        "counts",
        5.0,
        "Å",
    )
    assert np.shares_memory(np.asarray(s), a)
    np.testing.assert_array_equal(np.array(s, dtype="float32"), a.astype("float32"))
    assert not np.shares_memory(np.array(s, copy=True), a)
    assert "'bf'" in repr(s) and "2×3" in repr(s) and "5 Å" in repr(s)


@pytest.mark.parametrize(
    "expression", [lambda s: s + 1, lambda s: 2 * s - s, lambda s: -s, lambda s: np.sqrt(s), lambda s: s / s.shape[0], lambda s: s > 2]
)
def test_arithmetic_gives_plain_arrays(expression):
    a = np.arange(6.0).reshape(2, 3)
    out = expression(RealSlice(a))
    assert type(out) is np.ndarray
    np.testing.assert_array_equal(out, expression(a))


def test_reductions_and_in_place_results():
    a = np.arange(6.0).reshape(2, 3)
    s = RealSlice(a)
    assert np.add.reduce(s, axis=None) == 15 and np.mean(s) == 2.5 and np.max(s) == 5
    out = RealSlice(np.zeros((2, 3)))
    np.add(s, 1, out=out)
    np.testing.assert_array_equal(out, a + 1)
    np.testing.assert_array_equal(np.add(s, s, where=s > 2, out=np.zeros((2, 3))), np.where(a > 2, 2 * a, 0))


def test_planes_by_label():
    s = RealSlice(np.arange(8.0).reshape(2, 2, 2), labels=("com_x", "com_y"))
    np.testing.assert_array_equal(s["com_y"], s.data[1])
    np.testing.assert_array_equal(s[0], s.data[0])
    with pytest.raises(InputError, match=r"com_z.*com_x, com_y"):
        s["com_z"]


def test_slices_of_other_libraries_stay_there(need):
    strict = need("array_api_strict")
    s = DiffractionSlice(strict.asarray([[1.0, 2.0]], device=strict.Device("device1")))
    assert arrays.device(s.data) == strict.Device("device1")
    np.testing.assert_array_equal(np.asarray(s), [[1, 2]])


# ---------------------------------------------------------------- point lists


def points(make=np.asarray):
    """Positions (2, 2) with 2, 0, 3 and 1 points."""
    return PointListArray(
        make(np.asarray([0, 2, 2, 5, 6], dtype=np.int64)),
        {"qx": make(np.arange(6.0)), "intensity": make(np.asarray([9.0, 8, 7, 6, 5, 4]))},
        (2, 2),
        {"qx": "px"},
    )


def test_point_lists_by_position():
    p = points()
    assert (len(p), p.fields, p.units, p.counts.tolist()) == (6, ("qx", "intensity"), {"qx": "px"}, [[2, 0], [3, 1]])
    assert p.positions.tolist() == [0, 0, 2, 2, 2, 3]
    assert p[1, 0].qx.tolist() == p[-1, -2]["qx"].tolist() == [2, 3, 4]
    assert len(p[0, 1]) == 0 and [len(one) for one in p] == [2, 0, 3, 1]
    assert p.flat("intensity").tolist() == [9, 8, 7, 6, 5, 4]
    with pytest.raises(IndexError, match="outside"):
        p[2, 0]
    for wrong in (0, (0,), (0, 0, 0), (0, 0.5), (slice(1), 0)):
        with pytest.raises(InputError, match="whole numbers"):
            p[wrong]
    with pytest.raises(InputError, match="qx, intensity"):
        p.flat("qz")
    with pytest.raises(AttributeError, match="qx, intensity"):
        p[0, 0].qz  # noqa: B018


def test_what_point_lists_refuse():
    with pytest.raises(InputError, match="3 offsets"):
        PointListArray(np.asarray([0, 1, 2]), {"qx": np.zeros(2)}, (2, 2))
    with pytest.raises(InputError, match="3 values"):
        PointListArray(np.asarray([0, 1, 2]), {"qx": np.zeros(3)}, (1, 2))
    with pytest.raises(InputError, match="different length"):
        PointList({"qx": np.zeros(2), "qy": np.zeros(3)})


LIBRARIES = {
    "numpy": ("numpy", lambda xp: xp.asarray),
    "strict": ("array_api_strict", lambda xp: xp.asarray),
    "strict-device1": ("array_api_strict", lambda xp: lambda a: xp.asarray(a, device=xp.Device("device1"))),
    "torch": ("torch", lambda xp: xp.asarray),
    "jax": ("jax.numpy", lambda xp: xp.asarray),
}


@pytest.fixture(params=LIBRARIES, ids=str)
def make(request, need):
    module, maker = LIBRARIES[request.param]
    return maker(need(module))


def same(result, expected, like):
    assert type(result) is type(like) and str(arrays.device(result)) == str(arrays.device(like))
    np.testing.assert_array_equal(arrays.to_numpy(result), expected)


def test_padded_and_back(make):
    p = points(make)
    counts, fields = p.padded()
    nan = np.nan
    same(counts, [2, 0, 3, 1], p.offsets)
    same(fields["qx"], [[0, 1, nan], [nan] * 3, [2, 3, 4], [5, nan, nan]], p.offsets)
    back = PointListArray.from_padded(counts, fields, (2, 2), p.units)
    same(back.offsets, arrays.to_numpy(p.offsets), p.offsets)
    for field in p.fields:
        same(back.flat(field), arrays.to_numpy(p.flat(field)), p.offsets)


def test_only_some_points(make):
    p = points(make)
    kept = p.where(p.flat("qx") > 2.5)
    same(kept.offsets, [0, 0, 0, 2, 3], p.offsets)
    same(kept.flat("intensity"), [6, 5, 4], p.offsets)
    same(kept.counts, [[0, 0], [2, 1]], p.offsets)
    same(p.positions, [0, 0, 2, 2, 2, 3], p.offsets)
    none = p.where(p.flat("qx") < 0)
    assert len(none) == 0
    same(none.counts, np.zeros((2, 2)), p.offsets)
    _, fields = none.padded()
    assert tuple(fields["qx"].shape) == (4, 0)


def test_no_positions_at_all(make):
    p = PointListArray(make(np.zeros(1, dtype=np.int64)), {"qx": make(np.zeros(0))}, (0, 3))
    assert len(p) == 0 and tuple(p.counts.shape) == (0, 3) and list(p) == []
    counts, fields = p.padded()
    assert tuple(counts.shape) == (0,) and tuple(fields["qx"].shape) == (0, 0)
    assert len(p.where(p.flat("qx") > 0)) == 0


def test_more_fields_share_the_lists(make):
    p = points(make)
    more = p.with_fields({"sx": p.flat("qx") * 2.0}, {"sx": "px"})
    assert more.fields == ("qx", "intensity", "sx") and more.units == {"qx": "px", "sx": "px"}
    assert more.offsets is p.offsets and p.fields == ("qx", "intensity")


def test_point_lists_can_be_pickled_and_copied():
    import copy

    p = pickle.loads(pickle.dumps(points()))
    assert p.counts.tolist() == [[2, 0], [3, 1]]
    one = pickle.loads(pickle.dumps(p[1, 0]))
    assert one.qx.tolist() == [2, 3, 4]
    assert copy.deepcopy(p[0, 0]).qx.tolist() == [0, 1]


def some_reductions():
    return {
        "mean": gpu4d.MeanPattern(),
        "max": gpu4d.MaxPattern(),
        "com": gpu4d.CenterOfMass(),
        "image": gpu4d.VirtualImage(np.eye(12, 13)),
    }


@pytest.mark.parametrize("kind", [">u2", ">f4", ">i4", "<u2"])
def test_the_byte_order_of_another_machine(kind):
    data = np.random.default_rng(0).poisson(5, (6, 5, 12, 13)).astype(kind)
    data.flags.writeable = False
    want = gpu4d.sweep(gpu4d.DataCube(data.astype(data.dtype.newbyteorder("="))), some_reductions())
    got = gpu4d.sweep(gpu4d.DataCube(data), some_reductions())
    for name in want:
        np.testing.assert_array_equal(np.asarray(got[name]), np.asarray(want[name]), err_msg=name)
    np.testing.assert_array_equal(gpu4d.center_of_mass(data), gpu4d.center_of_mass(data.astype(np.float64)))


@pytest.mark.parametrize("kind", ["complex64", "object", "datetime64[s]", "longdouble", "S3"])
def test_arrays_of_no_counts_are_refused(kind):
    with pytest.raises(InputError, match="need bool, integers, or floats"):
        gpu4d.DataCube(np.zeros((2, 2, 4, 4)).astype(kind))


class Careless:
    """A reduction that writes into its frames."""

    bytes_needed = lambda self, scan, n_frames: 0  # noqa: E731
    passes = lambda self, scan, budget: 1  # noqa: E731
    start = lambda self, scan, device, pass_=0: None  # noqa: E731
    state = finish = lambda self: {}
    restore = merge = lambda self, state: None

    def update(self, frames, positions):
        frames[...] = 0


@pytest.mark.parametrize("kind", ["uint16", ">u2"])  # used where they lie; read into a ring
def test_nobody_writes_into_frames(kind):
    data = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(kind)
    kept = data.copy()
    with pytest.raises(ValueError, match="read-only"):
        gpu4d.sweep(gpu4d.DataCube(data), Careless())
    np.testing.assert_array_equal(data, kept)
