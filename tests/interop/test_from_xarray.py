"""xarray gives scans and every result back; labelled arrays of others become scans and images."""

import numpy as np
import pytest
from interop_scans import disks, scan

import gpu4d
from gpu4d.data import DataCube, Slice
from gpu4d.errors import InputError
from gpu4d.interop.xarray import from_xarray
from gpu4d.testing.example_results import WITH_STRUCTURES, classes, example
from gpu4d.testing.results import differences


@pytest.fixture
def xarray(need):
    return need("xarray")


@pytest.mark.parametrize("name", sorted(set(classes()) - {"Slice"}))  # the base of slices is no result
def test_every_result_comes_back(xarray, name, need):
    if name in WITH_STRUCTURES:
        need("gemmi")
    result = example(name)
    found = from_xarray(result.to_xarray())
    if isinstance(result, DataCube):
        result, found = result.calibration, found.calibration
    assert differences(found, result) == []


def test_a_scan_and_rectangles_of_it(xarray, need):
    need("dask.array")
    cube = scan()
    labelled = cube.to_xarray()
    assert labelled.chunks is not None
    whole = from_xarray(labelled.transpose("Qx", "Rx", "Qy", "Ry"))
    assert differences(whole.calibration, cube.calibration) == [] and whole.source.description.startswith("Dask array")
    np.testing.assert_array_equal(np.asarray(whole), np.asarray(cube))
    np.testing.assert_array_equal(whole.detector_mask, cube.detector_mask)
    part, ours = from_xarray(labelled[1:, :3, 4:22, 2:]), cube.crop(rx=(1, 3), ry=(0, 3), qx=(4, 22), qy=(2, 20))
    assert differences(part.calibration, ours.calibration) == []
    np.testing.assert_array_equal(np.asarray(part), np.asarray(ours))
    np.testing.assert_array_equal(part.detector_mask, ours.detector_mask)
    thinned = from_xarray(labelled[:, ::2].coarsen(Qx=2, Qy=2).sum()).calibration
    assert thinned.q_pixel == pytest.approx(0.04) and thinned.rotation == 0.3 and thinned.origin is None and thinned.r_pixel is None


def test_axes_that_fall_and_texts_that_are_damaged(xarray, caplog):
    cube = gpu4d.DataCube(
        np.arange(3 * 4 * 6 * 8, dtype="u2").reshape(3, 4, 6, 8), gpu4d.Calibration(q_pixel=0.02, r_pixel=3.0, rotation=0.3)
    )
    labelled = cube.to_xarray()
    for turned in (labelled[::-1], labelled[:, :, :, ::-1]):
        known = from_xarray(turned).calibration
        assert known.rotation is None and known.r_pixel == pytest.approx(3.0) and known.q_pixel == pytest.approx(0.02)
    assert caplog.text.count("its rotation is left out") == 2
    for text in ("{", "[]", '{"calibration": 3}', '{"shape": [3, 4, 6, 8]}'):
        found = from_xarray(labelled.assign_attrs(gpu4d=text))
        assert found.calibration.q_pixel == pytest.approx(0.02) and found.calibration.rotation is None
    assert caplog.text.count("is damaged, and left out") == 4
    half = labelled.drop_attrs().assign_coords(Qx=("Qx", [0.0, 1, 3, 4, 5, 6]), Qy=("Qy", np.arange(8) - 2.0, {"units": "1/nm"}))
    assert from_xarray(half).calibration.origin is None, "uneven coordinates have no place of 0"


def test_metadata_are_changed_apart(xarray):
    theirs = xarray.DataArray(np.ones((1, 2, 3, 4)), attrs={"deep": {"list": [1]}})
    from_xarray(theirs).metadata["xarray"]["deep"]["list"].append(2)
    assert theirs.attrs == {"deep": {"list": [1]}}


def test_a_netcdf_file_gives_results_back(xarray, tmp_path, need):
    need("scipy")
    found = disks(scan())
    labelled = found.to_xarray()
    labelled.to_netcdf(tmp_path / "disks.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "disks.nc", engine="scipy") as file:
        assert differences(from_xarray(file.load()), found) == []


def test_arrays_of_others(xarray):
    data = np.arange(2 * 3 * 6 * 8, dtype="u2").reshape(2, 3, 6, 8)
    coords = {"y": ("y", np.arange(2) * 2.0, {"units": "nm"}), "x": ("x", np.arange(3) * 2.0, {"units": "nm"})}
    coords |= {name: (name, (np.arange(n) - at) * 0.1, {"units": "1/Å"}) for name, n, at in (("ky", 6, 2), ("kx", 8, 5))}
    found = from_xarray(xarray.DataArray(data, coords, ("y", "x", "ky", "kx"), "theirs", {"energy": 2e5}))
    known = found.calibration
    assert (known.r_pixel, known.energy, found.name) == (pytest.approx(20.0), 2e5, "theirs") and known.q_pixel == pytest.approx(0.1)
    np.testing.assert_allclose(known.origin, (2, 5))
    np.testing.assert_array_equal(np.asarray(found), data)
    plain = from_xarray(xarray.DataArray(data))
    assert plain.calibration.known() == {}
    pattern = from_xarray(found.to_xarray()[0, 0])
    assert isinstance(pattern, gpu4d.DiffractionSlice) and pattern.pixel_size == pytest.approx(0.1)


def test_slices_come_back(xarray):
    for made, unit in ((gpu4d.RealSlice, "Å"), (gpu4d.DiffractionSlice, "1/Å")):
        for values, labels in ((np.arange(6.0).reshape(2, 3), ()), (np.arange(12.0).reshape(2, 2, 3), ("a", "b")), (np.ones((1, 3)), ())):
            one: Slice = made(values, "two words", "rad", 0.25, unit, labels)
            assert differences(from_xarray(one.to_xarray()), one) == []
    plain = gpu4d.RealSlice(np.ones((2, 3)), "p")
    assert differences(from_xarray(plain.to_xarray()), plain) == []


def test_what_is_refused(xarray):
    with pytest.raises(InputError, match="does not say which result it is"):
        from_xarray(xarray.Dataset({"a": ("x", np.arange(3))}))
    with pytest.raises(InputError, match=r"lacks parts of a gpu4d.crystal.Strain"):
        from_xarray(example("Strain").to_xarray().drop_vars("exx"))
    with pytest.raises(InputError, match="5 dimensions"):
        from_xarray(xarray.DataArray(np.ones((1, 1, 1, 1, 1))))
    with pytest.raises(InputError, match=r"the object is a numpy.ndarray: need a DataArray or Dataset"):
        from_xarray(np.ones((2, 3)))
