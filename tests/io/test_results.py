"""Results in EMD files: what other programs see of them, what is read of damaged and of foreign ones, and bundled scans."""

import os

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d import Calibration, DataCube, RealSlice
from gpu4d.errors import InputError
from gpu4d.io import read_emd, save
from gpu4d.testing.example_results import example
from gpu4d.testing.results import differences, filled, unnamed_arrays


@pytest.fixture(scope="module")
def strain():
    """Strain of a distorted grid of disks."""
    h, k = np.mgrid[-2:3, -2:3].reshape(2, -1)
    rng = np.random.default_rng(0)
    q = np.concatenate([np.stack([h * 12 / (1 + e), k * 12.0], -1) + 40 + rng.normal(0, 0.02, (25, 2)) for e in np.linspace(0, 0.02, 12)])
    disks = gpu4d.PointListArray(np.arange(13) * 25, {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(300)}, (3, 4))
    fit = gpu4d.fit_lattice(disks, [[12.0, 0.0], [0.0, 12.0]], origin=(40.0, 40.0))
    return gpu4d.strain_map(fit, calibration=Calibration(rotation=0.3, r_pixel=5.0))


# ---------------------------------------------------------------- what stands in the file


def test_other_programs_see_named_maps_with_units(tmp_path, strain):
    save(tmp_path / "r.h5", {"strain": strain})
    with h5py.File(tmp_path / "r.h5") as file:
        group = file["gpu4d/strain"]
        assert group.attrs["python_class"] == "RealSlice" and group.attrs["emd_group_type"] == "array"
        assert [label.decode() for label in group["dim2"]] == ["e_xx", "e_yy", "e_xy", "theta", "mask"]
        np.testing.assert_array_equal(group["data"][0], strain.exx)
        for name, unit in (("exx", "1"), ("rotation", "rad"), ("residual", "px")):
            part = group[name]
            np.testing.assert_array_equal(part["data"], getattr(strain, name))
            assert part["data"].attrs["units"] == unit and part["dim0"].attrs["name"] == "Rx" and part["dim0"].attrs["units"] == "A"
            np.testing.assert_allclose(part["dim0"], [0, 5, 10])
        np.testing.assert_allclose(group["mask/dim1"], [0, 5, 10, 15], err_msg="an array has the scan's axes, too")
        parts = group["metadatabundle/parts"]
        assert parts["definition"][()] == b"finite" and parts.attrs["emd_group_type"] == "metadata"
        np.testing.assert_allclose(parts["reference/parts/g2"], strain.reference.g2)


def test_what_a_result_computes_works_after_reading(tmp_path, strain):
    save(tmp_path / "r.h5", {"strain": strain})
    back = read_emd(tmp_path / "r.h5")["strain"]
    assert type(back) is type(strain) and repr(back) == repr(strain)
    assert differences(back.rotated(0.4), strain.rotated(0.4)) == []
    np.testing.assert_array_equal(back.along("g1"), strain.along("g1"))


def test_axes_of_real_results_have_the_names_that_are_said(strain):
    scan = gpu4d.simulate.phase_object_scan((10, 12), (24, 24), r_pixel=0.5, rotation=0.4)
    dpc = gpu4d.dpc(scan.cube, rotation=0.4, transpose=False)
    rings = gpu4d.sweep(scan.cube, gpu4d.RingStatistics((12.0, 12.0)))
    results = [strain, dpc, rings, gpu4d.fem(rings), gpu4d.ssb(scan.cube, rotation=0.4, transpose=False), scan]
    results += [gpu4d.calibrate.rotation(np.asarray(np.moveaxis(np.asarray(dpc.com), 0, -1)))]
    for result in results:
        assert unnamed_arrays(result) == [], type(result).__name__
        for part, value in result.to_parts().items():
            stored, ndim = result.stored_as(part), np.ndim(value) if isinstance(value, np.ndarray) else None
            if stored is not None and stored.axes and stored.axes[0] not in ("...", "*") and ndim is not None:
                assert len(stored.axes) in (ndim, ndim + 2), f"{type(result).__name__}.{part}"


def test_a_result_saves_itself(tmp_path, strain):
    strain.save(tmp_path / "strain.h5")
    RealSlice(np.ones((2, 3)), "dark field 1/2").save(tmp_path / "image.h5")
    filled(gpu4d.probe.Disk).save(tmp_path / "disk.h5", name="probe")
    names = [set(read_emd(tmp_path / f"{name}.h5")) - {"versions"} for name in ("strain", "image", "disk")]
    assert names == [{"strain"}, {"dark_field_1_2"}, {"probe"}]
    assert read_emd(tmp_path / "image.h5")["dark_field_1_2"].name == "dark field 1/2"
    with pytest.raises(InputError, match="exists"):
        strain.save(tmp_path / "strain.h5")
    strain.save(tmp_path / "strain.h5", overwrite=True)


# ---------------------------------------------------------------- slices, lists and scans keep everything


def test_one_pixel_keeps_its_size_and_a_slice_in_pixels_stays_one(tmp_path):
    items = {
        "one": RealSlice(np.ones((1, 1)), "one", "counts", 2.5, "Å"),
        "fine": RealSlice(np.ones((4, 4)), "upsampled", pixel_size=0.25),
        "calibration": Calibration(r_pixel=10.0),
    }
    save(tmp_path / "r.h5", items)
    back = read_emd(tmp_path / "r.h5")
    assert (back["one"].pixel_size, back["one"].pixel_units) == (2.5, "Å")
    assert (back["fine"].pixel_size, back["fine"].pixel_units, back["fine"].name) == (0.25, "px", "upsampled"), "not the calibration's"


def test_metadata_of_a_scan_follow_it_and_do_not_grow(tmp_path):
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("entry/scan", data=np.ones((2, 3, 8, 8), "u2")).attrs["camera"] = "K3"
    cube = gpu4d.open(tmp_path / "raw.h5")
    cube.metadata["operator"] = {"name": "A", "keys/with": (1, "b")}
    path, sizes = tmp_path / "raw.h5", []
    for i in range(4):
        save(tmp_path / f"{i}.h5", {"cube": cube}, links="bundle")
        path = tmp_path / f"{i}.h5"
        sizes.append(os.path.getsize(path))
        cube = gpu4d.open(path)
        assert cube.metadata["operator"] == {"name": "A", "keys/with": (1, "b")}
        assert cube.metadata["attributes"]["/entry/scan"]["camera"] == "K3" and cube.metadata["path"] == str(path)
    assert sizes[3] < sizes[1] * 1.1


def test_classes_of_emdfile_alone(tmp_path, strain):
    points = filled(gpu4d.PointListArray)
    cube = DataCube(np.ones((2, 3, 8, 8), "u1"), Calibration(q_pixel=0.02))
    save(tmp_path / "r.h5", {"cube": cube, "strain": strain, "disks": points}, classes="emdfile")
    known = {"Root", "Node", "Array", "Metadata", "PointList", "PointListArray", None}
    with h5py.File(tmp_path / "r.h5") as file:
        file.visititems(lambda _, item: known.add("!") if item.attrs.get("python_class") not in known else None)
    assert "!" not in known
    back = read_emd(tmp_path / "r.h5")
    assert (
        differences(back["strain"], strain) == [] and differences(back["disks"], points) == [] and back["cube"].calibration.q_pixel == 0.02
    )
    with pytest.raises(InputError, match="classes is 'hyperspy', need one of 'py4DSTEM', 'emdfile'"):
        save(tmp_path / "x.h5", {"cube": cube}, classes="hyperspy")


# ---------------------------------------------------------------- what cannot be made again


def test_a_class_that_is_not_known_is_read_as_its_parts(tmp_path, strain, caplog):
    save(tmp_path / "r.h5", {"strain": strain, "bf": RealSlice(np.ones((2, 3)))})
    with h5py.File(tmp_path / "r.h5", "a") as file:
        file["gpu4d/strain"].attrs["gpu4d_result"] = "gpu4d.crystal.StrainOfTomorrow"
    back = read_emd(tmp_path / "r.h5")
    assert "strain is read as its parts: the file has a result of the class 'gpu4d.crystal.StrainOfTomorrow', which is" in caplog.text
    assert back["strain"].labels[0] == "e_xx" and "bf" in back
    np.testing.assert_array_equal(back["strain/exx"], strain.exx)
    assert back["strain/exx"].units == "1" and back["strain/residual"].pixel_size == 5.0


@pytest.mark.parametrize("damage", ["entry", "array", "ring", "deep", "text"])
def test_a_damaged_result_is_read_as_its_parts_or_refused_in_one_line(tmp_path, caplog, damage):
    origin = filled(gpu4d.calibrate.Origin)
    save(tmp_path / "r.h5", {"origin": origin, "bf": RealSlice(np.ones((2, 3)), units="e")})
    with h5py.File(tmp_path / "r.h5", "a") as file:
        group = file["gpu4d/origin"]
        if damage == "entry":
            del group["metadatabundle/parts/fit"]
            group["metadatabundle/parts/fit_"] = 1.0
        elif damage == "array":
            del group["measured/data"]
        elif damage == "ring":
            group["again"] = group["once more"] = group
            group.attrs["gpu4d_part"] = "again"
        elif damage == "deep":
            for _ in range(100):
                group = group.create_group("x")
                group.attrs["gpu4d_result"], group.attrs["gpu4d_part"], group.attrs["emd_group_type"] = "gpu4d.beam.Origin", "x", "node"
        else:
            group.attrs["gpu4d_result"] = np.zeros(3)
    try:
        back = read_emd(tmp_path / "r.h5")
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert back["bf"].units == "e" and not isinstance(back.get("origin"), gpu4d.calibrate.Origin)


def test_what_cannot_be_saved_is_said(tmp_path):
    class Odd(gpu4d.data.Storable):
        def __init__(self, part):
            self.part = part

        def to_parts(self):
            return {"part": self.part}

    odd = {"is a object, which cannot be saved": object(), "array of object": np.array([None]), "keys that are no texts": {1: np.ones(99)}}
    for words, part in odd.items():
        with pytest.raises(InputError, match=words):
            save(tmp_path / "r.h5", {"odd": Odd(part)})
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="neither a dataclass nor a named tuple"):
        gpu4d.data.Storable().to_parts()


# ---------------------------------------------------------------- bundled scans


def small_chunks(monkeypatch, size):
    """Chunks of about so many bytes, and memory for less than one."""
    monkeypatch.setattr("gpu4d.io.formats.emd_cube.STREAM_BYTES", size)
    for name, n in (("CHUNK_BYTES", size), ("LEAST_BYTES", size // 2), ("MOST_BYTES", 2 * size)):
        monkeypatch.setattr(f"gpu4d.io.writing.chunks.{name}", n)


@pytest.mark.parametrize("kind", ["u2", "f4", ">u2", "u1"])
def test_a_bundle_has_every_pattern_bit_by_bit(tmp_path, kind, monkeypatch):
    small_chunks(monkeypatch, 4000)
    data = np.random.default_rng(0).poisson(0.2, (5, 7, 20, 18)).astype(kind)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("scan", data=data, chunks=(2, 3, 20, 18), compression="gzip")
    before = (tmp_path / "scan.h5").read_bytes()
    cube = gpu4d.open(tmp_path / "scan.h5", calibration=Calibration(r_pixel=3.0))
    save(tmp_path / "r.h5", {"datacube": cube, "bf": RealSlice(np.ones((5, 7)))}, links="bundle")
    assert (tmp_path / "scan.h5").read_bytes() == before
    os.remove(tmp_path / "scan.h5")
    back = gpu4d.open(tmp_path / "r.h5")
    assert back.dtype == cube.dtype and back.calibration.r_pixel == 3.0
    np.testing.assert_array_equal(back.load().source.array, data)
    with h5py.File(tmp_path / "r.h5") as file:
        stored = file["gpu4d/datacube/data"]
        assert stored.chunks[0] == 1 and stored.chunks[2:] == (20, 18) and 1 <= stored.chunks[1] <= 7
        assert "32008" in stored._filters and stored.id.get_storage_size() < data.nbytes / 2
        assert file["gpu4d/datacube"].attrs["emd_group_type"] == "custom_array", "results are read without it"


def test_a_bundle_is_written_in_pieces(tmp_path, monkeypatch):
    small_chunks(monkeypatch, 16 << 10)
    cube = DataCube(np.random.default_rng(0).poisson(1.0, (16, 16, 64, 64)).astype("u2"))
    asked, read = [], cube.source.read
    monkeypatch.setattr(cube.source, "read", lambda rows, columns, out=None: asked.append((rows, columns)) or read(rows, columns, out))
    save(tmp_path / "r.h5", {"cube": cube}, links="bundle")
    largest = max((r.stop - r.start) * (c.stop - c.start) for r, c in asked) * 64 * 64 * 2
    assert largest <= 16 << 10, "a chunk, because the memory is for less"
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "r.h5")), np.asarray(cube))


def test_a_counted_scan_is_bundled_as_events(tmp_path):
    counted = example("CountedScan").cube
    save(tmp_path / "r.h5", {"cube": counted}, links="bundle")
    assert type(gpu4d.open(tmp_path / "r.h5").source).__name__ == "FileEventSource"
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "r.h5")), np.asarray(counted))
