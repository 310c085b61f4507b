"""Blockfiles of NanoMegas: real ones, and others written here byte by byte."""

import struct

import numpy as np
import pytest

import gpu4d
from gpu4d import physics
from gpu4d.errors import InputError
from gpu4d.io.formats.blockfile import Blockfile
from gpu4d.testing.formats import FormatTests


def patterns(dtype="u1"):
    return np.random.default_rng(0).integers(0, 200, (3, 4, 7, 7)).astype(dtype)


def write(path, data, order="<", version=0x0102, note="Camera gamma : on"):
    """240 bytes of header, text, the virtual image, then each pattern behind 55AA and its number."""
    rx, ry, size, _ = data.shape
    head = b"IMGBLO" + struct.pack(f"{order}HII", version, 512, 512 + rx * ry + 4)
    head += struct.pack(f"{order}IHHHHHddIHId", 0, size, 0, ry, rx, 2500, 2.5, 2.5, 200000, 5000, 2000, 42339.5)
    head += struct.pack(f"{order}22d", *range(22)) + note.encode() + b"\0"
    image = bytes(data.mean((2, 3)).astype("u1").ravel()) + b"\xee" * 4
    frames = data.astype(data.dtype.newbyteorder(order)).reshape(-1, size * size)
    body = b"".join(struct.pack(f"{order}HI", 0x55AA, n) + frame.tobytes() for n, frame in enumerate(frames))
    path.write_bytes(head.ljust(512, b"\0") + image + body)


class TestEightBits(FormatTests):
    format, ending = Blockfile(), ".blo"

    def write(self, path):
        data = patterns()
        write(path, data)
        return data


class TestSixteenBitsBigEndian(FormatTests):
    format, ending = Blockfile(), ".blo"

    def write(self, path):
        data = patterns("u2") * 300
        write(path, data, ">", 0x0103, "Precession angle : 0.9\r\nBlo Bit Depth: 16 bits")
        return data


def test_what_the_header_says(tmp_path):
    """5000 / 100 pixels per cm at 2000 / 10 mm: a pixel of 0.2 mm is 1 mrad."""
    write(tmp_path / "a.blo", patterns())
    cube = gpu4d.open(tmp_path / "a.blo")
    c = cube.calibration
    assert (c.energy, c.r_pixel) == (200e3, 25.0)
    assert c.q_pixel == pytest.approx(physics.angle_to_frequency(1.0, 200e3), rel=1e-5)
    assert cube.metadata["note"] == ["Camera gamma : on"] and cube.metadata["header"]["centering"][7] == 7.0
    np.testing.assert_array_equal(cube.metadata["virtual_image"], patterns().mean((2, 3)).astype("u1"))


def test_a_scan_that_was_stopped(tmp_path):
    path = tmp_path / "a.blo"
    write(path, patterns())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="promises 12 patterns, the file holds 10"):
        gpu4d.open(path)
    np.testing.assert_array_equal(np.asarray(gpu4d.open(path, scan_shape=(2, 5))).reshape(10, 7, 7), patterns().reshape(12, 7, 7)[:10])


def test_a_size_that_is_wrong_is_seen_by_the_marks(tmp_path):
    path = tmp_path / "a.blo"
    write(path, patterns())
    raw = bytearray(path.read_bytes())
    raw[20:22] = struct.pack("<H", 6)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="pattern 11 has no mark at its beginning"):
        gpu4d.open(path)


@pytest.mark.shared
def test_files_of_nanomegas(shared_data):
    """Spots lie where RosettaSciIO puts them: the brightest disk of the first file at row 72, column 73, a spot right of it."""
    folder = shared_data / "vendor" / "blockfile"
    cube = gpu4d.open(folder / "test1.blo")
    assert cube.shape == (3, 2, 144, 144) and cube.calibration.r_pixel == 128 and cube.calibration.energy == 200e3
    mean = np.asarray(cube).mean((0, 1))
    x, y = np.nonzero(mean[60:85, 60:85] > 200)
    assert abs(60 + x.mean() - 72) < 2 and abs(60 + y.mean() - 73) < 2
    mean[60:85, 60:88] = 0
    assert np.unravel_index(mean.argmax(), mean.shape) == (78, 105), "the brightest spot is on the right, a little below the middle"
    small = np.asarray(gpu4d.open(folder / "test2.blo"))
    assert small.shape == (2, 3, 5, 5)
    np.testing.assert_array_equal(gpu4d.open(folder / "test2.blo").metadata["virtual_image"], [[18, 21, 21], [19, 15, 21]])


@pytest.mark.shared
@pytest.mark.parametrize("name", ["test1.blo", "test2.blo"])
def test_the_same_as_rosettasciio(shared_data, name, need):
    reader = need("rsciio.blockfile").file_reader
    path = shared_data / "vendor" / "blockfile" / name
    np.testing.assert_array_equal(np.asarray(gpu4d.open(path)), reader(str(path))[0]["data"])
