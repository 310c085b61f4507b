"""Counted scans of stempy, made from the description of its versions, and compared with stempy's own reading elsewhere."""

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.format import OpenOptions
from gpu4d.io.formats.stempy import Stempy
from gpu4d.testing.formats import FormatTests

SCAN, DETECTOR = (3, 4), (5, 7)


def lists(count, seed=0):
    """Return pixels of some frames, some without an electron."""
    rng = np.random.default_rng(seed)
    return [rng.choice(35, rng.integers(0, 6), replace=False).astype(np.uint32) for _ in range(count)]


def patterns(frames, positions):
    """Add up frames by position."""
    found = np.zeros((12, 35), np.uint16)
    for pixels, position in zip(frames, positions):
        np.add.at(found[position], pixels, 1)
    return found.reshape(*SCAN, *DETECTOR)


def write(path, frames, positions, version=None, kind=np.uint32, **layout):
    with h5py.File(path, "w") as file:
        if version is not None:
            file.attrs["version"] = version
        group = file.create_group("electron_events")
        data = group.create_dataset("frames", (len(frames),), h5py.vlen_dtype(kind), **layout)
        for i, pixels in enumerate(frames):
            data[i] = pixels
        data.attrs["Nx"], data.attrs["Ny"] = DETECTOR
        where = group.create_dataset("scan_positions", data=np.asarray(positions))
        where.attrs["Nx"], where.attrs["Ny"] = SCAN[1], SCAN[0]
        file.create_group("metadata").attrs["note"] = "x"
        file["metadata/voltage"] = 300


class TestTwoFramesOfEachPosition(FormatTests):
    format, ending = Stempy(), ".h5"

    def write(self, path):
        frames = lists(24)
        write(path, frames, np.arange(12), 3)
        return patterns(frames, np.arange(24) // 2)


class TestFramesInAnyOrder(FormatTests):
    """Version 2: a position has no frame, others several, which stand at the end. The list is stored in chunks."""

    format, ending = Stempy(), ".h5"

    def write(self, path):
        frames, positions = lists(13), np.array([0, 1, 2, 3, 5, 6, 7, 8, 9, 11, 10, 3, 3])
        write(path, frames, positions, 2, chunks=(5,))
        return patterns(frames, positions)


def test_a_pixel_may_be_struck_several_times_in_a_frame(tmp_path):
    """Version 1 has no version, and one frame for each position."""
    frames = [np.array([3, 3, 34, 3], np.uint32), *lists(11)]
    write(tmp_path / "a.h5", frames, np.arange(12), kind=np.int64)
    cube = gpu4d.open(tmp_path / "a.h5")
    np.testing.assert_array_equal(cube.source.read(slice(0, 3), slice(0, 4)), patterns(frames, np.arange(12)))
    assert cube.metadata["stempy"] == {"voltage": 300} and cube.source.offsets[-1] == sum(map(len, frames))
    image = np.asarray(gpu4d.virtual_image(cube, np.ones(DETECTOR, bool)))
    np.testing.assert_array_equal(image.ravel(), [len(pixels) for pixels in frames])
    assert gpu4d.open(tmp_path / "a.h5", scan_shape=(2, 6)).scan_shape == (2, 6)


def test_arrays_are_not_read_by_hdf5(tmp_path, monkeypatch):
    """Values are of the other byte order here, and behind a user block."""
    frames = lists(12)
    write(tmp_path / "a.h5", frames, np.arange(12), 3, kind=np.dtype(">u4"))
    with h5py.File(tmp_path / "b.h5", "w", userblock_size=1024) as file, h5py.File(tmp_path / "a.h5") as whole:
        file.attrs["version"] = 3
        whole.copy("electron_events", file)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", None)
    for name in "ab":
        source = Stempy().open(str(tmp_path / f"{name}.h5"), OpenOptions()).source
        np.testing.assert_array_equal(source.read(slice(0, 3), slice(0, 4)), patterns(frames, np.arange(12)))


def test_arrays_longer_than_a_usual_collection(tmp_path):
    frames = [np.arange(35, dtype=np.uint32).repeat(200 * (i == 3)) for i in range(12)]
    write(tmp_path / "a.h5", frames, np.arange(12))
    assert gpu4d.open(tmp_path / "a.h5").source.read(slice(0, 1), slice(3, 4)).tolist() == [[[[200] * 7] * 5]]


def change(path, **changes):
    with h5py.File(path, "r+") as file:
        if "pixel" in changes:
            file["electron_events/frames"][4] = np.array([changes["pixel"]], np.uint32)
        if "positions" in changes:
            file["electron_events/scan_positions"][...] = changes["positions"]
        if "width" in changes:
            file["electron_events/scan_positions"].attrs["Nx"] = changes["width"]
        if "detector" in changes:
            file["electron_events/frames"].attrs["Ny"] = changes["detector"]


@pytest.mark.parametrize(
    "version, changes, message",
    [
        (2, {"positions": 12}, "positions run from 12 to 12, the scan has 12"),
        (3, {"width": 5}, "12 frames for 15 positions, not as many for each"),
        (3, {"width": 0}, "has no sizes Nx and Ny"),
        (3, {"detector": 1 << 40}, "has no sizes Nx and Ny"),
        (3, {"pixel": 35}, "pixel numbers outside of 0 to 34: it is damaged"),
    ],
)
def test_damage_is_refused(tmp_path, version, changes, message):
    write(tmp_path / "a.h5", lists(12), np.arange(12), version)
    change(tmp_path / "a.h5", **changes)
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a.h5").source.read(slice(0, 3), slice(0, 4))
