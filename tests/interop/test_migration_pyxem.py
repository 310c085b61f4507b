"""Every row of the page for users of pyxem and HyperSpy, asserted with pyxem itself."""

import importlib
import inspect

import numpy as np
import pytest
from interop_scans import disks, our_strain, scan, strained
from migration_rows import assert_same_rows, python_of, rows_of

import gpu4d
from gpu4d import Calibration, DataCube
from gpu4d.crystal.deformation import components
from gpu4d.interop.hyperspy import from_hyperspy
from gpu4d.interop.pyxem import from_pyxem, to_pyxem

ROWS = rows_of("from-pyxem")
DATA = np.random.default_rng(0).poisson(5, (3, 4, 28, 24)).astype("u2")


def _signals():
    return importlib.import_module("pyxem.signals")


def _hs():
    return importlib.import_module("hyperspy.api")


def _signal(data=DATA, q_pixel=0.02, center=None):
    made = _signals().ElectronDiffraction2D(np.array(data))
    made.set_diffraction_calibration(q_pixel)
    if center is not None:
        made.calibration.center = center
    return made


def arrays(cells):
    signal = _signal()
    np.testing.assert_array_equal(np.asarray(from_pyxem(signal)), DATA)
    np.testing.assert_array_equal(signal.inav[3, 1].data, DATA[1, 3])  # x, the second axis, first


def files(cells):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        _signal(center=(9, 11)).save(f"{folder}/scan.hspy")
        ours, theirs = gpu4d.open(f"{folder}/scan.hspy"), from_hyperspy(_hs().load(f"{folder}/scan.hspy"))
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
        assert ours.calibration.q_pixel == pytest.approx(theirs.calibration.q_pixel)


def energy(cells):
    signal = _signal()
    signal.beam_energy = 200
    assert from_pyxem(signal).calibration.energy == 200e3


def center(cells):
    np.testing.assert_allclose(from_pyxem(_signal(center=(9, 11))).calibration.origin, (11, 9), atol=1e-9)


def middle(cells):
    known = from_pyxem(_signal()).calibration
    assert known.q_pixel == pytest.approx(0.02)
    np.testing.assert_allclose(known.origin, (14, 12), atol=1e-9)


def center_in_pixels(cells):
    signal = _signal()
    signal.set_diffraction_calibration(0.02, center=(9, 11))
    assert [axis.offset for axis in signal.axes_manager.signal_axes] == [-9, -11], "pixels, though the axis is in 1/Å"
    assert from_pyxem(signal).calibration.origin is None


def steps(cells):
    signal = _signal()
    signal.set_scan_calibration(1.5)
    assert from_pyxem(signal).calibration.r_pixel == pytest.approx(15.0)


def beam_position(cells):
    theirs = _signals().Diffraction2D(DATA).get_direct_beam_position(method="center_of_mass").data
    ours = gpu4d.center_of_mass(DATA)
    np.testing.assert_allclose(theirs, (np.array([28, 24]) / 2 - ours)[..., ::-1], atol=1e-3)


def rotated_shifts(cells):
    vectors = np.random.default_rng(0).normal(size=(3, 4, 2))  # first axis, second axis
    turned = _signals().BeamShift(vectors[..., ::-1].copy()).rotate_beam_shifts(30)
    np.testing.assert_allclose(turned.data[..., ::-1], gpu4d.calibrate.to_scan_axes(vectors, np.radians(-30)), atol=1e-12)


def phase(cells):
    n = 48
    x, y = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    truth = 1.3 * np.sin(2 * np.pi * x / n) + 0.5 * np.cos(4 * np.pi * y / n)
    k = np.stack([1.3 / n * np.cos(2 * np.pi * x / n), -1.0 / n * np.sin(4 * np.pi * y / n)])  # ∇φ / 2π, cycles per position
    theirs = _signals().BeamShift(-np.moveaxis(k, 0, -1)[..., ::-1]).phase_retrieval().data
    np.testing.assert_allclose(-((2 * np.pi) ** 2) * (theirs - theirs.mean()), truth - truth.mean(), atol=1e-6)
    ours = gpu4d.dpc(np.moveaxis(k, 0, -1), q_pixel=1.0, r_pixel=1.0, rotation=0.0, transpose=False, boundary="periodic", descan=None).phase
    np.testing.assert_allclose(ours - np.mean(ours.data), truth - truth.mean(), atol=1e-3)


def relative_threshold(cells):
    frame = np.zeros((48, 48))
    for (a, b), height in (((24, 24), 100), ((10, 12), 50), ((38, 36), 30)):
        frame += height * np.roll(np.asarray(gpu4d.probe.synthetic((48, 48), 4.0)), (a - 24, b - 24), (0, 1))
    for part, number in ((0.2, 3), (0.4, 2), (0.8, 1)):
        soft = _signals().Diffraction2D(np.tile(_smooth(frame), (2, 2, 1, 1)))
        assert len(soft.find_peaks(interactive=False, threshold_rel=part, min_distance=4).data[0, 0]) == number
        found = gpu4d.find_bragg_disks(frame, gpu4d.probe.synthetic((48, 48), 4.0), power=1.0, min_relative_intensity=part)
        assert len(found) == number
    defaults = inspect.signature(gpu4d.find_bragg_disks).parameters
    assert (defaults["min_relative_intensity"].default, defaults["min_significance"].default) == (0.0, 5.0)


def _smooth(frame):
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(frame, 3.0)


def vectors(cells):
    found = _signal(_smooth(np.eye(28, 24)[None, None] * 9.0 + np.zeros((2, 3, 28, 24))), center=(10, 12)).get_diffraction_vectors()
    assert list(found.column_names) == ["ky", "kx", "intensity"]
    pixels = from_pyxem(found)
    first, second = found.data[1, 1][:, 0] / 0.02 + 12, found.data[1, 1][:, 1] / 0.02 + 10
    np.testing.assert_allclose(np.stack([pixels[1, 1].qx, pixels[1, 1].qy]), np.stack([first, second]), atol=1e-9)


def rounded(cells):
    cube = scan((10.5, 9.25))
    ours = disks(cube)
    theirs = to_pyxem(ours, calibration=cube.calibration)
    pixels = np.concatenate([rows[:, :2] for rows in theirs.get_pixel_vectors().data.reshape(-1) if len(rows)])
    exact = np.stack([ours.flat("qx"), ours.flat("qy")], -1)
    assert pixels.dtype.kind == "i" and np.abs(pixels - exact).max() > 0.3
    back = from_pyxem(theirs)
    np.testing.assert_allclose(np.stack([back.flat("qx"), back.flat("qy")], -1), exact, atol=1e-9)


def strain(cells):
    _, basis, g = strained()
    found, ours = our_strain(basis, g)
    made = to_pyxem(found, calibration=Calibration(origin=(12.0, 12.0))).filter_magnitude(1.0, 99.0)
    theirs = made.get_strain_maps(np.concatenate([basis, -basis]), distance=2.0).data
    for plane, (name, sign) in zip(theirs, (("exx", 1), ("eyy", 1), ("exy", -1), ("theta", -1))):
        np.testing.assert_allclose(plane, sign * getattr(ours, name).data, atol=5e-5)
        assert np.abs(plane).max() > 5e-4


def gradient(cells):
    f = np.array([[1.01, 0.004], [0.002, 0.99]])
    of_reciprocal = np.eye(3)
    of_reciprocal[:2, :2] = np.linalg.inv(f).T
    theirs = _signals().DisplacementGradientMap(np.tile(of_reciprocal, (2, 2, 1, 1))).get_strain_maps().data[:, 0, 0]
    exx, eyy, exy, theta = components(f, "finite")
    np.testing.assert_allclose(theirs, (exx, eyy, -exy, theta), atol=1.5e-5)  # second order of 1e-2 differs


def circles(cells):
    roi = _hs().roi.CircleROI(0, 0, 0.1)
    theirs = _signal(center=(10, 12)).get_virtual_image(roi).data
    distance = np.hypot(*(np.indices((28, 24)) - np.array([12, 10])[:, None, None]))
    ours = np.asarray(gpu4d.virtual_image(DataCube(DATA), gpu4d.detectors.disk(5, (12, 10)), progress=False))
    np.testing.assert_array_equal(ours, (DATA * (distance < 5)).sum((2, 3)))
    rim = (DATA * ((distance >= 5) & (distance < 5.2))).sum((2, 3))
    assert (theirs > ours).all() and (theirs <= ours + rim).all()


def profiles(cells):
    frame = 1000 * np.exp(-((np.hypot(*(np.indices((28, 24)) - np.array([12, 10])[:, None, None])) / 9) ** 2))
    signal = _signal(np.tile(frame, (2, 2, 1, 1)), center=(10, 12))
    options = {"npt": 8, "radial_range": (0, 0.16)}
    for theirs, kind in (({"mean": True}, "mean"), ({}, "sum")):
        found = signal.get_azimuthal_integral1d(**options, **theirs).data[0, 0]
        np.testing.assert_allclose(found, gpu4d.radial_profile(frame, (12, 10), n_r=8, r_max=8, kind=kind), rtol=0.05)


def mapped(cells):
    found = _signal().map(gpu4d.center_of_mass, inplace=False).data
    swept = gpu4d.sweep(DataCube(DATA), gpu4d.CenterOfMass(), progress=False)
    np.testing.assert_array_equal(found, np.moveaxis(np.asarray(swept), 0, -1))


CHECKS = {
    "`ElectronDiffraction2D(array)`": arrays,
    '`hs.load("scan.hspy")`': files,
    "`signal.beam_energy`": energy,
    "`signal.calibration.center`": center,
    "`signal.set_diffraction_calibration(c)`": middle,
    "`signal.set_diffraction_calibration(c, center=…)`": center_in_pixels,
    "`signal.set_scan_calibration(s)`": steps,
    '`signal.get_direct_beam_position(method="center_of_mass")`': beam_position,
    "`BeamShift.rotate_beam_shifts(a)`": rotated_shifts,
    "`BeamShift.phase_retrieval()`": phase,
    "`signal.find_peaks(threshold_rel=t)`": relative_threshold,
    "`signal.get_diffraction_vectors()`": vectors,
    "`vectors.get_pixel_vectors()`": rounded,
    "`vectors.get_strain_maps(g)`": strain,
    "`DisplacementGradientMap.get_strain_maps()`": gradient,
    "`signal.get_virtual_image(CircleROI)`": circles,
    "`signal.get_azimuthal_integral1d(npt, mean=True)`": profiles,
    "`signal.map(f)`": mapped,
}


def test_every_row_has_a_check():
    assert_same_rows(ROWS, CHECKS)


@pytest.mark.parametrize("row", CHECKS)
def test_row(row, need):
    need("pyxem")
    need("hyperspy.api").preferences.General.show_progressbar = False
    CHECKS[row](ROWS[row])


def test_the_python_of_the_page_runs(need, tmp_path, monkeypatch):
    need("pyxem")
    monkeypatch.chdir(tmp_path)
    probe = gpu4d.probe.synthetic((24, 20), 3.0)
    scan().to_hyperspy().save("scan.hspy")
    names = {"probe": probe, "template": gpu4d.probe.template(probe)}
    exec(python_of("from-pyxem"), names)
    assert names["com"].data.shape == (3, 4, 2) and names["peaks"].ragged and len(names["vectors"].column_names) == 5
