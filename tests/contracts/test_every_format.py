"""Every file format of the library, and one of another package, keeps to the contract."""

import h5py
import numpy as np
from contracts import toy_format

import gpu4d
from gpu4d.io.formats.hdf5 import Hdf5
from gpu4d.io.formats.npy import Npy
from gpu4d.testing.formats import FormatTests


def counts():
    return np.random.default_rng(0).integers(0, 200, (5, 6, 8, 12)).astype("<u2")


class TestNpy(FormatTests):
    format, ending = Npy(), ".npy"

    def write(self, path):
        with open(path, "wb") as file:
            np.save(file, counts())
        return counts()


class TestHdf5(FormatTests):
    format, ending = Hdf5(), ".h5"

    def write(self, path):
        with h5py.File(path, "w") as file:
            file.create_dataset("scan", data=counts(), chunks=(1, 3, 8, 12), compression="gzip")
        return counts()


class TestEmd(FormatTests):
    format, ending = Hdf5(), ".emd"

    def write(self, path):
        gpu4d.save(path, {"cube": gpu4d.DataCube(counts(), calibration=gpu4d.Calibration(energy=200e3))}, overwrite=True)
        return counts()


class TestToy(FormatTests):
    format, ending = toy_format.Toy(), ".toy"

    def write(self, path):
        path.write_bytes(b"TOY4D 5 6 8 12 200e3\n" + counts().tobytes())
        return counts()
