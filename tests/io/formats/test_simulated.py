"""Files of simulations: Prismatic with its parameters, and abTEM before version 1.0."""

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.formats.abtem import AbTem
from gpu4d.io.formats.prismatic import Prismatic
from gpu4d.testing.formats import FormatTests

SHAPE = (3, 4, 6, 5)


def values():
    return np.random.default_rng(0).random(SHAPE).astype("float32")


def prismatic(path, cubes=("CBED_array_depth0000",), name="datacube", step=0.5, parameters=True):
    """Write Prismatic's output: axes in Å that are labelled as nm, and the parameters of the simulation."""
    with h5py.File(path, "w") as file:
        for cube in cubes:
            group = file.create_group(f"4DSTEM_simulation/data/datacubes/{cube}")
            group.attrs["emd_group_type"] = np.int32(1)
            group.create_dataset(name, data=values(), chunks=(1, 1, *SHAPE[2:]))
            for n, (length, size) in enumerate(zip(SHAPE, (step, step, 0.18, 0.18)), 1):
                group[f"dim{n}"] = (size * np.arange(length)).astype("f4")
                group[f"dim{n}"].attrs["name"] = np.bytes_("R_x R_y Q_x Q_y".split()[n - 1])
                group[f"dim{n}"].attrs["units"] = np.bytes_("[n_m]" if n < 3 else "[n_m^-1]")
        told = file.create_group("4DSTEM_simulation/metadata/metadata_0/original/simulation_parameters")
        if parameters:
            told.attrs.update(E=np.float32(100), sa=np.float32(20), rx=np.float32(0.5), ry=np.float32(0.5), i=np.bytes_("SI100.XYZ"))


class TestPrismatic(FormatTests):
    format, ending = Prismatic(), ".h5"

    def write(self, path):
        prismatic(path)
        return values()


class TestAbTem(FormatTests):
    format, ending = AbTem(), ".hdf5"

    def write(self, path):
        abtem(path)
        return values()


def abtem(path, units=("Å", "Å", "mrad", "mrad"), sampling=(0.2, 0.2, 1.5, 1.5)):
    with h5py.File(path, "w") as file:
        file["array"], file["offset"], file["sampling"] = values(), np.zeros(4), np.array(sampling)
        file["is_none"] = np.zeros(4, bool)
        file["units"] = np.array([u.encode() for u in units], "S10")
        file["name"] = np.array([b"x", b"y", b"alpha_x", b"alpha_y"], "S10")


@pytest.mark.parametrize("name", ["datacube", "data"])
def test_prismatic_computes_in_angstrom(tmp_path, name):
    prismatic(tmp_path / "a.h5", name=name)
    cube = gpu4d.open(tmp_path / "a.h5")
    c = cube.calibration
    assert (c.energy, c.semiangle) == (100e3, 20.0) and abs(c.r_pixel - 0.5) < 1e-6 and abs(c.q_pixel - 0.18) < 1e-6
    told = cube.metadata["attributes"]["/4DSTEM_simulation/metadata/metadata_0/original/simulation_parameters"]
    assert told["i"] == "SI100.XYZ" and cube.name == "CBED_array_depth0000"
    prismatic(tmp_path / "a.h5", step=0.05)  # a version whose labels are right
    assert abs(gpu4d.open(tmp_path / "a.h5").calibration.r_pixel - 0.5) < 1e-6
    prismatic(tmp_path / "a.h5", parameters=False)
    assert gpu4d.open(tmp_path / "a.h5").calibration.energy is None


def test_several_depths_are_not_guessed(tmp_path):
    prismatic(tmp_path / "a.h5", ("CBED_array_depth0000", "CBED_array_depth0001"))
    with pytest.raises(InputError, match=r"2 datasets could be the scan: .*depth0000.*depth0001"):
        gpu4d.open(tmp_path / "a.h5")
    assert gpu4d.open(tmp_path / "a.h5", dataset="/4DSTEM_simulation/data/datacubes/CBED_array_depth0001").name == "CBED_array_depth0001"


def test_abtem_states_angles(tmp_path):
    abtem(tmp_path / "a.hdf5")
    cube = gpu4d.open(tmp_path / "a.hdf5", calibration=gpu4d.Calibration(energy=80e3))
    assert abs(cube.calibration.q_pixel * cube.calibration.wavelength - 1.5e-3) < 1e-8 and abs(cube.calibration.r_pixel - 0.2) < 1e-9
    abtem(tmp_path / "a.hdf5", ("Å", "Å", "1/Å", "1/Å"))
    assert gpu4d.open(tmp_path / "a.hdf5").calibration.q_pixel == 1.5


@pytest.mark.shared
def test_a_simulation_of_silicon(shared_data):
    """The detector's pixel is the inverse of the simulated cell, 5.43 Å: this shows that the axes are in 1/Å."""
    path = shared_data / "vendor/emd/Si100_4D.emd"
    with pytest.raises(InputError, match="2 datasets could be the scan"):
        gpu4d.open(path)
    name = "4DSTEM_simulation/data/datacubes/CBED_array_depth0001/datacube"
    cube = gpu4d.open(path, dataset=name)
    c = cube.calibration
    assert cube.shape == (11, 11, 8, 8) and (c.energy, c.semiangle) == (100e3, 30.0)
    assert abs(c.q_pixel * 5.43 - 1) < 1e-5 and abs(c.r_pixel - 0.5) < 1e-6
    with h5py.File(path) as file:
        assert np.array_equal(cube.source.read(slice(0, 11), slice(0, 11)), file[name][()])


def test_py4dstem_before_version_013(tmp_path):
    """Its axes are in pixels, and its dictionaries say how large these are."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["4DSTEM_experiment/data/datacubes/datacube_0/data"] = values()
        for n in range(4):
            axis = file.create_dataset(f"4DSTEM_experiment/data/datacubes/datacube_0/dim{n + 1}", data=np.arange(SHAPE[n], dtype="f4"))
            axis.attrs["units"] = np.bytes_("[pix]")
        held = file.create_group("4DSTEM_experiment/metadata/calibration")
        for key, value, kind in (
            ("Q_pixel_size", 0.02, "scalar"),
            ("Q_pixel_size_units", "A^-1", "string"),
            ("R_pixel_size", 5.0, "scalar"),
            ("R_pixel_size_units", "nm", "string"),
        ):
            held[key] = value
            held[key].attrs["type"] = kind
        microscope = file.create_group("4DSTEM_experiment/metadata/microscope")
        microscope["beam_energy"], microscope["convergence_semiangle_mrad"], microscope["R_pixel_size"] = 300e3, 1.5, 99.0
    cube = gpu4d.open(tmp_path / "a.h5")
    c = cube.calibration
    assert (c.energy, c.semiangle, c.q_pixel, c.r_pixel) == (300e3, 1.5, 0.02, 50.0), "what was calibrated goes before the microscope's"


def test_raw_frames_of_the_4d_camera(tmp_path):
    """stempy keeps raw frames of the 4D Camera as "frames", with the scan's axes first."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = values()
        file["stem/images"] = np.zeros((2, 3, 4), "u8")
    assert gpu4d.open(tmp_path / "a.h5").shape == SHAPE
