"""EMD files: what py4DSTEM and others wrote is read with the right axes and units; what we write is read back."""

import datetime
import math
import os

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d import Calibration, DataCube, DiffractionSlice, PointListArray, RealSlice
from gpu4d.data.pointlist import PointList
from gpu4d.errors import InputError
from gpu4d.io import load_image, load_images, read_emd, save
from gpu4d.io.units import detector_pixel, parse, scan_step


@pytest.fixture
def generator():
    return np.random.default_rng(3)


def disks(generator, shape=(3, 4), units=None):
    counts = generator.integers(0, 4, int(np.prod(shape)))
    counts[:2] = 0, 3
    offsets = np.concatenate([[0], np.cumsum(counts)])
    fields = {name: generator.uniform(0, 15, offsets[-1]) for name in ("intensity", "qx", "qy", "sx", "sy")}
    return PointListArray(offsets, fields, shape, units)


# ---------------------------------------------------------------- written by others


def test_cube_written_by_py4dstem(shared_data):
    path = shared_data / "py4dstem_0.14.18_written_emd1.h5"
    cube = gpu4d.open(path)
    assert cube.shape == (3, 4, 16, 16) and cube.dtype == np.uint16 and cube.name == "datacube"
    with h5py.File(path) as file:
        np.testing.assert_array_equal(cube[2, 3].data, file["datacube_root/datacube/data"][2, 3])
    c = cube.calibration
    assert (c.q_pixel, c.r_pixel, c.rotation, c.transpose) == (0.05, 2.0, 0.1, False)
    assert c.origin.shape == (3, 4, 2)
    np.testing.assert_allclose(c.origin_mean, (8.0, 7.5))
    assert c.energy is None and c.probe_radius is None


def test_items_written_by_py4dstem(shared_data):
    path = shared_data / "py4dstem_0.14.18_written_emd1.h5"
    items = read_emd(path)
    assert isinstance(items["datacube"], DataCube) and isinstance(items["calibration"], Calibration)
    adf, mean, probe, bragg = (items[f"datacube/{name}"] for name in ("adf", "dp_mean", "probe", "braggvectors"))
    assert isinstance(adf, RealSlice) and adf.shape == (3, 4) and (adf.pixel_size, adf.pixel_units) == (2.0, "Å")
    assert isinstance(mean, DiffractionSlice) and mean.shape == (16, 16) and (mean.pixel_size, mean.pixel_units) == (0.05, "1/Å")
    frames = items["datacube"].load().source.array.astype(float)
    np.testing.assert_allclose(mean, frames.mean((0, 1)))
    # annulus 2 < r < 6 around (8, 8), the definition the file records: first detector axis first
    r2 = (np.arange(16)[:, None] - 8) ** 2 + (np.arange(16) - 8) ** 2
    np.testing.assert_allclose(adf, (frames * ((r2 > 4) & (r2 < 36))).sum((2, 3)))
    assert probe.labels == ("probe", "kernel") and probe["kernel"].shape == (16, 16)
    assert bragg.shape == (3, 4) and bragg.fields == ("qx", "qy", "intensity")
    with h5py.File(path) as file:
        raw = file["datacube_root/datacube/braggvectors/_v_uncal/data"][2, 1]
    np.testing.assert_array_equal(bragg[2, 1].qx, raw["qx"])
    np.testing.assert_array_equal(bragg[2, 1].qy, raw["qy"])
    # the stored heights are those of the correlation with the stored template, at (qx, qy) and not at (qy, qx)
    with h5py.File(path) as file:
        template = file["datacube_root/datacube/braggvectors/metadatabundle/gen_params/template"][()]
    heights = np.fft.ifft2(np.fft.fft2(frames) * np.conj(np.fft.fft2(template))).real
    smooth = np.fft.ifft2(np.fft.fft2(heights) * np.exp(-2 * (np.pi * 2 * np.fft.fftfreq(16)[:, None]) ** 2)).real
    smooth = np.fft.ifft2(np.fft.fft2(smooth) * np.exp(-2 * (np.pi * 2 * np.fft.fftfreq(16)) ** 2)).real
    rx, ry = np.unravel_index(bragg.positions, bragg.shape)
    x, y = np.rint(bragg.flat("qx")).astype(int), np.rint(bragg.flat("qy")).astype(int)
    right, swapped = (np.corrcoef(bragg.flat("intensity"), values)[0, 1] for values in (smooth[rx, ry, x, y], smooth[rx, ry, y, x]))
    assert right > 0.9 and swapped < 0.5


def test_axis_order_of_the_reference_file(shared_data):
    cube = gpu4d.open(shared_data / "vendor" / "emd" / "py4DSTEM_size2x3x4x5.h5")
    assert cube.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(cube.calibration.r_pixel, 1.26796875)  # 0.1268 nm
    np.testing.assert_allclose(cube.calibration.q_pixel, 0.044251566616087125)
    assert cube.calibration.transpose is None, "a flip of False beside no rotation is nobody's measurement"


def test_emd_with_several_cubes(shared_data):
    path = shared_data / "vendor" / "emd" / "Si100_4D.emd"
    with pytest.raises(InputError, match=r"2 datasets could be the scan: .*depth0000/datacube 11×11×8×8 float32; .*--dataset /"):
        gpu4d.open(path)
    group = "/4DSTEM_simulation/data/datacubes/CBED_array_depth0001"
    cube = gpu4d.open(path, dataset=group)
    assert cube.shape == (11, 11, 8, 8) and cube.name == "CBED_array_depth0001"
    with h5py.File(path) as file:
        step = file[f"{group}/dim1"][1] - file[f"{group}/dim1"][0]
        np.testing.assert_array_equal(cube[3, 7].data, file[f"{group}/datacube"][3, 7])
    np.testing.assert_allclose(cube.calibration.r_pixel, step, rtol=1e-4)  # Å: Prismatic labels them as nm (see test_simulated.py)


def test_no_attribute_of_the_shared_files_is_taken_for_calibration(shared_data):
    cube = gpu4d.open(shared_data / "au_nbed_strain.h5", dataset="poisson_1e5")
    assert cube.calibration.known() == {}
    assert "energy_eV" in cube.metadata["attributes"]["/"], "passed on, not interpreted"


# ---------------------------------------------------------------- units and axes


@pytest.mark.parametrize(
    "units, kind, factor",
    [("A", "length", 1), ("Å", "length", 1), ("Angstrom", "length", 1), ("nm", "length", 10), ("[n_m]", "length", 10),
     ("pm", "length", 0.01), ("µm", "length", 1e4), ("A^-1", "frequency", 1), ("1/Å", "frequency", 1), ("Å⁻¹", "frequency", 1),
     ("nm^-1", "frequency", 0.1),
     ("1/nm", "frequency", 0.1), ("[n_m^-1]", "frequency", 0.1), ("mrad", "angle", 1), ("rad", "angle", 1e3)],
)  # fmt: skip
def test_units(units, kind, factor):
    assert parse(units)[0] == kind and parse(units)[1] == pytest.approx(factor)


def test_unknown_units_are_no_calibration(caplog):
    assert parse("pixels") is None and parse("") is None and parse("counts") is None
    assert scan_step(1, "pixels") is None and scan_step(1, "A^-1") is None and detector_pixel(1, "A", None) is None
    assert detector_pixel(0.5, "mrad", None) is None and "beam energy" in caplog.text
    assert detector_pixel(0.5, "mrad", 200e3) == pytest.approx(0.5e-3 / 0.0250793, rel=1e-5)  # α / λ(200 kV)


def write_emd(path, calibration=None, dims=None, shape=(3, 4, 6, 6)):
    with h5py.File(path, "w") as file:
        file.attrs["emd_group_type"] = "file"
        root = file.create_group("root")
        root.attrs["emd_group_type"] = "root"
        cube = root.create_group("scan")
        cube.attrs["emd_group_type"], cube.attrs["python_class"] = "array", "DataCube"
        cube["data"] = np.arange(np.prod(shape), dtype="u2").reshape(shape)
        for n, (step, units) in enumerate(dims or ()):
            dim = cube.create_dataset(f"dim{n}", data=[0.0, step])
            dim.attrs["name"], dim.attrs["units"] = f"dim{n}", units
        if calibration is not None:
            group = root.create_group("metadatabundle/calibration")
            for key, value in calibration.items():
                group[key] = b"_None" if value is None else value.encode() if isinstance(value, str) else value


def test_calibration_keys_and_axes_fill_each_other_in(tmp_path):
    keys = {"Q_pixel_size": 1, "Q_pixel_units": "pixels", "R_pixel_size": 0.4, "R_pixel_units": "nm", "QR_rotation_degrees": 30.0,
            "QR_flip": True, "qx0_mean": 2.5, "qy0_mean": 3.0, "probe_semiangle": 1.7,
            "a": 1.0, "b": 1.1, "theta": 0.2, "QR_rotation": None}  # fmt: skip
    write_emd(tmp_path / "a.h5", keys, [(9, "A"), (9, "A"), (0.3, "nm^-1"), (0.3, "nm^-1")])
    c = gpu4d.open(tmp_path / "a.h5").calibration
    assert c.r_pixel == pytest.approx(4.0), "the calibration's, not the axis vectors'"
    assert c.q_pixel == pytest.approx(0.03)
    assert c.rotation == pytest.approx(np.pi / 6) and c.transpose is True
    np.testing.assert_allclose(c.origin, (2.5, 3.0))
    assert c.probe_radius == 1.7
    np.testing.assert_allclose(c.ellipse, (1.1, 1.0, 0.2 + np.pi / 2))


def test_axes_in_mrad_need_an_energy(tmp_path):
    write_emd(tmp_path / "a.h5", dims=[(1, "pixels"), (1, "pixels"), (0.5, "mrad"), (0.5, "mrad")])
    assert gpu4d.open(tmp_path / "a.h5").calibration.known() == {}
    c = gpu4d.open(tmp_path / "a.h5", calibration=Calibration(energy=200e3, r_pixel=3.0)).calibration
    assert c.q_pixel == pytest.approx(0.5e-3 / 0.0250793, rel=1e-5) and c.r_pixel == 3.0


def test_origin_of_another_scan_is_averaged(tmp_path, caplog):
    write_emd(tmp_path / "a.h5", {"qx0": np.arange(4.0).reshape(2, 2), "qy0": np.ones((2, 2))})
    np.testing.assert_allclose(gpu4d.open(tmp_path / "a.h5").calibration.origin, (1.5, 1.0))
    assert "the mean is used" in caplog.text


def test_axes_of_different_steps_stay_open(tmp_path, caplog):
    write_emd(tmp_path / "a.h5", dims=[(2, "A"), (3, "A"), (0.1, "A^-1"), (0.1, "A^-1")])
    c = gpu4d.open(tmp_path / "a.h5").calibration
    assert c.r_pixel is None and c.q_pixel == pytest.approx(0.1)
    assert "different steps" in caplog.text


def test_hdf5_dimension_scales(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("scan", data=np.zeros((3, 4, 6, 6), "u2"))
        for n, (name, step, units) in enumerate((("x", 0.2, "nm"), ("y", 0.2, "nm"), ("kx", 0.01, "1/Å"), ("ky", 0.01, "1/Å"))):
            file[name] = np.arange(data.shape[n]) * step
            file[name].attrs["units"] = units
            file[name].make_scale(name)
            data.dims[n].attach_scale(file[name])
    c = gpu4d.open(tmp_path / "a.h5").calibration
    assert c.r_pixel == pytest.approx(2.0) and c.q_pixel == pytest.approx(0.01)


# ---------------------------------------------------------------- written by us, read by us


def calibration(shape=(3, 4)):
    generator = np.random.default_rng(1)
    c = Calibration()
    c.set(q_pixel=0.02, r_pixel=15.0, energy=200e3, semiangle=3.0, how="microscope")
    c.set(probe_radius=6.25, rotation=-0.4, transpose=True, ellipse=(1.05, 1.0, 0.3), how="fit")
    c.set(origin=7 + generator.normal(size=(*shape, 2)), origin_measured=7 + generator.normal(size=(*shape, 2)), how="plane")
    return c


def test_everything_comes_back(tmp_path, generator):
    c = calibration()
    frames = generator.integers(0, 99, (3, 4, 15, 16)).astype("u2")
    mask = np.ones((15, 16), bool)
    mask[3, 4] = False
    points = disks(generator, units={"qx": "px"})
    items = {
        "scan": DataCube(frames, c, detector_mask=mask),
        "bf": RealSlice(generator.normal(size=(3, 4)), "bf", "counts", 15.0, "Å"),
        "strain": RealSlice(generator.normal(size=(3, 3, 4)), "strain", "1", 15.0, "Å", ("e_xx", "e_yy", "mask")),
        "mean_pattern": DiffractionSlice(generator.normal(size=(15, 16)).astype("f4"), "mean", "counts", 0.02, "1/Å"),
        "raw_map": DiffractionSlice(generator.normal(size=(15, 16)), "map"),
        "ssb": RealSlice(np.exp(1j * generator.normal(size=(3, 4))), "ssb", "1", 15.0, "Å"),
        "valid": RealSlice(generator.uniform(size=(3, 4)) > 0.5),
        "braggvectors": points,
        "atoms": PointList({"x": np.arange(3.0), "y": np.arange(3)}),
        "curve": np.arange(5.0),
        "decision": {
            "mode": "Bragg disks",
            "because": ["disks", "many"],
            "n": 3,
            "ok": True,
            "none": None,
            "deep": {"pair": (1, 2), "x": np.eye(2)},
        },
    }
    settings = {
        "sweep": {"memory": "512 MB", "where": None, "rows": [[1, 2], [3, 4]], "odd": [[1], [2, "x"]], "empty": []},
        "stages": [{"name": "disks", "power": 0.85}],
    }
    save(tmp_path / "r.h5", items, settings=settings, log=["opened", "swept"])
    back = read_emd(tmp_path / "r.h5")

    np.testing.assert_array_equal(back["scan"].load().source.array, frames)
    np.testing.assert_array_equal(back["scan"].detector_mask, mask)
    for name in ("bf", "strain", "mean_pattern", "ssb", "valid"):
        ours, got = items[name], back[name]
        assert type(got) is type(ours) and got.dtype == ours.dtype
        np.testing.assert_array_equal(got, ours)
        assert got.labels == ours.labels
    assert (back["bf"].units, back["bf"].pixel_units) == ("counts", "Å") and back["bf"].pixel_size == pytest.approx(15.0)
    assert back["strain"].pixel_size == pytest.approx(15.0) and back["mean_pattern"].pixel_units == "1/Å"
    got = back["braggvectors"]
    assert got.fields == points.fields and got.units == {"qx": "px"}
    np.testing.assert_array_equal(got.offsets, points.offsets)
    for field in got.fields:
        np.testing.assert_array_equal(got.flat(field), points.flat(field))
    np.testing.assert_array_equal(back["atoms"].y, [0, 1, 2])
    np.testing.assert_array_equal(back["curve"], np.arange(5.0))
    assert back["decision"]["because"] == ["disks", "many"] and back["decision"]["none"] is None and back["decision"]["ok"] is True
    assert back["decision"]["deep"]["pair"] == (1, 2)
    np.testing.assert_array_equal(back["decision"]["deep"]["x"], np.eye(2))
    sweep = back["settings"]["sweep"]
    assert sweep["memory"] == "512 MB" and sweep["where"] is None and sweep["empty"] == []
    np.testing.assert_array_equal(sweep["rows"], [[1, 2], [3, 4]])
    assert sweep["odd"] == ["[1]", "[2, 'x']"], "what EMD has no type for becomes text"
    assert back["settings"]["stages"]["0"] == {"name": "disks", "power": 0.85}
    assert back["log"]["lines"] == ["opened", "swept"] and back["versions"]["gpu4d"] == gpu4d.__version__

    for other in (back["calibration"], gpu4d.open(tmp_path / "r.h5").calibration):
        assert set(other.known()) == set(c.known())
        for field, value in c.known().items():
            np.testing.assert_allclose(getattr(other, field), value)
        assert [(m.field, m.how, m.when) for m in other.history] == [(m.field, m.how, m.when) for m in c.history]
        datetime.datetime.fromisoformat(other.history[0].when)


def test_keys_that_py4dstem_looks_for(tmp_path):
    c = calibration()
    save(tmp_path / "r.h5", {"calibration": c})
    with h5py.File(tmp_path / "r.h5") as file:
        assert file.attrs["emd_group_type"] == "file" and (file.attrs["version_major"], file.attrs["version_minor"]) == (1, 0)
        assert len(file.attrs["UUID"]) == 36
        held = file["gpu4d/metadatabundle/calibration"]
        assert held.attrs["python_class"] == "Calibration"
        assert held["Q_pixel_units"][()] == b"A^-1" and held["R_pixel_units"][()] == b"A" and held["R_pixel_size"][()] == 15.0
        assert held["probe_semiangle"][()] == 6.25 and held["QR_flip"][()] == np.True_
        np.testing.assert_allclose(held["qx0_mean"][()], c.origin[..., 0].mean())
        np.testing.assert_allclose(held["qy0_shift"][()] + held["qy0_mean"][()], c.origin[..., 1])
        assert all("type" in held[key].attrs for key in held)
    save(tmp_path / "none.h5", {"calibration": Calibration()})
    with h5py.File(tmp_path / "none.h5") as file:
        held = file["gpu4d/metadatabundle/calibration"]
        assert held["energy"][()] == b"_None" and held["Q_pixel_units"][()] == b"pixels" and "qx0" not in held
    assert read_emd(tmp_path / "none.h5")["calibration"].known() == {}


def test_single_origin_and_lists_without_points(tmp_path):
    empty = PointListArray(np.zeros(7, int), {n: np.empty(0) for n in ("qx", "qy", "intensity")}, (2, 3))
    save(tmp_path / "r.h5", {"calibration": Calibration(origin=(3.0, 4.5)), "braggvectors": empty})
    back = read_emd(tmp_path / "r.h5")
    np.testing.assert_allclose(back["calibration"].origin, (3.0, 4.5))
    assert back["braggvectors"].shape == (2, 3) and len(back["braggvectors"]) == 0


@pytest.mark.parametrize("shape", [(9, 11), (1, 1), (3, 1), (1, 4), (5,)])
@pytest.mark.parametrize("each", [1, 2])
def test_lists_of_one_length(tmp_path, generator, shape, each):
    """Lists of one disk each are no array of disks."""
    positions = math.prod(shape)
    fields = {n: generator.random(positions * each) for n in ("qx", "qy", "intensity")}
    save(tmp_path / "r.h5", {"braggvectors": PointListArray(np.arange(positions + 1) * each, fields, shape)})
    back = read_emd(tmp_path / "r.h5")["braggvectors"]
    assert back.shape == shape and (back.offsets == np.arange(positions + 1) * each).all()
    for name, values in fields.items():
        np.testing.assert_array_equal(back.flat(name), values)


def test_the_raw_scan_of_a_view_keeps_its_own_calibration(tmp_path, generator):
    """Results of a binned scan, beside a link to the scan as it is: neither takes the other's pixels."""
    np.save(tmp_path / "a.npy", generator.integers(0, 9, (3, 4, 16, 16)).astype("u2"))
    raw = gpu4d.open(tmp_path / "a.npy", calibration=Calibration(q_pixel=0.01, origin=(7.5, 7.5)))
    binned = raw.bin(detector=2)
    mean = DiffractionSlice(np.ones((8, 8)))
    save(tmp_path / "r.h5", {"raw": raw, "mean": mean, "disks": disks(generator), "calibration": binned.calibration})
    save(tmp_path / "unknown.h5", {"raw": DataCube(raw.source), "calibration": binned.calibration})
    back = read_emd(tmp_path / "r.h5")
    assert back["calibration"].q_pixel == 0.02 and back["raw"].calibration.q_pixel == 0.01
    np.testing.assert_allclose(back["raw"].calibration.origin, (7.5, 7.5))
    assert gpu4d.open(tmp_path / "unknown.h5").calibration.known() == {}
    with h5py.File(tmp_path / "r.h5") as file:
        np.testing.assert_array_equal(file["gpu4d/disks/metadatabundle/_braggvectors_shape/Qshape"], (8, 8))


def test_what_a_result_says_of_itself_is_stored(tmp_path):
    class Strain:
        def to_emd(self):
            return {"": RealSlice(np.zeros((2, 3, 4)), labels=("e_xx", "e_yy")), "uncertainty": RealSlice(np.ones((3, 4)))}

    save(tmp_path / "r.h5", {"strain": Strain(), "nothing": None})
    back = read_emd(tmp_path / "r.h5")
    assert back["strain"].labels == ("e_xx", "e_yy") and back["strain_uncertainty"][0, 0] == 1 and "nothing" not in back


# ---------------------------------------------------------------- the raw file: linked or copied

LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (2, 2, 6, 8), "compression": "gzip"},
    "library": {"chunks": (2, 2, 6, 8), "compression": "lzf"},
}


@pytest.mark.parametrize("layout", [*LAYOUTS, "frames", "npy", "big-endian npy"])
def test_a_scan_in_a_file_is_linked(tmp_path, generator, layout):
    data = generator.integers(0, 60000, (3, 4, 6, 8)).astype(">u2" if layout == "big-endian npy" else "u2")
    (tmp_path / "raw").mkdir()
    raw = tmp_path / "raw" / ("scan.npy" if "npy" in layout else "scan.h5")
    if "npy" in layout:
        np.save(raw, data)
    else:
        with h5py.File(raw, "w") as file:
            file.create_dataset("a/scan", data=data.reshape(12, 6, 8) if layout == "frames" else data, **LAYOUTS.get(layout, {}))
    before = raw.read_bytes()
    cube = gpu4d.open(raw, scan_shape=(3, 4) if layout == "frames" else None, calibration=calibration())
    os.makedirs(tmp_path / "out")
    save(tmp_path / "out" / "r.h5", {"cube": cube})
    assert raw.read_bytes() == before
    assert os.path.getsize(tmp_path / "out" / "r.h5") < 60_000
    back = gpu4d.open(tmp_path / "out" / "r.h5")
    np.testing.assert_array_equal(back.load().source.array, data)
    assert back.calibration.energy == 200e3
    if layout not in ("frames",):
        assert type(back.source) is type(cube.source), "read as directly as from the raw file"
    with h5py.File(tmp_path / "out" / "r.h5") as file:
        np.testing.assert_array_equal(file["gpu4d/cube/data"][()], data)  # what any HDF5 reader sees
        assert file["gpu4d/cube/metadatabundle/raw/file"][()].decode() == str(raw)
    save(tmp_path / "again.h5", {"cube": back})
    np.testing.assert_array_equal(gpu4d.open(tmp_path / "again.h5")[2, 3].data, data[2, 3])
    if "npy" not in layout:
        os.rename(tmp_path / "raw", tmp_path / "elsewhere")
        with pytest.raises(InputError, match="which is not there"):
            gpu4d.open(tmp_path / "out" / "r.h5")
        assert set(read_emd(tmp_path / "out" / "r.h5")) == {"calibration", "versions"}, "the results are of use without their raw file"


def test_results_move_together_with_their_raw_file(tmp_path, generator):
    data = generator.integers(0, 9, (3, 4, 6, 8)).astype("u1")
    (tmp_path / "a" / "out").mkdir(parents=True)
    with h5py.File(tmp_path / "a" / "scan.h5", "w") as file:
        file["scan"] = data
    save(tmp_path / "a" / "out" / "r.h5", {"cube": gpu4d.open(tmp_path / "a" / "scan.h5")})
    os.rename(tmp_path / "a", tmp_path / "b")
    np.testing.assert_array_equal(gpu4d.open(tmp_path / "b" / "out" / "r.h5")[2, 3].data, data[2, 3])


@pytest.mark.parametrize("chunks", [None, (2, 3, 6, 8)])
def test_views_and_copies_are_written(tmp_path, generator, chunks, monkeypatch):
    monkeypatch.setattr("gpu4d.io.formats.emd_cube.STREAM_BYTES", 2000)  # several blocks, not one
    data = generator.integers(0, 9, (7, 8, 6, 8)).astype("u2")
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("scan", data=data, chunks=chunks)
    cube = gpu4d.open(tmp_path / "scan.h5", calibration=Calibration(origin=(3.0, 4.0)))
    save(tmp_path / "r.h5", {"crop": cube.crop(rx=(1, 6), qy=(2, 7)), "half": cube.bin(detector=2), "whole": cube}, links="copy")
    back = read_emd(tmp_path / "r.h5")
    np.testing.assert_array_equal(back["crop"].load().source.array, data[1:6, :, :, 2:7])
    np.testing.assert_array_equal(back["half"].load().source.array, data.reshape(7, 8, 3, 2, 4, 2).sum((3, 5)))
    np.testing.assert_array_equal(back["whole"].load().source.array, data)
    assert "gpu4d/whole" not in str(back["whole"].source.path) and back["whole"].source.path == str(tmp_path / "r.h5")


# ---------------------------------------------------------------- single images


def test_load_image(tmp_path, generator, shared_data):
    image = generator.normal(size=(5, 6)).astype(">f4")
    np.save(tmp_path / "p.npy", image)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["probe"], file["line"] = image, np.arange(3)
    with h5py.File(tmp_path / "many.h5", "w") as file:
        file["a"], file["b/c"] = image, image[::2]
    for spec in ("p.npy", "p.h5", "p.h5:/probe", "many.h5:/a"):
        got = load_image(str(tmp_path / spec))
        assert got.dtype.isnative and got.flags.c_contiguous
        np.testing.assert_array_equal(got, image)
    probe = load_image(f"{shared_data / 'py4dstem_0.14.18_written_emd1.h5'}:/datacube_root/datacube/probe")
    with h5py.File(shared_data / "py4dstem_0.14.18_written_emd1.h5") as file:
        np.testing.assert_array_equal(probe, file["datacube_root/datacube/probe/data"][0])
    for spec, words in (
        ("many.h5", "2 images: /a 5×6 >f4; /b/c 3×6 >f4. Name one as"),
        ("many.h5:/x", "no dataset '/x'"),
        ("p.h5:/line", "is 3 int64: need an image"),
        ("p.npy:/a", "holds one array"),
        ("nothing.npy", "no such file"),
    ):
        with pytest.raises(InputError, match=words):
            load_image(str(tmp_path / spec))


@pytest.mark.parametrize(
    "key, value, field",
    [
        ("energy", -5.0, "energy"),
        ("QR_rotation", b"x", "rotation"),
        ("QR_rotation", np.nan, "rotation"),
        ("R_pixel_size", b"two", "r_pixel"),
    ],
)
def test_nonsense_in_a_calibration_does_not_close_the_scan(tmp_path, key, value, field):
    path = tmp_path / "scan.h5"
    gpu4d.save(path, {"cube": gpu4d.DataCube(np.ones((2, 3, 4, 4), np.uint16), gpu4d.Calibration(q_pixel=0.02, energy=2e5, rotation=0.1))})
    with h5py.File(path, "r+") as file:
        held = file["gpu4d/metadatabundle/calibration"]
        del held[key]
        held[key] = value
        held[key].attrs["type"] = "string" if isinstance(value, bytes) else "number"
    known = gpu4d.open(path).calibration
    assert getattr(known, field) is None and known.q_pixel == 0.02


def test_load_images(tmp_path, generator):
    """An image, a stack and a scan give the same kind of stack. Nothing else is read."""
    data = generator.integers(0, 99, (2, 3, 5, 6)).astype("<u2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan"], file["stack"], file["one"], file["word"] = data, data[0], data[0, 0].astype(">u2"), "text"
        file.create_dataset("line", data=np.zeros(3))
    for name, expected in (("scan", data.reshape(6, 5, 6)), ("stack", data[0]), ("one", data[:1, 0])):
        got = load_images(f"{tmp_path / 'a.h5'}:/{name}")
        np.testing.assert_array_equal(got, expected)
        assert got.dtype.isnative
    with h5py.File(tmp_path / "darks.h5", "w") as file:
        file["frames"] = data[0]
    np.testing.assert_array_equal(load_images(str(tmp_path / "darks.h5")), data[0], "the only stack of a file needs no path")
    np.save(tmp_path / "a.npy", data)
    np.testing.assert_array_equal(load_images(str(tmp_path / "a.npy")), data.reshape(6, 5, 6))
    for spec, words in (
        (f"{tmp_path / 'a.npy'}:/scan", "holds one array"),
        (f"{tmp_path / 'a.h5'}:/line", "need an image, a stack"),
        (f"{tmp_path / 'a.h5'}:/nothing", "no dataset"),
        (str(tmp_path / "b.npy"), "does not exist|no such|not exist"),
    ):
        with pytest.raises(InputError, match=words):
            load_images(spec)
    with pytest.raises(InputError, match=r"6 images .* more than 5"):
        load_images(str(tmp_path / "a.npy"), most=5)


def test_single_items_are_read(tmp_path):
    save(tmp_path / "r.h5", {"bf": RealSlice(np.ones((2, 3))), "adf": RealSlice(np.zeros((2, 3)))})
    assert set(read_emd(tmp_path / "r.h5", only=("adf", "none"))) & {"bf", "adf"} == {"adf"}
    assert {"bf", "adf"} <= set(read_emd(tmp_path / "r.h5"))


def test_a_scan_that_hdf5_cannot_link_to_is_named(tmp_path):
    """As one in zarr: the results say where it is, and it is opened again from there, also if both are moved together."""
    patterns = np.random.default_rng(0).poisson(3, (4, 5, 16, 12)).astype("uint16")
    (tmp_path / "a").mkdir()
    gpu4d.convert(patterns, tmp_path / "a" / "scan.zarr")
    cube = gpu4d.open(tmp_path / "a" / "scan.zarr")
    gpu4d.save(tmp_path / "a" / "result.h5", {"datacube": cube, "mean": gpu4d.RealSlice(np.ones((4, 5)))})
    (tmp_path / "a").rename(tmp_path / "b")
    items = gpu4d.io.read_emd(tmp_path / "b" / "result.h5")
    np.testing.assert_array_equal(np.asarray(items["datacube"]), patterns)
    with h5py.File(tmp_path / "b" / "result.h5") as file:
        assert "datacube" not in file["gpu4d"], "the patterns are not copied"
    (tmp_path / "b" / "scan.zarr").rename(tmp_path / "gone")
    assert set(gpu4d.io.read_emd(tmp_path / "b" / "result.h5")) >= {"mean"}
