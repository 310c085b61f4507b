"""MRC files of several writers, and Direct Electron's movies with the text beside them. Headers are written here byte by byte."""

import struct

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.format import OpenOptions
from gpu4d.io.formats.mrc import Mrc
from gpu4d.testing.formats import FormatTests

MODE = {"i1": 0, "u1": 0, "i2": 1, "f4": 2, "u2": 6, "f2": 12}


def header(shape, mode, order="<", *, extended=0, kind=b"", imod=False, stamp=True):
    """1024 bytes: sizes and mode at the front, the extended header's size at 92, its kind at 104, MAP at 208, the byte order at 212."""
    n, rows, columns = shape
    out = bytearray(1024)
    struct.pack_into(f"{order}4i", out, 0, columns, rows, n, mode)
    struct.pack_into(f"{order}3i3f", out, 28, columns, rows, n, 1.0, 1.0, 1.0)
    struct.pack_into(f"{order}3i", out, 64, 1, 2, 3)
    struct.pack_into(f"{order}i", out, 92, extended)
    out[104:108] = kind.ljust(4, b"\0")
    if imod:
        struct.pack_into(f"{order}2i", out, 152, 1146047817, 0)
    out[208:212] = b"MAP "
    if stamp:
        out[212:214] = b"\x44\x44" if order == "<" else b"\x11\x11"
    struct.pack_into(f"{order}i", out, 220, 1)
    out[224:240] = b"made for a test "
    return bytes(out)


def write(path, data, order="<", extended=b"", **options):
    """Write patterns (frames, Qx, Qy)."""
    kind = data.dtype.str[1:]
    stored = data.astype(data.dtype.newbyteorder(order))
    path.write_bytes(header(data.shape, MODE[kind], order, extended=len(extended), **options) + extended + stored.tobytes())


def patterns(scan=(4, 6), detector=(5, 9), dtype="<u2", most=200):
    return np.random.default_rng(0).integers(0, most, (*scan, *detector)).astype(dtype)


class Stack(FormatTests):
    format, ending = Mrc(), ".mrc"

    def options(self):
        return OpenOptions(scan_shape=(4, 6))


class TestStack(Stack):
    def write(self, path):
        data = patterns()
        write(path, data.reshape(24, 5, 9))
        return data


class TestBigEndianBehindExtendedHeader(Stack):
    def write(self, path):
        data = patterns(dtype="<f4")
        write(path, data.reshape(24, 5, 9), ">", extended=b"\xaa" * 131, kind=b"SERI")
        return data


class TestFourBits(Stack):
    """Counted frames of a K3: two pixels in a byte, the first in the lower half, an odd number of pixels in a row."""

    def write(self, path):
        data = patterns(dtype="u1", most=16)
        padded = np.concatenate([data, np.zeros((4, 6, 5, 1), "u1")], axis=3)
        path.write_bytes(header((24, 5, 9), 101, imod=True) + (padded[..., ::2] | padded[..., 1::2] << 4).tobytes())
        return data


class TestFourBitsInWholeBytes(Stack):
    def write(self, path):
        data = patterns(detector=(5, 12), dtype="u1", most=16)
        path.write_bytes(header((24, 5, 12), 101) + (data[..., ::2] | data[..., 1::2] << 4).tobytes())
        return data


def info(size, kind="Raster", **more):
    """The text of Direct Electron's server, as far as it tells where patterns belong. `size` is (Rx, Ry)."""
    held = {
        "Server Software Version": "2.7.5",
        "Instrument Accelerating Voltage (V)": "300000",
        "Scan - Enable": "Enable",
        "Scan - Type": kind,
        "Scan - Size X": size[1],
        "Scan - Size Y": size[0],
        "Scan - ROI Enable": "Disable",
        "Scan - Camera Frames Per Point": "1",
        "Specimen Pixel Size X (nanometers)": "0.5",
        "Specimen Pixel Size Y (nanometers)": "0.5",
    } | {key.replace("_", " "): value for key, value in more.items()}
    return "".join(f"{key:<40}= {value}\r\n" for key, value in held.items())


class TestDirectElectron(FormatTests):
    """A movie with its settings beside it: they give the scan."""

    format, ending = Mrc(), "_movie.mrc"

    def write(self, path):
        data = patterns((3, 5), dtype="<u2")
        write(path, data.reshape(15, 5, 9))
        (path.parent / (path.stem.removesuffix("_movie") + "_info.txt")).write_text(info((3, 5)))
        return data


class TestCoordinates(FormatTests):
    """A scan in an order of its own, of which some positions were not visited."""

    format, ending = Mrc(), "_movie.mrc"

    def write(self, path):
        data = patterns((3, 5))
        order = np.random.default_rng(1).permutation(15)[:12]
        write(path, data.reshape(15, 5, 9)[order])
        base = path.stem.removesuffix("_movie")
        (path.parent / f"{base}_info.txt").write_text(info((3, 5), "XY File"))
        lines = [f"{n % 5},{n // 5}\n" for n in order]
        (path.parent / f"{base}_scan_coordinates.csv").write_text("".join(["x,y\n", *lines]))
        data.reshape(15, 5, 9)[np.setdiff1d(np.arange(15), order)] = 0
        return data


@pytest.mark.parametrize("dtype, order, options", [
    ("i1", "<", {}), ("u1", "<", {"imod": True}), ("<i2", ">", {"stamp": False}), ("<f2", "<", {}),
])  # fmt: skip
def test_types_of_pixels(tmp_path, dtype, order, options):
    data = patterns(dtype=dtype, most=100)
    data[0, 0, 0, 0] = 200 if dtype == "u1" else -3
    write(tmp_path / "a.mrc", data.reshape(24, 5, 9), order, **options)
    found = np.asarray(gpu4d.open(tmp_path / "a.mrc", scan_shape=(4, 6)))
    np.testing.assert_array_equal(found, data)
    assert found.dtype == ("float32" if dtype == "<f2" else np.dtype(dtype).newbyteorder("="))


def test_voltage_of_thermo_fisher(tmp_path):
    """An extended header of 768 bytes for each pattern: the voltage is at byte 84, and bit 5 at byte 8 says that it is there."""
    first = bytearray(768 * 24)
    struct.pack_into("<2iI", first, 0, 768, 1, 1 << 5)
    struct.pack_into("<d", first, 84, 120e3)
    first[435:443] = b"BM-Ceta\0"
    write(tmp_path / "a.mrc", patterns().reshape(24, 5, 9), extended=bytes(first), kind=b"FEI1")
    cube = gpu4d.open(tmp_path / "a.mrc", scan_shape=(4, 6))
    assert cube.calibration.energy == 120e3 and cube.metadata["extended_header"]["Camera name"] == "BM-Ceta"
    assert cube.metadata["header"]["label"] == ["made for a test"]


def test_calibration_beside_a_movie(tmp_path):
    TestDirectElectron().write(tmp_path / "a_movie.mrc")
    cube = gpu4d.open(tmp_path / "a_movie.mrc")
    assert (cube.calibration.energy, cube.calibration.r_pixel) == (300e3, 5.0)
    assert cube.metadata["info"]["Server Software Version"] == "2.7.5"


def test_region_of_interest_and_serpentine(tmp_path):
    data = patterns((3, 5))
    stored = data.copy()
    stored[1] = stored[1, ::-1]
    write(tmp_path / "a_0_movie.mrc", stored.reshape(15, 5, 9))
    region = {"Scan - ROI Enable": "Enable", "Scan - ROI Type": "Serpentine", "Scan - ROI Size X": 5, "Scan - ROI Size Y": 3}
    (tmp_path / "a_info.txt").write_text(info((30, 30), **region))
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a_0_movie.mrc")), data)


@pytest.mark.parametrize("text, message", [
    (info((3, 4)), r"15 patterns, and it states a scan of 3×4 positions"),
    (info((3, 5), "Random"), r"in an order of its own \(Random\), and the file of its coordinates"),
    (info((3, 1), **{"Scan - Camera Frames Per Point": 5}), "with 5 frames per point"),
    (info((3, 5)).replace("Enable", "Disable", 1), "its scan shape is not stated"),
    ("no settings at all", "its scan shape is not stated"),
])  # fmt: skip
def test_settings_that_do_not_tell_the_scan(tmp_path, text, message):
    data = patterns((3, 5))
    write(tmp_path / "a_movie.mrc", data.reshape(15, 5, 9))
    (tmp_path / "a_info.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a_movie.mrc")
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a_movie.mrc", scan_shape=(3, 5))), data)


@pytest.mark.parametrize("lines, message", [
    ("0,0\n" * 15, "name a position more than once"),
    ("".join(f"{n},0\n" for n in range(15)), "lie outside the scan"),
    ("1,2\n", "15 patterns, and 1 lines"),
])  # fmt: skip
def test_coordinates_that_do_not_fit(tmp_path, lines, message):
    write(tmp_path / "a_movie.mrc", patterns((3, 5)).reshape(15, 5, 9))
    (tmp_path / "a_info.txt").write_text(info((3, 5), "XY File"))
    (tmp_path / "a_scan_coordinates.csv").write_text(lines)
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a_movie.mrc")


def test_a_scan_that_was_stopped(tmp_path):
    data = patterns()
    write(tmp_path / "a.mrc", data.reshape(24, 5, 9))
    (tmp_path / "a.mrc").write_bytes((tmp_path / "a.mrc").read_bytes()[: 1024 + 20 * 90 + 7])
    with pytest.raises(InputError, match="promises 24 patterns, the file holds 20"):
        gpu4d.open(tmp_path / "a.mrc")
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.mrc", scan_shape="frames"))[0], data.reshape(24, 5, 9)[:20])


@pytest.mark.parametrize("raw, message", [
    (header((24, 5, 9), 4), "it holds complex numbers"),
    (header((24, 5, 9), 1, extended=-1), "an extended header of -1 bytes"),
    (header((1 << 30, 1 << 30, 1 << 30), 1), "promises 1073741824 patterns"),
])  # fmt: skip
def test_what_is_refused(tmp_path, raw, message):
    (tmp_path / "a.mrc").write_bytes(raw + bytes(100))
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a.mrc")


@pytest.mark.shared
def test_movies_of_direct_electron(shared_data):
    """Every pixel of the n-th pattern of the first movie is n, as its makers chose. The others are simulated by the server."""
    folder = shared_data / "vendor" / "mrc"
    cube = gpu4d.open(folder / "20241021_00405_movie.mrc")
    assert cube.shape == (4, 8, 4, 8) and cube.calibration.energy == 300e3
    np.testing.assert_array_equal(np.asarray(cube), np.arange(32).reshape(4, 8, 1, 1) + np.zeros((4, 8), int))
    with pytest.raises(InputError, match=r"29×12 positions in an order of its own \(Random\)"):
        gpu4d.open(folder / "ROI_Random_Scan_movie.mrc")
    rows = gpu4d.open(folder / "ROI_Random_Scan_movie.mrc", scan_shape="frames")
    assert rows.shape == (1, 348, 16, 16)
    assert np.asarray(rows)[0, 0, 0, :4].tolist() == [727, 692, 696, 701]
    with pytest.raises(InputError, match=r"order of its own \(XY File\)"):
        gpu4d.open(folder / "Custom_movie.mrc")
    assert gpu4d.open(folder / "ROI_Random_Scan_Sum.mrc").shape == (1, 1, 29, 12)


@pytest.mark.shared
def test_the_same_as_rosettasciio(shared_data, need):
    reader = need("rsciio.mrc").file_reader
    path = shared_data / "vendor" / "mrc" / "20241021_00405_movie.mrc"
    np.testing.assert_array_equal(np.asarray(gpu4d.open(path)), reader(str(path))[0]["data"])
