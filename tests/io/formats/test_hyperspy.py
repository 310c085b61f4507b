"""HyperSpy's .hspy files: which signal is the scan, and what its axes and metadata say."""

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.converting import convert
from gpu4d.io.format import OpenOptions
from gpu4d.io.formats.hyperspy import HyperSpy
from gpu4d.testing.formats import FormatTests

SHAPE = (3, 4, 6, 5)
AXES = (("y", "nm", 0.5), ("x", "nm", 0.5), ("ky", "$A^{-1}$", 0.02), ("kx", "$A^{-1}$", 0.02))


def values(shape=SHAPE):
    return np.random.default_rng(0).integers(0, 60_000, shape).astype("uint16")


def write(path, data, axes=AXES, title="My scan", mode="w", **layout):
    """Write a signal as HyperSpy 2 lays it out: text of any length in attributes."""
    with h5py.File(path, mode) as file:
        file.attrs["file_format"], file.attrs["file_format_version"] = "HyperSpy", "3.3"
        signal = file.create_group(f"Experiments/{title}")
        signal.create_dataset("data", data=data, **layout)
        for n, (name, units, scale) in enumerate(axes):
            axis = signal.create_group(f"axis-{n}")
            told = {
                "_type": "UniformDataAxis",
                "name": name,
                "units": units,
                "scale": scale,
                "offset": 0.0,
                "size": data.shape[n],
                "navigate": n < 2,
            }
            axis.attrs.update(told)
        microscope = signal.create_group("metadata/Acquisition_instrument/TEM")
        microscope.attrs.update(beam_energy=200.0, convergence_angle=3.0, camera_length=11.5)
        signal.create_group("metadata/General").attrs["title"] = title
        signal.create_group("original_metadata/a").attrs["d"] = "text"
        signal["original_metadata/a"].create_dataset("_list_c", data=[1, 2, 3])
        signal.create_group("learning_results")


class TestHyperSpy(FormatTests):
    format, ending = HyperSpy(), ".hspy"

    def write(self, path):
        write(path, values(), chunks=(2, 3, 6, 5), compression="gzip", shuffle=True)
        return values()


class TestHyperSpyFrames(FormatTests):
    """One axis of navigation, big-endian, without chunks."""

    format, ending = HyperSpy(), ".hspy"

    def write(self, path):
        write(path, values().reshape(12, 6, 5).astype(">u2"), AXES[1:])
        return values()

    def options(self):
        return OpenOptions(scan_shape=(3, 4))


def test_scales_units_energy_and_angle(tmp_path):
    write(tmp_path / "a.hspy", values())
    cube = gpu4d.open(tmp_path / "a.hspy")
    c = cube.calibration
    assert (c.energy, c.semiangle, c.q_pixel, c.r_pixel) == (200e3, 3.0, 0.02, 5.0) and cube.name == "My scan"
    told = cube.metadata["attributes"]["/Experiments/My scan/metadata/Acquisition_instrument/TEM"]
    assert told["camera_length"] == 11.5
    assert cube.metadata["attributes"]["/Experiments/My scan/original_metadata/a"]["d"] == "text"
    assert cube.metadata["values"]["original_metadata"]["a"]["_list_c"].tolist() == [1, 2, 3]


def test_what_gpu4d_wrote_comes_back(tmp_path):
    mask = np.ones((6, 5), bool)
    mask[2, 3] = False
    cube = gpu4d.DataCube(values(), gpu4d.Calibration(q_pixel=0.02, rotation=0.3), {"note": "x"}, mask, "a name")
    convert(cube, str(tmp_path / "a.hspy"))
    found = gpu4d.open(tmp_path / "a.hspy")
    assert found.calibration.rotation == 0.3 and found.name == "a name" and found.metadata["source"] == {"note": "x"}
    assert np.array_equal(np.asarray(found.detector_mask), mask)
    with h5py.File(tmp_path / "a.hspy", "a") as file:  # HyperSpy changes the units and saves it
        del file["Experiments/a name"].attrs["written_by"]
        file["Experiments/a name/axis-2"].attrs["scale"] = file["Experiments/a name/axis-3"].attrs["scale"] = 0.04
    found = gpu4d.open(tmp_path / "a.hspy")
    assert found.calibration.q_pixel == 0.04 and found.calibration.rotation is None and found.metadata["source"] == {"note": "x"}


@pytest.mark.parametrize(
    "units, scale, per_angstrom",
    [("mrad", 0.5, 0.5e-3 / 0.02507934), ("1/nm", 0.2, 0.02), ("px", 1.0, None), ("nm", 1.0, None), ("nm^-1", -0.2, 0.02)],
)
def test_units_of_the_detector(tmp_path, units, scale, per_angstrom):
    write(tmp_path / "a.hspy", values(), (*AXES[:2], ("ky", units, scale), ("kx", units, scale)))
    found = gpu4d.open(tmp_path / "a.hspy").calibration.q_pixel
    assert found is per_angstrom if per_angstrom is None else abs(found - per_angstrom) < 1e-6


def test_axes_that_say_nothing(tmp_path):
    write(tmp_path / "a.hspy", values(), (*AXES[:2], ("ky", "1/nm", 0.2), ("kx", "1/nm", 0.3)))
    cube = gpu4d.open(tmp_path / "a.hspy")
    assert cube.calibration.q_pixel is None and cube.calibration.r_pixel == 5.0, "pixels are not square"
    write(tmp_path / "a.hspy", values(), AXES[:3])
    with h5py.File(tmp_path / "a.hspy", "a") as file:
        file["Experiments/My scan/metadata/Acquisition_instrument/TEM"].attrs["beam_energy"] = "200 kV"
    cube = gpu4d.open(tmp_path / "a.hspy")
    assert cube.shape == SHAPE and cube.calibration.r_pixel is None and cube.calibration.energy is None


def test_one_of_several_signals(tmp_path):
    write(tmp_path / "a.hspy", values())
    write(tmp_path / "a.hspy", values((20, 30)), (), "an image", "a")
    assert gpu4d.open(tmp_path / "a.hspy").name == "My scan"
    write(tmp_path / "a.hspy", values((2, 3, 9, 8)), AXES, "another", "a")
    with pytest.raises(InputError, match=r"2 datasets could be the scan: .*another"):
        gpu4d.open(tmp_path / "a.hspy")
    cube = gpu4d.open(tmp_path / "a.hspy", dataset="Experiments/another/data")
    assert cube.shape == (2, 3, 9, 8) and cube.calibration.q_pixel == 0.02
    write(tmp_path / "a.hspy", values((12, 6, 5)), AXES[1:])
    with pytest.raises(InputError, match=r"scan_shape=\(Rx, Ry\)"):
        gpu4d.open(tmp_path / "a.hspy")
    cube = gpu4d.open(tmp_path / "a.hspy", scan_shape=(4, 3))
    assert cube.calibration.q_pixel == 0.02 and cube.calibration.r_pixel is None
