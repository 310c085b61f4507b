"""Series of TIA: a real one, and others written here byte by byte: areas and lines, images in any order in the file."""

import struct

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.format import OpenOptions
from gpu4d.io.formats.tia import Tia
from gpu4d.testing.formats import FormatTests

KIND = {"u1": 1, "u2": 2, "i4": 6, "f4": 7}


def text(words):
    return struct.pack("<I", len(words)) + words.encode()


def write(path, data, *, dimensions, wide=True, order=None, valid=None, positions=None, delta=4e7, gap=0, holds=0x4122):
    """Header, dimensions (size, step, unit), offsets of images and of tags, then images with their headers, each with its tag behind.

    `order` says which image is written first, second, …; `positions` (n, 2) are x and y in the tags. Rows are stored from below.
    """
    n, rows, columns = data.shape
    count, kind = ("<Q" if wide else "<I"), KIND[data.dtype.str[1:]]
    head = struct.pack(
        "<HHHIIII", 0x4949, 0x0197, 0x0220 if wide else 0x0210, holds, 0x4152 if positions is None else 0x4142, n, valid or n
    )
    told = b"".join(struct.pack("<IddI", size, 0.0, step, 0) + text("Position") + text(unit) for size, step, unit in dimensions)
    width = struct.calcsize(count)
    at = len(head) + width + 4 + len(told)
    start, body, images, tags = at + 2 * n * width, b"", {}, {}
    for i in np.arange(n) if order is None else order:
        images[i] = start + len(body)
        body += struct.pack("<ddiddihii", 0.0, delta, 0, 0.0, delta, 0, kind, columns, rows) + data[i, ::-1].tobytes()
        tags[i] = start + len(body)
        body += struct.pack("<HHI", 0x4142, 0, i) + (b"" if positions is None else struct.pack("<dd", *positions[i])) + bytes(gap)
    offsets = b"".join(struct.pack(count, part[i]) for part in (images, tags) for i in range(n))
    path.write_bytes(head + struct.pack(count, at) + struct.pack("<I", len(dimensions)) + told + offsets + body)


def patterns(scan=(3, 4), detector=(5, 9), dtype="<i4"):
    return np.random.default_rng(0).integers(0, 200, (*scan, *detector)).astype(dtype)


AREA = [(4, 2e-9, "meters"), (3, 2e-9, "meters")]  # the fast axis first


class TestArea(FormatTests):
    format, ending = Tia(), "_1.ser"

    def write(self, path):
        data = patterns()
        write(path, data.reshape(12, 5, 9), dimensions=AREA)
        return data


class TestAnyOrder(FormatTests):
    """32-bit offsets; images are not in order and not at regular distances, and the scan's shape is given."""

    format, ending = Tia(), "_1.ser"

    def options(self):
        return OpenOptions(scan_shape=(4, 3))

    def write(self, path):
        data = patterns((4, 3), dtype="<u2")
        write(path, data.reshape(12, 5, 9), dimensions=[(12, 1.0, "")], wide=False, order=[4, 5, 6, 7, 0, 1, 3, 2, 11, 10, 9, 8], gap=3)
        return data


EMI = b"""JK\0\2 binary <ObjectInfo><ExperimentalConditions><MicroscopeConditions><AcceleratingVoltage>300000</AcceleratingVoltage>
</MicroscopeConditions></ExperimentalConditions><ExperimentalDescription><Root><Data><Label>Camera length</Label><Value>1.1</Value>
<Unit>m</Unit></Data></Root></ExperimentalDescription></ObjectInfo> more"""


def test_calibration_and_the_emi_beside(tmp_path):
    data = TestArea().write(tmp_path / "a_1.ser")
    (tmp_path / "a.emi").write_bytes(EMI)
    for name in ("a_1.ser", "a.emi"):
        cube = gpu4d.open(tmp_path / name)
        c = cube.calibration
        np.testing.assert_array_equal(np.asarray(cube), data)
        np.testing.assert_allclose((c.q_pixel, c.r_pixel, c.energy), (4e7 * 1e-10, 20.0, 300e3))
        assert cube.metadata["emi"]["ExperimentalDescription"]["Root"] == {"Camera length": "1.1 m"}
    (tmp_path / "a_2.ser").write_bytes(b"")
    with pytest.raises(InputError, match=r"there are: a_1.ser, a_2.ser"):
        gpu4d.open(tmp_path / "a.emi")


def test_entities_in_an_emi_are_not_expanded(tmp_path):
    TestArea().write(tmp_path / "a_1.ser")
    (tmp_path / "a.emi").write_bytes(b'JK<ObjectInfo><!DOCTYPE x [<!ENTITY a "aaaa">]>&a;</ObjectInfo>')
    assert gpu4d.open(tmp_path / "a_1.ser").metadata["emi"] == {}


@pytest.mark.parametrize("inside", [b"<a>" * 200 + b"</a>" * 200, b"<a/>" * 300_000], ids=["deep", "long"])
def test_an_emi_that_grows_without_bounds_is_left_out(tmp_path, inside, caplog):
    TestArea().write(tmp_path / "a_1.ser")
    (tmp_path / "a.emi").write_bytes(b"JK<ObjectInfo>" + inside + b"</ObjectInfo>")
    assert gpu4d.open(tmp_path / "a_1.ser").metadata["emi"] == {}
    assert "deep in each other" in caplog.text or "larger than 1 MiB" in caplog.text


def test_which_dimension_is_fast_is_told_by_positions(tmp_path):
    """The beam went along y first: positions of the tags say so, against the order of dimensions."""
    data = patterns((4, 3))
    x, y = np.meshgrid(np.arange(4) * 2e-9, np.arange(3) * 2e-9, indexing="ij")
    write(tmp_path / "a_1.ser", data.reshape(12, 5, 9), dimensions=AREA, positions=np.stack([x.ravel(), y.ravel()], 1))
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a_1.ser")), data)


def test_lines_and_series_in_time(tmp_path):
    data = patterns((1, 6), dtype="u1")
    write(tmp_path / "a_1.ser", data[0], dimensions=[(6, 1e-9, "meters")])
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a_1.ser")), data)
    write(tmp_path / "b_1.ser", data[0], dimensions=[(6, 1.0, "")])
    with pytest.raises(InputError, match="6 patterns, and its scan shape is not stated"):
        gpu4d.open(tmp_path / "b_1.ser")


def test_a_scan_that_was_stopped(tmp_path):
    data = patterns()
    write(tmp_path / "a_1.ser", data.reshape(12, 5, 9), dimensions=AREA, valid=10)
    with pytest.raises(InputError, match="promises 12 patterns, the file holds 10"):
        gpu4d.open(tmp_path / "a_1.ser")
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a_1.ser", scan_shape="frames"))[0], data.reshape(12, 5, 9)[:10])


def damaged(path, at, layout, value):
    raw = bytearray(path.read_bytes())
    struct.pack_into(layout, raw, at, value)
    path.write_bytes(raw)


@pytest.mark.parametrize("at, layout, value, message", [
    (6, "<I", 0x4120, "it holds spectra"),
    (14, "<I", 1 << 31, "a list of 2147483648 images"),
    (30, "<I", 9, "9 dimensions"),
    (4, "<H", 0x0300, "version 0x300"),
])  # fmt: skip
def test_what_is_refused(tmp_path, at, layout, value, message):
    if layout == "<I" and at == 14:
        TestArea().write(tmp_path / "a_1.ser")
        damaged(tmp_path / "a_1.ser", 18, layout, value)
    else:
        TestArea().write(tmp_path / "a_1.ser")
    damaged(tmp_path / "a_1.ser", at, layout, value)
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a_1.ser")


def test_images_that_are_not_alike(tmp_path):
    path = tmp_path / "a_1.ser"
    TestArea().write(path)
    damaged(path, len(path.read_bytes()) - 8 - 180 - 10, "<h", 3)
    with pytest.raises(InputError, match="image 11 has another type or size"):
        gpu4d.open(path)


@pytest.mark.shared
def test_a_series_of_a_talos(shared_data):
    """Its first stored row is the lowest one."""
    path = shared_data / "vendor" / "tia" / "new" / "128x128x5-diffraction_preview.emi"
    cube = gpu4d.open(path, scan_shape="frames")
    assert cube.shape == (1, 5, 128, 128) and cube.calibration.energy == 200e3
    assert cube.calibration.q_pixel == pytest.approx(0.00424641, rel=1e-5)  # 1/Å: 0.0425 1/nm in TIA
    found = np.asarray(cube)[0]
    assert found[0, -1, :4].tolist() == [1180, 118, 120, 175]
    assert cube.metadata["emi"]["AcquireInfo"]["CameraNamePath"] == "BM-Ceta"


@pytest.mark.shared
def test_the_same_as_rosettasciio(shared_data, need):
    reader = need("rsciio.tia").file_reader
    path = shared_data / "vendor" / "tia" / "new" / "128x128x5-diffraction_preview_1.ser"
    np.testing.assert_array_equal(np.asarray(gpu4d.open(path, scan_shape="frames"))[0], reader(str(path))[0]["data"])
