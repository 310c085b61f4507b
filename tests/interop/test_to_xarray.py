"""Results in xarray: every array with named axes, coordinates in units, attributes that files of netCDF can have."""

import sys

import numpy as np
import pytest

import gpu4d
from gpu4d import Calibration, DataCube, DiffractionSlice, PointListArray, RealSlice
from gpu4d.data import Slice, Storable
from gpu4d.data.calibration import Calibration as CalibrationClass
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.interop.lazy_patterns import Patterns, patterns_of
from gpu4d.testing.example_results import WITH_STRUCTURES, classes, example


def arrays_in(value):
    """Every array of a result, and of results in it."""
    if isinstance(value, Slice):
        return [np.asarray(value)]
    if isinstance(value, DataCube | PointListArray | gpu4d.PointList | CalibrationClass):
        return []
    if isinstance(value, Storable):
        return [a for name, part in value.to_parts().items() if not name.startswith("_") for a in arrays_in(part)]
    if isinstance(value, dict | list | tuple):
        return [a for part in (value.values() if isinstance(value, dict) else value) for a in arrays_in(part)]
    return [value] if isinstance(value, np.ndarray) and value.ndim else []


@pytest.mark.parametrize("name", sorted(classes()))
def test_every_array_of_every_result_is_a_variable(name, need):
    if name in WITH_STRUCTURES:
        need("gemmi")
    need("xarray")
    result = example(name)
    found = result.to_xarray()
    held = [found] if hasattr(found, "values") and not callable(found.values) else [*found.data_vars.values(), *found.coords.values()]
    for array in arrays_in(result):
        equal = [v for v in held if v.dtype == array.dtype and np.array_equal(v, array, equal_nan=array.dtype.kind in "fc")]
        assert equal, f"{name}: {array.shape} {array.dtype} is not among the variables"
    for key, value in found.attrs.items():
        members = value if isinstance(value, list) else [value]
        assert all(isinstance(m, str | int | float) and not isinstance(m, bool) for m in members), f"{key}: {value!r} is nothing for netCDF"


def test_a_slice_has_axes_in_units(need):
    need("xarray")
    strain = RealSlice(np.arange(24.0).reshape(2, 3, 4), "strain", "1", 5.0, "Å", ("e_xx", "e_yy"))
    found = strain.to_xarray()
    assert found.dims == ("plane", "Rx", "Ry") and found.name == "strain" and found.attrs == {"units": "1", "long_name": "strain"}
    assert found.sel(plane="e_yy", Rx=10.0, Ry=15.0).item() == 23.0 and found.Rx.attrs["units"] == "Å"
    pattern = DiffractionSlice(np.eye(3), "mean", "counts", 0.02, "1/Å").to_xarray()
    assert pattern.dims == ("Qx", "Qy") and pattern.sel(Qx=0.02, Qy=0.02, method="nearest").item() == 1.0


def test_numbers_and_parts_have_their_units(need):
    need("xarray")
    rings = gpu4d.rings.RingProfiles(np.arange(3) + 0.5, *(np.ones((4, 5, 3)),) * 3, None, Calibration(q_pixel=0.02, energy=3e5))
    found = rings.to_xarray()
    assert found.sums.dims == ("Rx", "Ry", "radius") and found.radius.attrs["units"] == "px"
    assert found.radius.values.tolist() == [0.5, 1.5, 2.5]
    assert found.attrs["calibration_energy"] == 3e5 and found.attrs["calibration_energy_units"] == "eV" and "median" not in found
    fit = gpu4d.probe.Disk(1.0, 2.0, 3.0, 0.5, 0.1).to_xarray()
    assert fit.attrs["radius"] == 3.0 and fit.attrs["radius_units"] == "px" and fit.attrs["class"] == "gpu4d.probe.Disk"


def test_maps_of_another_pixel_do_not_share_an_axis(need):
    need("xarray")
    phase, com = RealSlice(np.ones((3, 4)), "phase", "rad", 5.0, "Å"), RealSlice(np.ones((2, 6, 8)), "com", "1/Å", 2.5, "Å")
    found = gpu4d.deflection.DPC(phase, com, 0.1, False)
    held = found.to_xarray()
    assert held.phase.dims == ("Rx", "Ry") and held.com.dims == ("plane", "Rx_com", "Ry_com")
    assert held.Rx_com.values.tolist() == [0, 2.5, 5, 7.5, 10, 12.5] and held.attrs["transpose"] == 0


def test_points_know_their_position(need):
    need("xarray")
    disks = PointListArray(np.array([0, 2, 2, 3]), {"qx": np.array([1.0, 2.0, 3.0])}, (1, 3), {"qx": "px"})
    found = disks.to_xarray()
    assert found.ry.values.tolist() == [0, 0, 2] and found["count"].values.tolist() == [[2, 0, 1]] and found.qx.attrs["units"] == "px"


# ---------------------------------------------------------------- scans


class Watched:
    """A scan that notes what is read of it."""

    blocks, resident, description = (2, 3), False, "a test"

    def __init__(self, data):
        self.data, self.shape, self.dtype, self.asked = data, data.shape, data.dtype, []

    def read(self, rows, columns, out=None):
        self.asked.append((rows.start, rows.stop, columns.start, columns.stop))
        return self.data[rows, columns]


@pytest.fixture
def scan():
    return Watched(np.random.default_rng(0).integers(0, 99, (6, 9, 5, 4)).astype("u2"))


def test_patterns_are_read_when_they_are_needed(scan, need, monkeypatch):
    need("xarray"), need("dask.array")
    monkeypatch.setattr("gpu4d.interop.lazy_patterns.CHUNK_BYTES", 6 * 40)
    cube = DataCube(scan, Calibration(r_pixel=2.0, q_pixel=0.05), detector_mask=np.eye(5, 4) == 0)
    found = cube.to_xarray()
    assert not scan.asked, "nothing is read"
    assert found.dims == ("Rx", "Ry", "Qx", "Qy") and found.chunks[:2] == ((2, 2, 2), (3, 3, 3)), "blocks of the file"
    np.testing.assert_array_equal(found.sel(Rx=4.0, Ry=10.0), scan.data[2, 5])
    assert scan.asked == [(2, 3, 5, 6)], "one pattern"
    np.testing.assert_array_equal(found.sum(("Qx", "Qy")), scan.data.sum((2, 3)))
    np.testing.assert_array_equal(found.detector_mask, cube.detector_mask)
    assert found.attrs["q_pixel"] == 0.05 and found.attrs["q_pixel_units"] == "1/Å"


@pytest.mark.parametrize(
    "key",
    [(1, 2), (slice(1, 5), slice(None)), (slice(5, 0, -2), 3), ([4, 1], slice(None)), np.s_[2:4, 1:9:3, 1, ::2], (slice(3, 3),), (-1, -1)],
)
def test_indices_are_those_of_the_array(scan, key):
    found = Patterns(DataCube(scan))[key]
    np.testing.assert_array_equal(found, scan.data[key])


def test_corrected_and_cropped_views_are_what_they_show(need):
    need("dask.array")
    data = np.random.default_rng(0).integers(0, 99, (4, 5, 6, 7)).astype("u2")
    bad = np.zeros((6, 7), bool)
    bad[2, 3] = True
    view = DataCube(data).corrected(bad_pixels=bad).crop(rx=(1, 4), qy=(0, 6)).bin(detector=2)
    np.testing.assert_array_equal(np.asarray(patterns_of(view)), np.asarray(view))


def without(monkeypatch, *names):
    """These libraries cannot be imported."""
    for module in {*names, *(loaded for loaded in sys.modules if loaded.partition(".")[0] in names)}:
        monkeypatch.setitem(sys.modules, module, None)


def test_without_dask_patterns_are_loaded_or_refused(scan, monkeypatch):
    without(monkeypatch, "dask")
    assert isinstance(patterns_of(DataCube(scan)), np.ndarray)
    monkeypatch.setattr("gpu4d.data.datacube.available_memory", lambda: 100)
    with pytest.raises(MemoryBudgetError):
        patterns_of(DataCube(scan))


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    without(monkeypatch, "xarray", "hyperspy")
    bf = RealSlice(np.ones((2, 3)))
    with pytest.raises(InputError, match=r"pip install 'gpu4d\[interop\]'"):
        bf.to_xarray()
    with pytest.raises(InputError, match="pip install hyperspy"):
        bf.to_hyperspy()


def test_what_is_no_result_is_refused(need):
    need("xarray")
    with pytest.raises(InputError, match=r"result is a ndarray: need a result of gpu4d, for an array use gpu4d\.RealSlice"):
        gpu4d.interop.to_xarray(np.ones((2, 3)))
