"""Patterns behind headers, in one file or several: read where they lie, or unpacked, in any order, with some missing."""

import pickle

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.sources import frame_files
from gpu4d.io.sources.frame_files import FrameFiles, Plain, Stretch
from gpu4d.testing.sources import SourceTests

SCAN, DETECTOR = (5, 7), (6, 9)


def patterns(dtype="<u2"):
    return np.random.default_rng(0).integers(0, 200, (*SCAN, *DETECTOR)).astype(dtype)


def write(path, frames, header=24, before=48):
    """Write patterns behind headers. Return their stretch."""
    with open(path, "wb") as file:
        file.write(b"\xaa" * before)
        for frame in frames:
            file.write(b"\xbb" * header + frame.tobytes())
    return Stretch(str(path), before + header, header + frames[0].nbytes, len(frames))


class TestMapped(SourceTests):
    def make(self, tmp_path):
        stretch = write(tmp_path / "a", patterns().reshape(-1, *DETECTOR))
        source = FrameFiles([stretch], Plain(DETECTOR, "<u2"), SCAN, "toy")
        assert source.resident
        return source, patterns()


class TestSeveralFilesBigEndian(SourceTests):
    def make(self, tmp_path):
        frames = patterns(">u2").reshape(-1, *DETECTOR)
        parts = [write(tmp_path / f"{i}", frames[a:b], 17 * i) for i, (a, b) in enumerate([(0, 3), (3, 4), (4, 20), (20, 35)])]
        source = FrameFiles(parts, Plain(DETECTOR, ">u2"), SCAN, "toy")
        assert not source.resident
        return source, patterns()


class TestMissingAndTurned(SourceTests):
    """Some patterns are missing, others were recorded too many, and the detector lies otherwise."""

    def make(self, tmp_path):
        expected = patterns()
        frames = expected.reshape(-1, *DETECTOR)[:, ::-1].swapaxes(1, 2)
        recorded = np.concatenate([frames[:11], frames[10:11], frames[13:]])  # one twice, two not at all
        numbers = np.concatenate([np.arange(11), [-1, -1], np.arange(12, 34)])
        expected.reshape(-1, *DETECTOR)[11:13] = 0
        stretch = write(tmp_path / "a", np.ascontiguousarray(recorded))
        storage = Plain(DETECTOR, "<u2", swapped=True, flipped=(True, False))
        return FrameFiles([stretch], storage, SCAN, "toy", numbers), expected


class TestRowsBehind(SourceTests):
    """Each pattern is followed by rows that are no pixels, and does not begin at a multiple of the size of its numbers."""

    def make(self, tmp_path):
        expected = patterns("<f4")
        stored = np.concatenate([expected, np.full((*SCAN, 2, DETECTOR[1]), 7e7, "<f4")], axis=2).reshape(-1, 8, 9)
        stretch = write(tmp_path / "a", stored, header=3, before=2)
        return FrameFiles([stretch], Plain(DETECTOR, "<f4", rows=8), SCAN, "toy"), expected


def test_pickles_and_reshapes(tmp_path):
    source, expected = TestSeveralFilesBigEndian().make(tmp_path)
    again = pickle.loads(pickle.dumps(source)).reshaped((7, 5))
    np.testing.assert_array_equal(again.read(slice(0, 7), slice(0, 5)), expected.reshape(7, 5, *DETECTOR))
    again.will_read(slice(1, 3), slice(1, 4))


def test_more_files_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_files, "OPEN_FILES", 2)
    frames = patterns().reshape(-1, *DETECTOR)
    source = FrameFiles([write(tmp_path / f"{i}", frames[i : i + 1]) for i in range(35)], Plain(DETECTOR, "<u2"), SCAN, "toy")
    for _ in range(2):
        np.testing.assert_array_equal(source.read(slice(0, 5), slice(0, 7)), patterns())
    assert len(source._maps) == 2


@pytest.mark.parametrize("native", [True, False])
def test_a_file_that_is_cut_short_later_is_an_error(tmp_path, native):
    kind = "<u2" if native else ">u2"
    path = tmp_path / "a"
    source = FrameFiles([write(path, patterns(kind).reshape(-1, *DETECTOR))], Plain(DETECTOR, kind), SCAN, "toy")
    source.read(slice(0, 1), slice(0, 1))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="too short"):
        gpu4d.sweep(gpu4d.DataCube(source), gpu4d.MeanPattern())


def test_what_does_not_fit_is_refused(tmp_path):
    stretch = write(tmp_path / "a", patterns().reshape(-1, *DETECTOR))
    plain = Plain(DETECTOR, "<u2")
    for stretches, scan, numbers, message in [
        ([stretch], (6, 7), None, "35 patterns are too few for a scan of 6×7"),
        ([Stretch(stretch.path, 72, 132, 36)], SCAN, None, "too short"),
        ([Stretch(str(tmp_path / "b"), 72, 132, 35)], SCAN, None, "cannot be read"),
        ([Stretch(stretch.path, -1, 132, 35)], SCAN, None, "damaged"),
        ([stretch], SCAN, np.arange(35) + 1, "numbers of its patterns"),
    ]:
        with pytest.raises(InputError, match=message):
            FrameFiles(stretches, plain, scan, "toy", numbers)
