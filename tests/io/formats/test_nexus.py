"""NeXus files: the default plot leads to the signal and names its axes, in the newer and the older form."""

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.format import OpenOptions
from gpu4d.io.formats.nexus import NeXus
from gpu4d.testing.formats import FormatTests

SHAPE = (3, 4, 6, 5)


def values(shape=SHAPE):
    return np.random.default_rng(0).integers(0, 60_000, shape).astype("uint16")


def write(path, data, older=False, default=True, axes=(("y", 0.5, "nm"), ("x", 0.5, "nm"), ("ky", 2.0, "mrad"), ("kx", 2.0, "mrad"))):
    """Write an entry with data and a beam, as NeXus describes them."""
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        plot = entry.create_group("data")
        entry.attrs["NX_class"], plot.attrs["NX_class"] = "NXentry", "NXdata"
        if default:
            file.attrs["default"], entry.attrs["default"] = "entry", "data"
        signal = plot.create_dataset("counts", data=data)
        names = [name for name, _, _ in axes]
        if older:
            signal.attrs["signal"], signal.attrs["axes"] = 1, ":".join(names)
        else:
            plot.attrs["signal"], plot.attrs["axes"] = "counts", names
        for (name, step, units), n in zip(axes, data.shape):
            plot[name] = step * np.arange(n)
            plot[name].attrs["units"] = units
        beam = entry.create_group("instrument/beam")
        entry["instrument"].attrs["NX_class"], beam.attrs["NX_class"] = "NXinstrument", "NXbeam"
        beam["incident_energy"] = 200.0
        beam["incident_energy"].attrs["units"] = "keV"


class TestNeXus(FormatTests):
    format, ending = NeXus(), ".nxs"

    def write(self, path):
        write(path, values())
        return values()


class TestNeXusOlderForm(FormatTests):
    """The signal is marked by an attribute of its own, and counts frames."""

    format, ending = NeXus(), ".nxs"

    def write(self, path):
        write(
            path,
            values().reshape(12, 6, 5).astype(">u2"),
            older=True,
            default=False,
            axes=(("n", 1, ""), ("ky", 2, "mrad"), ("kx", 2, "mrad")),
        )
        return values()

    def options(self):
        return OpenOptions(scan_shape=(3, 4))


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("default", [False, True])
def test_steps_units_and_energy(tmp_path, older, default):
    write(tmp_path / "a.nxs", values(), older, default)
    cube = gpu4d.open(tmp_path / "a.nxs")
    assert cube.calibration.energy == 200e3 and abs(cube.calibration.r_pixel - 5) < 1e-9 and cube.name == "counts"
    assert abs(cube.calibration.q_pixel * cube.calibration.wavelength - 2e-3) < 1e-8
    assert cube.metadata["values"]["instrument"]["beam"]["incident_energy"] == 200.0


def test_the_default_is_taken_of_several(tmp_path):
    write(tmp_path / "a.nxs", values())
    with h5py.File(tmp_path / "a.nxs", "a") as file:
        other = file.create_group("entry/other")
        other.attrs["NX_class"], other.attrs["signal"] = "NXdata", "d"
        other["d"] = values((2, 2, 7, 7))
    assert gpu4d.open(tmp_path / "a.nxs").shape == SHAPE
    assert gpu4d.open(tmp_path / "a.nxs", dataset="entry/other/d").shape == (2, 2, 7, 7)
    with h5py.File(tmp_path / "a.nxs", "a") as file:
        del file.attrs["default"]
    with pytest.raises(InputError, match="2 datasets could be the scan"):
        gpu4d.open(tmp_path / "a.nxs")


def test_what_is_no_scan_is_opened_as_any_hdf5(tmp_path):
    write(tmp_path / "a.nxs", values((6, 5)), axes=())
    with h5py.File(tmp_path / "a.nxs", "a") as file:
        file["elsewhere"] = values()
    assert gpu4d.open(tmp_path / "a.nxs").shape == SHAPE
    write(tmp_path / "a.nxs", values())
    for default in ("entry/nowhere", "/", "entry/data/counts", "x" * 10_000):
        with h5py.File(tmp_path / "a.nxs", "a") as file:
            file.attrs["default"] = default
        assert gpu4d.open(tmp_path / "a.nxs").shape == SHAPE
    with h5py.File(tmp_path / "a.nxs", "a") as file:
        file.attrs["default"] = "entry"
        file["entry"].attrs["default"] = "../entry"
        file["entry/data"].attrs["axes"] = ["ky"] * 400 + ["nothing"]
        file["entry/loop"] = file["entry"]
    assert gpu4d.open(tmp_path / "a.nxs").shape == SHAPE


def test_another_file_with_the_signal_is_named(tmp_path):
    write(tmp_path / "a.nxs", values())
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = values()
    with h5py.File(tmp_path / "a.nxs", "r+") as file:
        del file["entry/data/counts"]
        file["entry/data/counts"] = h5py.ExternalLink("b.h5", "x")
    assert gpu4d.open(tmp_path / "a.nxs").source.description.endswith("b.h5")
