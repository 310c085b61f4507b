"""Topspin's .app5 files: a series of patterns, each a dataset with its own description, on a grid of positions or not."""

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.format import OpenOptions
from gpu4d.io.formats.topspin import Topspin
from gpu4d.testing.formats import FormatTests

DETECTOR = (7, 9)
SERIES = "a0dba950-15bf-4a74-a81c-9cea8560c2c8"
STEP = 2e-9  # m

NOTE = """<?xml version="1.0" encoding="utf-16"?>\r
<Metadata Serializer="SeriesItemSerializer" Version="1">\r
  <Calibration Serializer="ImageCalibrationSerializer" Version="1">{axes}</Calibration>
  <Metadata Serializer="DictionarySerializer" Version="1"><Item>
    <Name Serializer="String" Version="1">RequestedBeamPosition</Name>
    <Value Serializer="ImagePositionSerializer" Version="1">
      <X Serializer="Double" Version="1">{x!r}</X>
      <Y Serializer="Double" Version="1">{y!r}</Y>
    </Value></Item></Metadata>
</Metadata>"""
AXIS = """<{axis} Serializer="ArrayCalibrationSerializer" Version="1"><Offset Serializer="Double" Version="1">-0.0027</Offset>
<Scale Serializer="Double" Version="1">{scale}</Scale><Type Serializer="CalibrationTypeSerializer" Version="1">
<Index Serializer="Int32" Version="1">2</Index><Text Serializer="String" Version="1">Angle</Text></Type></{axis}>"""
SETTINGS = """<?xml version='1.0' encoding='us-ascii'?>
<Metadata Serializer="ProcedureDocumentSerializer" Version="2"><Title Serializer="String" Version="1">A scan</Title>
<HardwareSettings><Item><Name Serializer="String" Version="1">GunHighVoltage</Name><Value>200000</Value></Item></HardwareSettings>
</Metadata>"""


def frames(n=12):
    return np.random.default_rng(0).poisson(5, (n, *DETECTOR)).astype("float32")


def grid(rows, columns):
    """Return x and y of the beam at every position, x changing first."""
    i, j = np.divmod(np.arange(rows * columns), columns)
    return 1e-7 + STEP * np.stack([j, i], axis=-1)


def write(path, patterns, places, series=SERIES, mode="w", dtype="<f4", **layout):
    axes = "".join(AXIS.format(axis=axis, scale="2.0E-05") for axis in "XY")
    with h5py.File(path, mode) as file:
        if mode == "w":
            file["Metadata"], file["Version"] = np.bytes_(SETTINGS), np.bytes_("1")
            file["39a4bbcd-2551-4912-9093-0eaed678dcff"] = np.zeros((3, 4))  # the virtual image
        for n, (pattern, (x, y)) in enumerate(zip(patterns, places)):
            group = file.create_group(f"{series}/{n}")
            group.create_dataset("Data", data=pattern.astype(dtype), **layout)
            group["Metadata"] = np.bytes_(NOTE.format(axes=axes, x=float(x), y=float(y)))


class TestTopspin(FormatTests):
    format, ending = Topspin(), ".app5"

    def write(self, path):
        write(path, frames(), grid(3, 4))
        return frames().reshape(3, 4, *DETECTOR)


class TestTopspinBigEndianInASession(FormatTests):
    """Exported sessions hold their series in a group. Here the numbers have the other byte order, and the scan is one column."""

    format, ending = Topspin(), ".app5"

    def write(self, path):
        write(path, frames(), grid(12, 1), f"18d9446f-22bf-4fb1-8d13-338174e75d20/{SERIES}", dtype=">u2")
        return frames().astype("uint16").reshape(12, 1, *DETECTOR)

    def options(self):
        return OpenOptions(scan_shape=(12, 1))


def test_calibration_and_metadata(tmp_path):
    write(tmp_path / "a.app5", frames(), grid(3, 4))
    cube = gpu4d.open(tmp_path / "a.app5")
    assert cube.name == "A scan" and cube.calibration.energy == 200e3 and abs(cube.calibration.r_pixel - 20) < 1e-6
    assert abs(cube.calibration.q_pixel * cube.calibration.wavelength - 2e-5) < 1e-8, "2e-5 rad"
    assert (
        cube.metadata["topspin"]["HardwareSettings"] == {"GunHighVoltage": "200000"}
        and "RequestedBeamPosition" in cube.metadata["first_pattern"]
    )


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 12), (12, 1), (2, 6)])
def test_the_scan_shape_is_that_of_the_positions(tmp_path, shape):
    write(tmp_path / "a.app5", frames(), grid(*shape))
    assert gpu4d.open(tmp_path / "a.app5").shape[:2] == shape


def test_a_scan_that_was_broken_off(tmp_path):
    write(tmp_path / "a.app5", frames(11), grid(3, 4))
    with pytest.raises(InputError, match="11 patterns, and its scan shape is not stated"):
        gpu4d.open(tmp_path / "a.app5")
    cube = gpu4d.open(tmp_path / "a.app5", scan_shape="frames")
    assert cube.calibration.r_pixel is None and cube.calibration.positions.shape == (1, 11, 2)
    np.testing.assert_allclose(cube.calibration.positions[0, :, ::-1] * 1e-10, grid(3, 4)[:11])
    with h5py.File(tmp_path / "a.app5", "a") as file:
        del file[SERIES]["4"]
    with pytest.raises(InputError, match=r"pattern 4 .*is not there"):
        gpu4d.open(tmp_path / "a.app5", scan_shape="frames")
    write(tmp_path / "a.app5", frames(), grid(3, 4))
    with h5py.File(tmp_path / "a.app5", "a") as file:
        del file[SERIES]["4"]["Data"]
        file[SERIES]["4"]["Data"] = np.zeros((9, 7), "f4")
    with pytest.raises(InputError, match="pattern 4"):
        gpu4d.open(tmp_path / "a.app5")


def test_one_of_several_series(tmp_path):
    write(tmp_path / "a.app5", frames(), grid(3, 4))
    write(tmp_path / "a.app5", frames(4), grid(2, 2), "b/c", "a")
    with pytest.raises(InputError, match=rf"2 series of patterns: .*{SERIES}"):
        gpu4d.open(tmp_path / "a.app5")
    assert gpu4d.open(tmp_path / "a.app5", dataset="b/c").shape == (2, 2, *DETECTOR)
    write(tmp_path / "a.app5", frames(), grid(3, 4), compression="gzip")
    with pytest.raises(InputError, match=r"compressed.*h5repack"):
        gpu4d.open(tmp_path / "a.app5")


@pytest.mark.parametrize(
    "text",
    [b"", b"<a", b'<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><a>&d;</a>', b"<a>" * 100_000, b"<a>" * 200_000 + b"</a>" * 200_000],
    ids=["none", "cut", "entities", "open", "deep"],
)
def test_a_description_that_is_none(tmp_path, text):
    write(tmp_path / "a.app5", frames(), grid(3, 4))
    with h5py.File(tmp_path / "a.app5", "a") as file:
        del file["Metadata"]
        file["Metadata"] = np.bytes_(text or b"\0")
    cube = gpu4d.open(tmp_path / "a.app5")
    assert cube.shape == (3, 4, *DETECTOR) and cube.calibration.energy is None and cube.name == "datacube"


@pytest.mark.shared
def test_a_precession_scan(shared_data, need):
    cube = gpu4d.open(shared_data / "vendor/topspin/topspin_test_A.app5")
    assert cube.shape == (2, 5, 14, 12) and cube.source.dtype == np.float32
    patterns = cube.source.read(slice(0, 2), slice(0, 5))
    assert patterns[:, :, 0, 0].tolist() == [[3, 1, 2, 0, 4], [0, 2, 0, 5, 1]], "the second row begins where the beam is back"
    assert patterns[0, 0, 4, :8].tolist() == [4, 1, 1, 3, 14, 24, 27, 9] and patterns[0, 0, :8, 4].tolist() == [3, 0, 1, 1, 14, 45, 38, 45]
    assert cube.calibration.energy == 200e3 and abs(cube.calibration.r_pixel - 20) < 1e-6
    assert abs(cube.calibration.q_pixel * cube.calibration.wavelength - 2.13275792205814e-05) < 1e-9
    assert cube.metadata["topspin"]["HardwareSettings"]["DiffractionCameraLength"] == "2.8"
    topspin = need("rsciio.topspin")
    peer = next(found for found in topspin.file_reader(shared_data / "vendor/topspin/topspin_test_A.app5") if found["data"].ndim == 4)
    assert np.array_equal(patterns, peer["data"])


def test_a_name_that_is_no_text_hides_nothing(tmp_path):
    """Groups may have names of any bytes."""
    write(tmp_path / "a.app5", frames(), grid(3, 4))
    with h5py.File(tmp_path / "a.app5", "r+") as file:
        file.create_group(b"\xff\xfe")
    assert gpu4d.open(tmp_path / "a.app5").source.description.startswith("Topspin")


def test_groups_of_a_newer_form(tmp_path, monkeypatch):
    """They are found by HDF5 itself."""
    opened = h5py.File
    monkeypatch.setattr(h5py, "File", lambda path, mode: opened(path, mode, libver="latest"))
    write(tmp_path / "a.app5", frames(), grid(3, 4))
    monkeypatch.undo()
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.app5")).reshape(12, *DETECTOR), frames())
