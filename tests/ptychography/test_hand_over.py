"""Files for other engines, read back with h5py, YAML and JSON: every number, unit, sign and order of axes."""

import json

import h5py
import numpy as np
import pytest
from iterative_scans import ENERGY, simulated

import gpu4d
from gpu4d import physics
from gpu4d.cli import run_command
from gpu4d.errors import InputError
from gpu4d.probe.wavefunction import chi
from gpu4d.ptychography import hand_over, read_reconstruction

ABERRATIONS = {"C10": -90.0, "C12": 15.0, "phi12": 0.4, "C21": 300.0, "phi21": -1.1, "C30": 2e4}


def scan(rotation=0.0, transpose=False, shape=(3, 5), detector=(12, 14), origin=(5.0, 8.0), dtype="uint16"):
    data = np.random.default_rng(0).integers(0, 1000, (*shape, *detector)).astype(dtype)
    known = gpu4d.Calibration(
        energy=ENERGY, semiangle=22.0, q_pixel=0.1, r_pixel=0.5, origin=origin, rotation=rotation, transpose=transpose
    )
    return gpu4d.DataCube(data, known), data


def their_chi(x, y, polar):
    """χ by coefficients (n, m, Å, degrees) with azimuths from their x, the second axis, to their y, the first."""
    k, phi, wavelength = np.hypot(x, y), np.arctan2(y, x), physics.wavelength(ENERGY)
    terms = (size * (wavelength * k) ** (n + 1) / (n + 1) * np.cos(m * (phi - np.radians(angle))) for n, m, size, angle in polar)
    return 2 * np.pi / wavelength * sum(terms)


def test_patterns_are_written_with_the_disk_in_the_middle(tmp_path):
    cube, data = scan()
    hand_over(cube, tmp_path, engine="ptyrad")
    with h5py.File(tmp_path / "data.h5") as file:
        found = file["dp"]
        assert found.shape == (15, 14, 14) and found.dtype == "uint16"
        at = np.s_[2:14, 0:13]  # the axis goes from (5, 8) to (7, 7)
        np.testing.assert_array_equal(found[:, *at], data.reshape(15, 12, 14)[:, :, 1:])
        assert found[:].sum() == data[..., 1:].sum()
    turned, data = scan(transpose=True)
    hand_over(turned, tmp_path, engine="phaser", overwrite=True)
    with h5py.File(tmp_path / "data.h5") as file:
        assert file["dp"].shape == (3, 5, 14, 14)
        np.testing.assert_array_equal(file["dp"][:, :, 0:13, 2:14], data[..., 1:].swapaxes(2, 3))


@pytest.mark.parametrize("transpose", [False, True])
def test_parameters_of_ptyrad(tmp_path, transpose, need):
    cube, _ = scan(rotation=0.3, transpose=transpose)
    hand_over(cube, tmp_path, engine="ptyrad", aberrations=ABERRATIONS, modes=3, slices=4, thickness=80.0, sweeps=30, batch=5)
    found = need("yaml").safe_load((tmp_path / "ptyrad.yaml").read_text())
    init = found["init_params"]
    assert (init["probe_kv"], init["pos_N_scan_slow"], init["pos_N_scan_fast"], init["pos_N_scans"]) == (80.0, 3, 5, 15)
    assert init["probe_conv_angle"] == pytest.approx(22.0) and init["pos_scan_step_size"] == 0.5
    assert init["meas_calibration"] == {"mode": "dk", "value": 0.1} and init["meas_Npix"] == 14 and init["probe_pmode_max"] == 3
    assert (init["obj_Nlayer"], init["obj_slice_thickness"]) == (4, 20.0)
    assert init["meas_params"] == {"path": str(tmp_path / "data.h5"), "key": "dp"} and init["meas_flipT"] is None
    assert found["recon_params"]["NITER"] == 30 and found["recon_params"]["BATCH_SIZE"]["size"] == 5
    scale, asymmetry, rotation, shear = init["pos_scan_affine"]
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    position = np.array([1.2, -0.7])  # in scan axes
    theirs = position @ np.array([[c, s], [-s, c]])
    ours = position @ gpu4d.data.scan_axes.scan_matrix(0.3, transpose)
    np.testing.assert_allclose(theirs, ours[::-1] if transpose else ours, atol=1e-12)
    assert (scale, asymmetry, shear) == (1, 0, 0)
    given = init["probe_aberrations"]
    polar = [(int(k[1]), int(k[2]), v, given.get(f"phi{k[1:]}", 0.0)) for k, v in given.items() if k[0] == "C"]
    first, second = np.array([0.11, 0.3, -0.2]), np.array([0.25, -0.1, -0.31])  # of k, along the axes of the detector
    y, x = (second, first) if transpose else (first, second)
    np.testing.assert_allclose(their_chi(x, y, polar), chi(first, second, ABERRATIONS, ENERGY), rtol=1e-9)


@pytest.mark.parametrize("transpose", [False, True])
def test_plan_of_phaser(tmp_path, transpose, need):
    cube, _ = scan(rotation=-0.4, transpose=transpose)
    hand_over(cube, tmp_path, engine="phaser", aberrations=ABERRATIONS, slices=2, thickness=30.0)
    plan = need("yaml").safe_load((tmp_path / "phaser.yaml").read_text())
    raw, probe, raster = plan["raw_data"], plan["init"]["probe"], plan["init"]["scan"]
    assert raw["type"] == "manual" and raw["path"] == str(tmp_path / "data.h5") and raw["key"] == "dp" and raw["kv"] == 80.0
    assert physics.wavelength(ENERGY) / (raw["diff_step"] * 1e-3) == pytest.approx(1 / 0.1)  # the field, Å
    assert raster["shape"] == [3, 5] and raster["step_size"] == 0.5 and plan["slices"] == {"n": 2, "slice_thickness": 15.0}
    position = np.array([1.2, -0.7])
    ours = position @ gpu4d.data.scan_axes.scan_matrix(-0.4, transpose)
    np.testing.assert_allclose(position @ np.array(raster["affine"]).T, ours[::-1] if transpose else ours, atol=1e-12)
    polar = [(1, 0, probe["defocus"], 0.0)] + [(a["n"], a["m"], a["mag"], a["angle"]) for a in probe["aberrations"]]
    assert probe["defocus"] == -90.0 and probe["conv_angle"] == pytest.approx(22.0)
    first, second = np.array([0.11, 0.3, -0.2]), np.array([0.25, -0.1, -0.31])
    y, x = (second, first) if transpose else (first, second)
    np.testing.assert_allclose(their_chi(x, y, polar), chi(first, second, ABERRATIONS, ENERGY), rtol=1e-9)
    engine = plan["engines"][0]
    assert engine["type"] == "conventional" and engine["niter"] == 50 and engine["grouping"] == 128 and engine["probe_modes"] == 1


@pytest.mark.parametrize("transpose", [False, True])
def test_files_of_pty_chi_describe_the_scan(tmp_path, transpose):
    """Patterns made of the written probe, at the written positions, are those that were written."""
    one = simulated(6, rotation=0.4, transpose=transpose)
    hand_over(one.cube, tmp_path, engine="pty-chi", aberrations=one.aberrations, modes=2)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["data_options"] == {"wavelength_m": pytest.approx(physics.wavelength(ENERGY) * 1e-10), "fft_shift": True}
    assert settings["object_options"]["pixel_size_m"] == pytest.approx(0.32e-10)
    assert settings["reconstructor_options"] == {"num_epochs": 50, "batch_size": 128}
    with h5py.File(tmp_path / "data.h5") as file, h5py.File(tmp_path / "parameters.h5") as start:
        patterns, probe = file["dp"][:], start["probe"][:]
        y, x = start["probe_position_y_m"][:] * 1e10, start["probe_position_x_m"][:] * 1e10
        objects = start["object"]
        assert probe.shape == (1, 2, 32, 32) and objects.shape[0] == 1 and objects.attrs["pixel_height_m"] == pytest.approx(0.32e-10)
        assert (np.array(objects.shape[1:]) * 0.32 >= np.ptp([y, x], axis=1) + 32 * 0.32).all()
    assert abs(y.max() + y.min()) < 1e-9 and abs(x.max() + x.min()) < 1e-9
    matrix = gpu4d.data.scan_axes.scan_matrix(0.4, transpose)
    center = np.array([1.5, 1.5])  # of the scan, Å
    grid = (np.arange(32) - 16) * 0.32
    own = probe[0, 0] / np.linalg.norm(probe[0, 0])
    for i in (0, 7, 35):
        theirs = np.stack(np.meshgrid(y[i] + grid, x[i] + grid, indexing="ij"), -1)
        in_detector = theirs[..., ::-1] if transpose else theirs
        seen = np.exp(1j * one.phase(in_detector @ matrix.T + center))
        made = np.fft.fftshift(np.abs(np.fft.fft2(own * seen)) ** 2) / 32**2
        assert np.corrcoef(made.ravel(), patterns[i].ravel())[0, 1] > 0.9999


def test_results_of_engines_are_read_back(tmp_path):
    phase = np.random.default_rng(0).normal(size=(2, 7, 9)) * 0.2
    with h5py.File(tmp_path / "ptyrad.hdf5", "w") as file:
        file["optimizable_tensors/objp"], file["model_attributes/dx"] = np.stack([phase, phase * 0]), 0.25
    with h5py.File(tmp_path / "phaser.h5", "w") as file:
        file["object/data"], file["object/sampling"] = np.exp(1j * phase), [0.25, 0.25]
    with h5py.File(tmp_path / "pty-chi.h5", "w") as file:
        file["object"] = np.exp(1j * phase)
        file["object"].attrs["pixel_height_m"] = 0.25e-10
    for name in ("ptyrad.hdf5", "phaser.h5", "pty-chi.h5"):
        found = read_reconstruction(tmp_path / name)
        np.testing.assert_allclose(found, phase.sum(0) - phase.sum(0).mean(), atol=1e-12)
        assert found.pixel_size == pytest.approx(0.25) and found.pixel_units == "Å" and found.units == "rad"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.zeros(3)
    with pytest.raises(InputError, match="holds image, and no object"):
        read_reconstruction(tmp_path / "other.h5")
    with pytest.raises(InputError, match="cannot be read"):
        read_reconstruction(tmp_path / "absent.h5")


def test_what_is_refused(tmp_path, caplog):
    cube, _ = scan(origin=(5.3, 8.0))
    hand_over(cube, tmp_path / "a", engine="ptyrad")
    assert "px from the pixel" in caplog.text and "written as 0" in caplog.text
    with pytest.raises(InputError, match=r"data.h5, ptyrad.yaml already"):
        hand_over(cube, tmp_path / "a", engine="ptyrad")
    for options, message in (
        ({"engine": "tike"}, "engine='tike'"),
        ({"engine": "phaser", "slices": 2}, "thickness=None"),
        ({"engine": "phaser", "modes": 0}, "modes=0"),
        ({"engine": "phaser", "aberrations": {"C99": 1}}, "C99"),
    ):
        with pytest.raises(InputError, match=message):
            hand_over(cube, tmp_path / "b", **options)
    assert not (tmp_path / "b").exists()


def test_the_command_line_exports(tmp_path, capsys, need):
    cube, _ = scan(shape=(4, 4))
    gpu4d.save(tmp_path / "scan.h5", {"cube": cube})
    flags = ["--for", "ptyrad", "-o", str(tmp_path / "out"), "--rotation", "20", "--defocus", "150", "--energy", "200keV"]
    assert run_command(["export", str(tmp_path / "scan.h5"), *flags]) == 0
    assert "ptyrad.yaml" in capsys.readouterr().out
    init = need("yaml").safe_load((tmp_path / "out" / "ptyrad.yaml").read_text())["init_params"]
    assert init["probe_kv"] == 200.0 and init["probe_aberrations"] == {"C10": -150.0}
    assert init["pos_scan_affine"][2] == pytest.approx(-20.0)
    assert run_command(["export", str(tmp_path / "scan.h5"), *flags]) == 1
    assert "--overwrite" in capsys.readouterr().err
    flags = [str(tmp_path / "scan.h5"), "--for", "ptyrad", "-o", str(tmp_path / "more"), "--energy", "200keV"]
    assert run_command(["export", *flags, "--aberrations", "C10=-190,C12=42, phi12=0"]) == 0
    init = need("yaml").safe_load((tmp_path / "more" / "ptyrad.yaml").read_text())["init_params"]
    assert init["probe_aberrations"]["C10"] == -190.0 and init["probe_aberrations"]["C12"] == 42.0
    for wrong, said in ((["--aberrations", "C10:5"], "NAME=NUMBER"), (["--fit", "--defocus", "3"], "one of the two")):
        assert run_command(["export", *flags, *wrong, "--overwrite"]) != 0
        assert said in capsys.readouterr().err


def test_the_command_line_fits_the_probe(tmp_path, need):
    made = gpu4d.simulate.phase_object_scan((28, 28), (36, 36), r_pixel=0.35, strength=0.2, defocus=90.0)
    c = made.cube.calibration
    c.set(origin=(18, 18))
    gpu4d.save(tmp_path / "scan.h5", {"cube": made.cube})
    assert run_command(["export", str(tmp_path / "scan.h5"), "--for", "ptyrad", "-o", str(tmp_path / "out"), "--fit"]) == 0
    init = need("yaml").safe_load((tmp_path / "out" / "ptyrad.yaml").read_text())["init_params"]
    assert init["probe_aberrations"]["C10"] == pytest.approx(-90, abs=8)
