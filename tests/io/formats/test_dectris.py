"""DECTRIS master and data files: several files as one scan, masks, flat field, scan shape, and files that are missing or lead elsewhere."""

import logging
import os
import pickle

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.format import OpenOptions
from gpu4d.io.formats.dectris import Dectris
from gpu4d.testing.formats import FormatTests

DETECTOR = (6, 10)
MOST = 2**16 - 1


def counts(frames=15, seed=0):
    return np.random.default_rng(seed).poisson(20, (frames, *DETECTOR)).astype("uint16")


def write(master, frames, in_a_file=6, chunk=1, trigger=(3, 5), **planes):
    """Write a master file and its data files, as the detector's description has them. `in_a_file` patterns lie in each but the last."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    folder, stem = master.parent, master.name.removesuffix(".h5").removesuffix("_master")
    with h5py.File(master, "w") as file:
        file.attrs["default"] = np.bytes_("entry")
        data = file.create_group("entry/data")
        detector = file.create_group("entry/instrument/detector")
        special = detector.create_group("detectorSpecific")
        file.create_group("entry/instrument/beam")
        detector["description"], detector["bit_depth_image"] = np.bytes_("Dectris ARINA CZT"), np.uint16(16)
        detector["count_time"] = 9.95e-5
        detector["count_time"].attrs["units"] = np.bytes_("s")
        special["ntrigger"], special["nimages"], special["photon_energy"] = np.uint64(trigger[0]), np.uint64(trigger[1]), 200e3
        detector["flatfield_correction_applied"] = np.int8(planes.pop("applied", 1))
        for name, plane in planes.items():
            special[name] = plane
        for k, first in enumerate(range(0, len(frames), in_a_file), 1):
            part = frames[first : first + in_a_file]
            name = f"{stem}_data_{k:06d}.h5"
            data[f"data_{k:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
            with h5py.File(folder / name, "w") as other:
                layout = {"chunks": (chunk, *DETECTOR), "maxshape": (None, *DETECTOR), **hdf5plugin.Bitshuffle(cname="lz4")}
                held = other.create_dataset("entry/data/data", data=part, **layout)
                held.attrs["image_nr_low"], held.attrs["image_nr_high"] = np.uint64(first + 1), np.uint64(first + len(part))


def microscope(path, shape, prescan=0):
    """Write what the microscope says of the scan, beside the master."""
    with h5py.File(path, "w") as file:
        group = file.create_group("STEM Metadata")
        group.attrs["NumPixelsY"], group.attrs["NumPixelsX"] = shape
        group.attrs["NumPixelsPrescan"] = np.array([prescan], "u4")
        group.attrs["High Tension"], group.attrs["Pixel Size"] = np.array([300e3]), np.array([0.125])


class TestDectris(FormatTests):
    """Three data files, the last one shorter, of a scan of 3 × 5 positions."""

    format, ending = Dectris(), "_master.h5"

    def write(self, path):
        write(path, counts())
        return counts().reshape(3, 5, *DETECTOR)


class TestDectrisRaggedChunks(FormatTests):
    """Chunks of four patterns, with some of the last one of each file unused, and one row of positions."""

    format, ending = Dectris(), "_master.h5"

    def write(self, path):
        write(path, counts(), in_a_file=10, chunk=4, trigger=(15, 1))
        return counts().reshape(1, 15, *DETECTOR)

    def options(self):
        return OpenOptions(scan_shape=(1, -1))


def test_the_microscope_tells_scan_shape_step_and_energy(tmp_path):
    master = tmp_path / "a_master.h5"
    write(master, counts(), trigger=(15, 1))
    with pytest.raises(InputError, match=r"15 patterns, and its scan shape is not stated.*3,5"):
        gpu4d.open(master)
    microscope(tmp_path / "a.h5", (5, 3))
    cube = gpu4d.open(master)
    assert cube.shape == (5, 3, *DETECTOR) and cube.calibration.r_pixel == 1.25 and cube.calibration.energy == 300e3
    assert cube.name == "a" and cube.metadata["instrument"]["detector"]["count_time"] == 9.95e-5
    assert cube.metadata["microscope"]["NumPixelsX"] == 3
    microscope(tmp_path / "a.h5", (3, 4), prescan=1)  # a position of the fly-back before each line
    assert gpu4d.open(master).shape == (3, 5, *DETECTOR)
    microscope(tmp_path / "a.h5", (4, 4))
    with pytest.raises(InputError, match="states a scan of 4×4 positions"):
        gpu4d.open(master)
    assert gpu4d.open(master, scan_shape="frames").shape == (1, 15, *DETECTOR)
    (tmp_path / "a.h5").write_bytes(b"not HDF5")
    assert gpu4d.open(master, scan_shape=(5, 3)).calibration.energy == 200e3, "the detector knows the energy, too"


def test_pixels_that_hold_no_counts_are_masked(tmp_path):
    frames = counts()
    frames[:, 2, 3] = MOST  # not in the mask
    frames[0, 4, 4] = MOST  # in one pattern alone: a pixel that counted very much
    bits = np.zeros(DETECTOR, "u4")
    bits[0, 1], bits[5, 9], bits[1, 1] = 1, 1 << 8, 1 << 31  # a gap, masked by the user, a remark: interpolated
    write(tmp_path / "a_master.h5", frames, pixel_mask=bits)
    cube = gpu4d.open(tmp_path / "a_master.h5")
    assert [tuple(place) for place in np.argwhere(~np.asarray(cube.detector_mask))] == [(0, 1), (2, 3), (5, 9)]
    assert np.array_equal(cube.source.read(slice(0, 3), slice(0, 5)).reshape(frames.shape), frames), "patterns are as written"


def test_a_flat_field_is_applied_once(tmp_path):
    factors = np.random.default_rng(1).uniform(0.9, 1.1, DETECTOR).astype("f4")
    factors[3, 3] = 0
    write(tmp_path / "a_master.h5", counts(), flatfield=factors, applied=1)
    assert gpu4d.open(tmp_path / "a_master.h5").source.dtype == np.uint16
    write(tmp_path / "a_master.h5", counts(), flatfield=factors, applied=0)
    cube = gpu4d.open(tmp_path / "a_master.h5")
    found = cube.source.read(slice(0, 3), slice(0, 5)).reshape(-1, *DETECTOR)
    good = factors > 0
    np.testing.assert_allclose(found[:, good], (counts() * factors.astype(np.float64))[:, good], rtol=1e-6)
    assert np.array_equal(np.asarray(cube.detector_mask), good) and "divided by the gain" in cube.source.description
    write(tmp_path / "a_master.h5", counts(), flatfield=np.ones(DETECTOR, "f4"), applied=0)
    assert gpu4d.open(tmp_path / "a_master.h5").source.dtype == np.uint16, "factors of one change nothing"


def test_data_files_that_are_missing(tmp_path, caplog):
    master = tmp_path / "a_master.h5"
    write(master, counts())
    last = tmp_path / "a_data_000003.h5"
    for damage in ("shorter", "gone"):
        last.write_bytes(last.read_bytes()[:-100]) if damage == "shorter" else last.unlink()
        with pytest.raises(InputError, match=r"1 of its data files cannot be opened.*a_data_000003.*12 patterns"):
            gpu4d.open(master)
        with caplog.at_level(logging.WARNING, "gpu4d"):
            cube = gpu4d.open(master, scan_shape="frames")
        assert "opened without them" in caplog.text
        assert np.array_equal(cube.source.read(slice(0, 1), slice(0, 12))[0], counts()[:12])
    assert gpu4d.open(master, scan_shape=(4, 3)).shape == (4, 3, *DETECTOR)
    write(master, counts())
    (tmp_path / "a_data_000002.h5").unlink()
    with pytest.raises(InputError, match=r"a_data_000002.*others follow it"):
        gpu4d.open(master, scan_shape="frames")
    for name in ("a_data_000001.h5", "a_data_000003.h5"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="none of its data files"):
        gpu4d.open(master)


@pytest.mark.parametrize("where", ["../b_data_000001.h5", "inside/b.h5", "absolute"])
def test_links_out_of_the_folder_are_refused(tmp_path, where):
    folder = tmp_path / "scan"
    (folder / "inside").mkdir(parents=True)
    write(folder / "a_master.h5", counts(), in_a_file=15)
    target = str(folder / "a_data_000001.h5") if where == "absolute" else where
    os.link(folder / "a_data_000001.h5", folder / where) if where != "absolute" else None
    with h5py.File(folder / "a_master.h5", "a") as file:
        del file["entry/data/data_000001"]
        file["entry/data/data_000001"] = h5py.ExternalLink(target, "/entry/data/data")
    with pytest.raises(InputError, match="out of its folder"):
        gpu4d.open(folder / "a_master.h5")
    with h5py.File(folder / "a_master.h5", "a") as file:  # a link to a link
        del file["entry/data/data_000001"]
        file["there"] = h5py.ExternalLink(target, "/entry/data/data")
        file["entry/data/data_000001"] = h5py.SoftLink("/there")
    if where != "absolute":
        with pytest.raises(InputError, match="out of its folder"):
            gpu4d.open(folder / "a_master.h5")


def test_files_of_another_scan_are_seen(tmp_path, caplog):
    write(tmp_path / "a_master.h5", counts())
    with h5py.File(tmp_path / "a_data_000002.h5", "a") as file:
        file["entry/data/data"].attrs["image_nr_low"] = np.uint64(107)
    with caplog.at_level(logging.WARNING, "gpu4d"):
        gpu4d.open(tmp_path / "a_master.h5")
    assert "a_data_000002.h5: it states images 107" in caplog.text
    with h5py.File(tmp_path / "a_data_000002.h5", "w") as file:
        file["entry/data/data"] = np.zeros((6, 8, 8), "uint16")
    with pytest.raises(InputError, match=r"a_data_000002.h5: its patterns are 8×8.*another scan"):
        gpu4d.open(tmp_path / "a_master.h5")
    with h5py.File(tmp_path / "a_master.h5", "a") as file:
        del file["entry/data/data_000002"]
    with pytest.raises(InputError, match="not numbered one by one"):
        gpu4d.open(tmp_path / "a_master.h5")


def test_reads_in_another_process(tmp_path):
    write(tmp_path / "a_master.h5", counts())
    source = pickle.loads(pickle.dumps(gpu4d.open(tmp_path / "a_master.h5").source))
    assert np.array_equal(source.read(slice(1, 2), slice(0, 5))[0], counts()[5:10]) and "3 files" in source.description


@pytest.mark.shared
def test_the_arina_scan(shared_data):
    cube = gpu4d.open(shared_data / "vendor/arina/test_00_master.h5")
    assert cube.shape == (4, 4, 192, 192) and cube.source.dtype == np.uint32 and cube.detector_mask is None
    assert not cube.source.read(slice(0, 4), slice(0, 4)).any(), "all values of this scan are zero"
    assert cube.calibration.energy == 300e3 and abs(cube.calibration.r_pixel - 1.3915206) < 1e-9
    assert cube.metadata["instrument"]["detector"]["detectorSpecific"]["trigger_mode"] == "exts"
