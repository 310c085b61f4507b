"""Image streams of TVIPS: real ones, and others written here byte by byte: one file or several, with scan coordinates or without."""

import struct

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.format import OpenOptions
from gpu4d.io.formats.tvips import Tvips
from gpu4d.testing.formats import FormatTests

QUIET = 3  # patterns before the scan begins, and after it ends


def patterns(scan=(3, 4), detector=(5, 9), dtype="<u2"):
    return np.random.default_rng(0).integers(0, 200, (*scan, *detector)).astype(dtype)


def series(detector, bits=16, version=2, extra=80):
    """256 bytes: size, version, columns, rows, bits, offsets, binning, pixel in nm, kV, magnification, bytes of a pattern's header."""
    head = struct.pack("<13i", 256, version, detector[1], detector[0], bits, 0, 0, 1, 1, 12, 120, 80, extra)
    return head.ljust(256, b"\xcc")


def frame_header(n, rotator=0, x=0.0, y=0.0, extra=80):
    """Counter, times, …, the rotator's index at 48, scan coordinates at 68 and 72."""
    head = struct.pack("<4IfII5fI6f", n, 1_600_000_000, n, 0, 1.5, 80, 2, 0, 0, 0, 0, 0, rotator, 0, 0, 0, 0, x, y)
    return head.ljust(extra, b"\xdd")[:extra]


def stream(data, quiet=QUIET, coordinates=True, extra=80):
    """Return the bytes of all patterns with their headers: some before the scan, the scan, some after it."""
    scan = data.shape[:2]
    frames = [(frame_header(n, extra=extra), np.full(data.shape[2:], 99, data.dtype)) for n in range(quiet)]
    for n, (x, y) in enumerate(np.ndindex(scan)):
        where = (float(y), float(x)) if coordinates else (0.0, 0.0)
        frames.append((frame_header(n + quiet, n + 1, *where, extra=extra), data[x, y]))
    last = scan[0] * scan[1]
    frames += [
        (frame_header(n, last, *(where if coordinates else ()), extra=extra), np.full(data.shape[2:], 98, data.dtype)) for n in range(quiet)
    ]
    return [head + frame.tobytes() for head, frame in frames]


class TestScanCoordinates(FormatTests):
    """The scan is found among other patterns by the coordinates of its points."""

    format, ending = Tvips(), "_000.tvips"

    def write(self, path):
        data = patterns()
        path.write_bytes(series((5, 9)) + b"".join(stream(data)))
        return data


class TestSeveralFiles(FormatTests):
    """A series of three files, without scan coordinates: the rotator's index tells where the scan begins and ends."""

    format, ending = Tvips(), "_000.tvips"

    def options(self):
        return OpenOptions(scan_shape=(3, 4))

    def write(self, path):
        data = patterns()
        frames = stream(data, coordinates=False, extra=61)
        path.write_bytes(series((5, 9), extra=61) + b"".join(frames[:5]))
        if path.name.endswith("_000.tvips"):
            for n, part in ((1, frames[5:6]), (2, frames[6:])):
                path.with_name(path.name.replace("_000", f"_00{n}")).write_bytes(b"".join(part))
        else:
            path.write_bytes(series((5, 9), extra=61) + b"".join(frames))
        return data


class TestVersionOne(FormatTests):
    """8 bit behind headers of 12 bytes, which say nothing of a scan."""

    format, ending = Tvips(), ".tvips"

    def options(self):
        return OpenOptions(scan_shape=(3, 4))

    def write(self, path):
        data = patterns(dtype="u1")
        path.write_bytes(
            series((5, 9), 8, 1, 0) + b"".join(frame_header(n)[:12] + frame.tobytes() for n, frame in enumerate(data.reshape(12, 5, 9)))
        )
        return data


def test_any_file_of_a_series_opens_all(tmp_path):
    data = TestSeveralFiles().write(tmp_path / "a_000.tvips")
    cube = gpu4d.open(tmp_path / "a_002.tvips", scan_shape=(3, 4))
    np.testing.assert_array_equal(np.asarray(cube), data)
    assert cube.calibration.energy == 120e3 and cube.metadata["first_frame"] == QUIET
    every = gpu4d.open(tmp_path / "a_000.tvips", scan_shape="frames")
    assert every.shape[:2] == (1, 12 + 2 * QUIET)
    np.testing.assert_array_equal(np.asarray(every)[0, QUIET:-QUIET], data.reshape(12, 5, 9))
    with pytest.raises(InputError, match=r"from its pattern 3\) has 12 patterns, and its scan shape is not stated"):
        gpu4d.open(tmp_path / "a_000.tvips")
    with pytest.raises(InputError, match="12 frames: give a scan shape with that product"):
        gpu4d.open(tmp_path / "a_000.tvips", scan_shape=(5, 2))
    (tmp_path / "a_001.tvips").unlink()
    with pytest.raises(InputError, match=r"a_001.tvips of the series is missing"):
        gpu4d.open(tmp_path / "a_000.tvips")


def test_a_scan_that_was_stopped_has_its_whole_rows(tmp_path):
    data = patterns()
    (tmp_path / "a.tvips").write_bytes(series((5, 9)) + b"".join(stream(data)[: QUIET + 10]))
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.tvips")), data[:2])


def test_one_row(tmp_path):
    data = patterns((1, 7))
    (tmp_path / "a.tvips").write_bytes(series((5, 9)) + b"".join(stream(data, quiet=1)))
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.tvips")), data)


@pytest.mark.parametrize("raw, message", [
    (series((5, 9), extra=80) + bytes(300), "1 patterns of 90 bytes and 130 bytes more"),
    (series((5, 9), extra=-5) + bytes(300), "headers of -5 bytes"),
    (series((5, 9)), "no patterns"),
])  # fmt: skip
def test_what_is_refused(tmp_path, raw, message):
    (tmp_path / "a.tvips").write_bytes(raw)
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a.tvips")


@pytest.mark.shared
@pytest.mark.parametrize("name, scan, detector", [
    ("test_tvips_2233_000", (2, 2), (3, 3)), ("test_tvips_2345_000", (2, 3), (4, 5)), ("test_tvips_2345_split_001", (2, 3), (4, 5)),
])  # fmt: skip
def test_files_with_counting_values(shared_data, name, scan, detector):
    """The pixels of these files count up: 0, 1, 2, …, along the columns of a pattern first."""
    cube = gpu4d.open(shared_data / "vendor" / "tvips" / f"{name}.tvips", scan_shape=scan)
    shape = (*scan, *detector)
    assert cube.calibration.energy == 200e3
    np.testing.assert_array_equal(np.asarray(cube), np.arange(np.prod(shape)).reshape(shape))


@pytest.mark.shared
def test_the_same_as_rosettasciio(shared_data, need):
    reader = need("rsciio.tvips").file_reader
    path = shared_data / "vendor" / "tvips" / "test_tvips_2345_split_000.tvips"
    found = np.asarray(gpu4d.open(path, scan_shape=(2, 3)))
    np.testing.assert_array_equal(found, reader(str(path), scan_shape=(2, 3))[0]["data"])
