"""Every source of the library keeps to the contract."""

import h5py
import numpy as np
import pytest
from contracts.toy_correction import Dark

import gpu4d
from gpu4d.data import EventSource
from gpu4d.data.source import ArraySource
from gpu4d.preprocess import fill_from_neighbours
from gpu4d.testing.accounting import AccountingProcessor, VirtualSource
from gpu4d.testing.sources import SourceTests

SHAPE = (6, 10, 8, 12)


def counts(dtype="uint16", shape=SHAPE):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def opened(path, data, **options):
    """The source of an HDF5 file."""
    with h5py.File(path, "w") as file:
        file.create_dataset("scan", data=data, **options)
    return gpu4d.open(path).source


class TestArray(SourceTests):
    def make(self, tmp_path):
        return ArraySource(counts("float32")), counts("float32")


class TestArrayOfAnotherMachine(SourceTests):
    def make(self, tmp_path):
        return ArraySource(counts(">u2")), counts()


class TestArrayOfAnotherLibrary(SourceTests):
    def make(self, tmp_path):
        return ArraySource(pytest.importorskip("array_api_strict").asarray(counts("int32"))), counts("int32")


class TestEventsInAFile(SourceTests):
    def make(self, tmp_path):
        few = (counts() % 7 == 0).astype("uint16")
        frame, pixel = np.nonzero(few.reshape(60, -1))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(frame, minlength=60))])
        gpu4d.save(tmp_path / "counted.h5", {"counted": gpu4d.DataCube(EventSource(offsets, pixel, SHAPE[:2], SHAPE[2:]))})
        return gpu4d.open(tmp_path / "counted.h5").source, few


class TestMappedNpy(SourceTests):
    def make(self, tmp_path):
        np.save(tmp_path / "scan.npy", counts())
        return gpu4d.open(tmp_path / "scan.npy").source, counts()


class TestMappedHdf5(SourceTests):
    def make(self, tmp_path):
        return opened(tmp_path / "scan.h5", counts("float32")), counts("float32")


class TestChunkedHdf5(SourceTests):
    def make(self, tmp_path):
        return opened(tmp_path / "scan.h5", counts(), chunks=(2, 3, 8, 12), compression="gzip", shuffle=True), counts()


class TestHdf5ReadByItsLibrary(SourceTests):
    def make(self, tmp_path):
        return opened(tmp_path / "scan.h5", counts(), chunks=(2, 3, 8, 12), scaleoffset=0), counts()


class TestCropped(SourceTests):
    def make(self, tmp_path):
        cube = gpu4d.DataCube(opened(tmp_path / "scan.h5", counts(), chunks=(2, 3, 8, 12)))
        return cube.crop(rx=(1, 6), ry=(2, 9), qx=(1, 7), qy=(3, 12)).source, counts()[1:6, 2:9, 1:7, 3:12]


class TestBinned(SourceTests):
    def make(self, tmp_path):
        data = counts().astype(np.uint32)
        return gpu4d.DataCube(counts()).bin(detector=2).source, data.reshape(6, 10, 4, 2, 6, 2).sum((3, 5))


class TestSwapped(SourceTests):
    def make(self, tmp_path):
        return gpu4d.DataCube(counts()).swap_axes(detector=True).source, counts().swapaxes(2, 3)


class TestVirtual(SourceTests):
    def make(self, tmp_path):
        source = VirtualSource(AccountingProcessor(), SHAPE, "uint16", (2, 5))
        return source, source.whole


class TestCorrected(SourceTests):
    def make(self, tmp_path):
        bad = np.random.default_rng(1).random(SHAPE[2:]) < 0.2
        cube = gpu4d.DataCube(opened(tmp_path / "scan.h5", counts(), chunks=(2, 3, 8, 12))).corrected(bad_pixels=bad)
        return cube.source, fill_from_neighbours(counts(), ~bad)


class TestCorrectedToFloats(SourceTests):
    def make(self, tmp_path):
        dark = np.random.default_rng(2).normal(5.0, 1.0, SHAPE[2:]).astype(np.float32)
        source = gpu4d.DataCube(opened(tmp_path / "scan.h5", counts())).corrected(Dark(dark)).source
        return source, counts().astype(np.float32) - dark


class TestCorrectedArrayOfAnotherLibrary(SourceTests):
    def make(self, tmp_path):
        xp = pytest.importorskip("array_api_strict")
        bad = np.random.default_rng(1).random(SHAPE[2:]) < 0.2
        cube = gpu4d.DataCube(xp.asarray(counts("int32"))).corrected(bad_pixels=bad)
        return cube.source, fill_from_neighbours(counts("int32"), ~bad)


class TestEvents(SourceTests):
    """Each electron an event, in any order."""

    def make(self, tmp_path):
        data = np.random.default_rng(5).poisson(0.3, SHAPE).astype(np.uint8)
        struck = [np.random.default_rng(i).permutation(np.repeat(np.arange(96), n)) for i, n in enumerate(data.reshape(60, 96))]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in struck])])
        return EventSource(offsets, np.concatenate(struck), SHAPE[:2], SHAPE[2:], dtype="uint8"), data


class TestEventsWithCounts(SourceTests):
    """Each pixel once, with its count; patterns as floats, and positions without any event."""

    def make(self, tmp_path):
        data = np.random.default_rng(5).poisson(0.5, SHAPE)
        data[2:4, 3] = 0
        position, pixels = np.nonzero(data.reshape(60, 96))
        offsets, times = np.searchsorted(position, np.arange(61)), data.reshape(60, 96)[position, pixels]
        return EventSource(offsets, pixels.astype("uint16"), SHAPE[:2], SHAPE[2:], times.astype("uint8"), "float32"), data.astype("float32")


class TestCroppedEvents(SourceTests):
    def make(self, tmp_path):
        source, data = TestEvents().make(tmp_path)
        return gpu4d.DataCube(source).crop(rx=(1, 5), qy=(2, 9)).source, data[1:5, :, :, 2:9]
