"""Point lists of a scan, and arrays of other byte orders and types."""

import pickle

import numpy as np
import pytest

import gpu4d
from gpu4d import arrays
from gpu4d.data import PointList, PointListArray
from gpu4d.errors import InputError


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


def test_lists_of_numbers_become_points():
    points = PointListArray([0, 2, 3], {"qx": [1.0, 2.0, 5.0], "n": [1, 2, 3]}, (1, 2))
    assert points[0, 1].qx.tolist() == [5.0] and points.counts.tolist() == [[2, 1]]
    counts, padded = points.padded()
    assert counts.tolist() == [2, 1] and padded["n"].dtype == np.float64 and np.isnan(padded["n"][1, 1])
    assert points.padded(fill=0)[1]["n"].tolist() == [[1, 2], [3, 0]]


@pytest.mark.parametrize(
    "offsets", [[0, 3, 2], [1, 2, 3], [0.0, 2.0, 3.0], [[0, 2, 3]], np.array([0, 2**64 - 1, 3], "uint64"), [0, 2], "0"]
)
def test_offsets_begin_at_zero_and_do_not_fall(offsets):
    with pytest.raises(InputError, match="offsets"):
        PointListArray(offsets, {"qx": [1.0, 2.0, 5.0]}, (1, 2))


@pytest.mark.parametrize("values", [["a", "b", "c"], [1j, 2j, 3j], [[1.0], [2.0], [3.0]], np.ma.masked_array([1, 2, 3], [1, 0, 0]), None])
def test_fields_are_one_real_number_for_each_point(values):
    with pytest.raises(InputError, match="field 'qx'"):
        PointListArray([0, 2, 3], {"qx": values}, (1, 2))
