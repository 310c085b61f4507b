"""`gpu4d calibrate`: what it measures in simulated standards with truth, what it writes, and what it says if it cannot."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.cli import run_command
from gpu4d.data import PointListArray
from gpu4d.errors import InputError
from gpu4d.io import load_calibration
from gpu4d.workflow.calibrate_file import calibrate_file
from gpu4d.workflow.calibrating.disks import take_disks
from gpu4d.workflow.calibrating.work import Work
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.record import Record, SilentWatcher


def recipe(**settings):
    made = Recipe()
    for name, value in settings.items():
        made.set(name.replace("__", "."), value)
    return made


def test_rings_of_a_standard(shared_data, tmp_path):
    name = shared_data / "polycrystal_rings.h5"
    with h5py.File(name) as file:
        center, (a, b, theta), q = file["truth/center_px"][:], file["truth/ellipse"][:], file.attrs["detector_pixel_1_per_A"]
    found = calibrate_file(name, tmp_path / "c.toml", standards=["Au"], recipe=recipe(input__dataset="/scan_poisson_20000"))
    c = load_calibration(tmp_path / "c.toml").calibration
    assert np.abs(c.origin - center).max() < 0.02
    assert abs(c.ellipse[0] / c.ellipse[1] - a / b) < 3e-4 and abs(np.rad2deg(c.ellipse[2] - theta)) < 0.4
    assert abs(c.q_pixel / q - 1) < 5e-4
    assert c.ellipse_error[0] < 1e-3 and 0 < c.q_pixel_error < 1e-4 * c.q_pixel
    assert found.calibration.outdated == () and "rings" in found.summary()
    about = load_calibration(tmp_path / "c.toml").about
    assert about.standard == "Au" and about.detector_shape == (256, 256) and about.file == str(name.resolve())


def test_disks_of_a_single_crystal(shared_data, tmp_path):
    """The disk gives a pixel size that tells which disk is on which ring; the disks' distances then give a better one."""
    settings = recipe(input__dataset="/poisson_1e5", calibration__energy=200e3, calibration__semiangle=3.0)
    found = calibrate_file(shared_data / "au_nbed_strain.h5", tmp_path / "c.toml", standards=["Au"], recipe=settings)
    c = found.calibration
    assert c.q_pixel == pytest.approx(0.0199367, rel=4e-3), "too large by 0.3 %: rocking curves shift the disks"
    cube = gpu4d.open(shared_data / "au_nbed_strain.h5", dataset="/poisson_1e5")
    disks = gpu4d.find_bragg_disks(cube, gpu4d.probe.synthetic(cube.detector_shape, 6.0), progress=False)
    origin = gpu4d.calibrate.origin(disks)
    lengths = gpu4d.crystal.lattice_lengths(gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, origin), origin=origin)).lengths
    assert c.q_pixel == pytest.approx(1 / (np.mean(lengths) * 4.0786 / 2), rel=1e-3), "the shift is that of the disks; {200} planes"
    assert any("lengths 0.1 to 0.3 % too short" in line for line in found.said)
    assert c.ellipse[0] - 1 < 3 * c.ellipse_error[0] + 1e-3, "there is no ellipse"
    assert c.origin.shape == (24, 24, 2) and c.probe_radius == pytest.approx(6.0, rel=0.03)


def test_why_disks_of_a_single_crystal_lie_too_near_to_the_beam(shared_data):
    """The pixel size of the test above is that of the data: in the simulator's patterns without noise the disks lie inside of their nodes.

    The Ewald sphere lies λ (g²/2 + g k) from a node at the place k along g of its disk. So the intensity sin²(πts)/(πts)² of a slab of
    thickness t falls across the disk, and its centre of mass moves inwards by more than g² grows. Multiple scattering adds as much again.
    """
    with h5py.File(shared_data / "au_nbed_strain.h5") as file:
        pattern, strain = file["truth/noisefree_state_patterns_256"][0], file["truth/state_exx_eyy_exy_theta"][0]
        pixel, wave = file.attrs["detector_pixel_1_per_A"] / 2, file.attrs["wavelength_A"]
    assert not strain.any()
    axis = np.arange(256) - 128.0
    inwards = {}
    for order in ((2, 0), (2, 2), (4, 0)):
        turn = np.radians(11) + np.arctan2(order[1], order[0])
        g = np.hypot(*order) / 4.078
        x, y = axis[None, :] - g / pixel * np.cos(turn), axis[:, None] - g / pixel * np.sin(turn)
        light = pattern * (np.hypot(x, y) < 13.5)
        measured = -float((light * (x * np.cos(turn) + y * np.sin(turn))).sum() / light.sum()) / (g / pixel)
        along = np.linspace(-12, 12, 2001)  # px: the disk has a radius of 3 mrad
        rocking = np.sinc(24.5 * wave * (g**2 / 2 + g * along * pixel)) ** 2 * np.sqrt(144 - along**2)
        slab = -float((rocking * along).sum() / rocking.sum()) / (g / pixel)
        inwards[order] = measured, slab
        assert slab < measured < 3 * slab, order
    assert 1e-3 < inwards[2, 0][0] < 3e-3 and inwards[4, 0][0] > 3 * inwards[2, 0][0]


def test_an_ellipse_that_the_lattice_contradicts_is_not_written(monkeypatch):
    """The distances of the disks may be taken for those of another zone axis. The angles of the lattice tell."""
    h, k = np.mgrid[-2:3, -2:3].reshape(2, -1)
    v = np.stack([h, k], -1) * (2 / 4.0782 / 0.02) @ np.diag([1.03, 1.0]) + 64
    q = np.tile(v, (64, 1)) + np.random.default_rng(0).normal(0, 0.03, (1600, 2))
    disks = PointListArray(np.arange(65) * 25, {"qx": q[:, 0], "qy": q[:, 1], "intensity": np.ones(1600)}, (8, 8))
    origin = gpu4d.calibrate.origin(disks, method="auto", fit="auto", guess=(64, 64))
    lattice, crystal = gpu4d.find_lattice(disks, origin), gpu4d.structures.Structure.standard("Au")

    def measured():
        work = Work(gpu4d.DataCube(np.zeros((8, 8, 128, 128), "u1")), Recipe(), Record(SilentWatcher()), [crystal])
        work.cube.calibration.q_pixel = 0.021
        take_disks(work, disks, lattice, origin)
        return work.cube.calibration, work.said

    c, said = measured()
    assert c.ellipse[0] == pytest.approx(1.03, abs=1e-3) and c.q_pixel == pytest.approx(0.02, rel=1e-3)
    assert [line[:11] for line in said] == ["one crystal"]
    right = gpu4d.calibrate.fit_peaks(disks, "Au", origin=(64, 64), q_pixel=0.021)
    wrong = replace(right, stretch=np.array([0.0, 0.04]), ellipse=(np.exp(0.08), 1.0, np.pi / 4))
    monkeypatch.setattr(gpu4d.calibrate, "fit_peaks", lambda *given, **settings: wrong)
    c, said = measured()
    assert c.ellipse is None and c.q_pixel == 0.021
    assert "their lattice is square behind another ellipse" in said[-1]
    unsure = replace(right, rivals=(gpu4d.calibrate.Rival(1.06, 0.4, 0.0217, 0.2),))
    monkeypatch.setattr(gpu4d.calibrate, "fit_peaks", lambda *given, **settings: unsure)
    c, said = measured()
    assert c.ellipse is None and c.q_pixel == 0.021
    assert "not sure" in said[-1] and "a pixel of 0.0217 and an ellipse a/b 1.060 (20 %)" in said[-1] and "powder" in said[-1]


@pytest.mark.slow
def test_hot_and_missing_pixels_do_no_harm(shared_data, tmp_path):
    with h5py.File(shared_data / "polycrystal_rings.h5") as file:
        data, center, (a, b, _) = file["scan_poisson_20000"][:].astype(np.float32), file["truth/center_px"][:], file["truth/ellipse"][:]
    away = np.hypot(*(np.indices(data.shape[2:]) - center[:, None, None]))
    x, y = np.unravel_index((data.mean((0, 1)) * (away > 20)).argmax(), away.shape)  # on a ring
    data[..., x, y] = 0
    data[..., 30, 200] = 5000  # on no ring
    data[..., 90, 90] = np.nan
    np.save(tmp_path / "bad.npy", data)
    found = calibrate_file(tmp_path / "bad.npy", tmp_path / "c.toml", standards=["Au"])
    nan, defect = (line for line in found.said if "left out" in line)
    assert nan == "1 detector pixel is left out: (90, 90): NaN or infinite in most of 16 patterns spread over the scan"
    both = ", ".join(f"({i}, {j})" for i, j in sorted([(x, y), (30, 200)]))
    assert defect.startswith(f"2 detector pixels are left out: {both}: 1 hot") and "1 dead" in defect
    c = found.calibration
    assert np.abs(c.origin - center).max() < 0.02 and abs(c.ellipse[0] / c.ellipse[1] - a / b) < 3e-4
    with pytest.raises(InputError, match="nothing could be measured"):  # asked to keep them: no pattern has a sum
        calibrate_file(tmp_path / "bad.npy", tmp_path / "kept.toml", standards=["Au"], recipe=recipe(input__bad_pixels="keep"))


def test_a_diffuse_ring_gives_the_ellipse(shared_data, tmp_path):
    found = calibrate_file(shared_data / "amorphous_strain.h5", tmp_path / "c.toml")
    assert found.calibration.ellipse[0] < 1.01 and found.calibration.ellipse_error[0] < 2e-3
    assert any("no pixel size: name the specimen" in line for line in found.said)


def test_a_thin_specimen_gives_the_rotation(shared_data, tmp_path):
    settings = recipe(input__dataset="/poisson_1e5", calibration__energy=80e3, calibration__semiangle=25.0)
    c = calibrate_file(shared_data / "mos2_ssb_infocus.h5", tmp_path / "c.toml", recipe=settings).calibration
    assert abs(c.rotation) < np.deg2rad(1) and c.rotation_error < np.deg2rad(1) and c.transpose is False
    assert c.q_pixel == pytest.approx(1 / 22, rel=0.03) and c.origin is not None


def test_the_command_line(tmp_path, capsys, shared_data):
    out = tmp_path / "calibration.toml"
    name = str(shared_data / "polycrystal_rings.h5")
    assert run_command(["calibrate", name, "--dataset", "/sum_pattern", "--standard", "Au", "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "a/b = 1.03" in said and str(out) in said
    assert run_command(["calibrate", name, "--dataset", "/sum_pattern", "--standard", "Au", "-o", str(out)]) == 1
    assert "exists" in capsys.readouterr().err


def test_what_is_refused(tmp_path):
    np.save(tmp_path / "scan.npy", np.ones((4, 4, 16, 16), "u2"))
    with pytest.raises(InputError, match="--standard Unobtainium: there is no such standard or CIF file; standards are "):
        calibrate_file(tmp_path / "scan.npy", tmp_path / "c.toml", standards=["Unobtainium"])
    for name in ("Au", "au"):  # capitals do not matter
        with pytest.raises(InputError, match=r"nothing could be measured in .* no rings of Au"):
            calibrate_file(tmp_path / "scan.npy", tmp_path / "c.toml", standards=[name])
    assert not (tmp_path / "c.toml").exists()
    with pytest.raises(InputError, match="is an input of the calibration, and is never replaced"):
        calibrate_file(tmp_path / "scan.npy", tmp_path / "scan.npy", overwrite=True)
    assert np.load(tmp_path / "scan.npy").shape == (4, 4, 16, 16)
    with pytest.raises(InputError, match="leave out swapped axes"):
        calibrate_file(tmp_path / "scan.npy", tmp_path / "c.toml", recipe=recipe(input__bin_detector=2))


@pytest.mark.parametrize("degrees", [30, 120, -150])
def test_the_rotation_is_that_of_the_contrast_and_not_180_degrees_off(tmp_path, degrees):
    scan = gpu4d.simulate.phase_object_scan((32, 32), (48, 48), r_pixel=0.25, dose=2e5, rotation=np.deg2rad(degrees), seed=1)
    gpu4d.save(tmp_path / "scan.h5", {"scan": scan.cube}, links="copy")
    c = calibrate_file(tmp_path / "scan.h5", tmp_path / "c.toml").calibration
    assert abs(np.angle(np.exp(1j * (c.rotation - np.deg2rad(degrees))))) < np.deg2rad(2)


def test_a_given_pixel_size_tells_rings_apart(tmp_path):
    """Only 220 and 311 of gold: without the pixel size they may be other rings."""
    x, y = np.indices((120, 120)) - 59.5
    g = np.sqrt([8.0, 11.0]) / 4.0786
    expected = 5 + sum(80 * np.exp(-(((np.hypot(x, y) - one / 0.019) / 1.5) ** 2)) for one in g)
    np.save(tmp_path / "rings.npy", np.random.default_rng(0).poisson(expected).astype("u2"))
    found = calibrate_file(tmp_path / "rings.npy", tmp_path / "c.toml", standards=["Au"], recipe=recipe(calibration__q_pixel=0.0188))
    assert found.calibration.q_pixel == pytest.approx(0.019, rel=2e-3)


@pytest.mark.slow
def test_behind_a_beam_stop_the_origin_has_its_step_and_no_radius_is_made_up(shared_data, tmp_path):
    with h5py.File(shared_data / "origin_drift.h5") as file:
        np.save(tmp_path / "scan.npy", file["beam_stop_poisson_4000"][:])
        np.save(tmp_path / "mask.npy", ~file["truth/beam_stop_mask"][:])
        truth = file["truth/origin_px"][:]
    settings = recipe(input__detector_mask=str(tmp_path / "mask.npy"))
    found = calibrate_file(tmp_path / "scan.npy", tmp_path / "c.toml", recipe=settings)
    assert np.median(np.linalg.norm(found.calibration.origin - truth, axis=-1)) < 0.1
    assert any("step at scan row 15" in line for line in found.said)
    written = load_calibration(tmp_path / "c.toml").calibration
    assert written.origin.shape == (2,) and written.origin_error > 1, "a mean of an origin that varies by pixels"
    assert written.probe_radius is None or written.probe_radius < 4


@pytest.mark.slow
def test_a_beam_stop_without_its_mask_gives_no_radius(shared_data, tmp_path):
    """The edge of its shadow was taken for that of a disk: 16 ± 7 px in place of 2.9 px."""
    settings = recipe(input__dataset="/poisson_10000")
    try:
        found = calibrate_file(shared_data / "beam_stop_bragg.h5", tmp_path / "c.toml", recipe=settings).calibration
    except InputError as error:
        assert "no probe radius" in str(error) and not (tmp_path / "c.toml").exists()
    else:
        assert found.probe_radius is None or abs(found.probe_radius - 2.9) < 0.5
