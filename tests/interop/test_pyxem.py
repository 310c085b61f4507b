"""pyxem's signals become scans, disks, centres of mass and strain, and back: axes, units, signs, against pyxem's own numbers."""

import sys

import numpy as np
import pytest
from interop_scans import disks, our_strain, scan, strained

import gpu4d
from gpu4d import Calibration, DataCube, PointListArray
from gpu4d.errors import InputError
from gpu4d.interop.pyxem import from_pyxem, to_pyxem
from gpu4d.testing.results import differences


@pytest.fixture
def signals(need):
    found = need("pyxem.signals")
    need("hyperspy.api").preferences.General.show_progressbar = False
    return found


def test_a_scan_is_pyxems_and_comes_back(signals):
    cube = scan()
    made = to_pyxem(cube)
    assert isinstance(made, signals.LazyElectronDiffraction2D) and made.beam_energy == 200.0
    assert [axis.name for axis in made.axes_manager.signal_axes] == ["kx", "ky"]
    np.testing.assert_allclose(made.calibration.center, cube.calibration.origin_mean[::-1], atol=1e-9)
    assert differences(from_pyxem(made).calibration, cube.calibration) == []
    made.compute()
    np.testing.assert_array_equal(np.asarray(from_pyxem(made)), np.asarray(cube))


def test_a_scan_that_pyxem_calibrated(signals):
    data = np.asarray(scan())
    made = signals.ElectronDiffraction2D(data)
    made.set_diffraction_calibration(0.02)
    made.calibration.center = (9, 11)
    made.set_scan_calibration(1.5)
    made.beam_energy = 200
    for signal in (made, made.as_lazy()):
        found = from_pyxem(signal)
        known = found.calibration
        assert (known.energy, known.q_pixel, known.r_pixel) == (200e3, pytest.approx(0.02), pytest.approx(15.0))
        np.testing.assert_allclose(known.origin, (11, 9), atol=1e-9)
        np.testing.assert_array_equal(np.asarray(found), data)
        assert isinstance(from_pyxem(signal.inav[1, 2]), gpu4d.DiffractionSlice)


def _spots(origin=(12.3, 9.6)):
    x, y = np.indices((28, 24))
    spots = [(0, 0, 900), (7.2, 1.1, 300), (-7.2, -1.1, 300), (1.5, -6.4, 200), (-1.5, 6.4, 200)]
    frame = sum(height * np.exp(-((x - origin[0] - a) ** 2 + (y - origin[1] - b) ** 2) / 4.5) for a, b, height in spots)
    return np.tile(frame.astype("f4"), (2, 3, 1, 1)), np.array(spots)


def test_pyxem_reads_our_vectors_as_its_own(signals):
    """Its own vectors of the same peaks: same units, columns, scales and offsets."""
    data, spots = _spots(origin=(12.1, 10.1))  # off the middle between pixels
    spots[:, :2] += 0.1
    own = signals.ElectronDiffraction2D(data)
    own.set_diffraction_calibration(0.02)
    own.calibration.center = (10, 12)
    theirs = own.get_diffraction_vectors(threshold_abs=50, min_distance=2)
    peaks = PointListArray(
        np.arange(7) * 5,
        {name: np.tile(spots[:, i] + at, 6) for i, (name, at) in enumerate((("qx", 12), ("qy", 10), ("intensity", 0)))},
        (2, 3),
    )
    ours = to_pyxem(peaks, calibration=Calibration(q_pixel=0.02, origin=(12, 10), r_pixel=15.0))
    assert type(ours) is type(theirs) and list(ours.column_names) == list(theirs.column_names) == ["ky", "kx", "intensity"]
    assert list(ours.units)[:2] == list(theirs.units)[:2]
    np.testing.assert_allclose(ours.scales[:2], theirs.scales[:2])
    np.testing.assert_allclose(ours.offsets[:2], theirs.offsets[:2])
    for position in np.ndindex(2, 3):
        mine, other = (a.data[position][np.lexsort(a.data[position][:, 1::-1].round(2).T)] for a in (ours, theirs))
        np.testing.assert_allclose(mine[:, :2], other[:, :2], atol=0.02 * 0.51)  # theirs are whole pixels
    back = from_pyxem(theirs)[1, 2]
    there = sorted((round(a), round(b)) for a, b in zip(back.qx.tolist(), back.qy.tolist()))
    assert there == sorted((round(12 + a), round(10 + b)) for a, b, _ in spots.tolist())
    assert np.abs(ours.get_magnitudes().data[0, 0] - np.hypot(*(spots[:, :2] * 0.02).T)).max() < 1e-9


@pytest.mark.parametrize("origin", [None, (10.5, 9.25)])
def test_disks_come_back_exactly(signals, origin):
    cube = scan(origin)
    found = disks(cube)
    back = from_pyxem(to_pyxem(found, calibration=cube.calibration))
    assert (back.fields, back.shape, back.units) == (found.fields, found.shape, found.units)
    np.testing.assert_array_equal(back.offsets, found.offsets)
    for field in found.fields:
        np.testing.assert_allclose(back.flat(field), found.flat(field), atol=1e-12)


def test_vectors_without_scales_need_a_calibration(signals):
    rows = np.empty((1, 2), object)
    rows[0, 0], rows[0, 1] = np.array([[0.1, 0.2]]), np.zeros((0, 2))
    for names, expected in ((["ky", "kx"], (15.0, 20.0)), (["kx", "ky"], (20.0, 15.0))):
        vectors = signals.DiffractionVectors(rows, ragged=True)
        vectors.column_names = names
        with pytest.raises(InputError, match="do not say their scales and offsets"):
            from_pyxem(vectors)
        found = from_pyxem(vectors, calibration=Calibration(q_pixel=0.02, origin=(10, 10)))
        assert (found[0, 0].qx[0], found[0, 0].qy[0]) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_beam_shifts_are_minus_the_centre_of_mass(signals):
    data, _ = _spots()
    data = data * np.random.default_rng(0).uniform(0.5, 1.5, data.shape)
    theirs = signals.Diffraction2D(data).get_direct_beam_position(method="center_of_mass")
    com = gpu4d.sweep(DataCube(data), gpu4d.CenterOfMass(), progress=False)
    found = from_pyxem(theirs)
    assert found.labels == com.labels and found.units == "px"
    np.testing.assert_allclose(found.data, com.data, atol=1e-3)  # theirs are float32
    ours = to_pyxem(com, calibration=Calibration(origin=(14.0, 12.0)))  # pyxem's middle of 28 x 24
    assert type(ours) is type(theirs)
    np.testing.assert_allclose(ours.data, theirs.data, atol=1e-3)
    np.testing.assert_allclose(from_pyxem(ours).data, com.data, atol=1e-12)


def test_strain_has_pyxems_signs(signals):
    f, basis, g = strained()
    found, strain = our_strain(basis, g)
    np.testing.assert_allclose(strain.exy.data, (f[..., 0, 1] + f[..., 1, 0]) / 2, atol=3e-5)
    made = to_pyxem(strain)
    assert isinstance(made, signals.StrainMap)
    vectors = to_pyxem(found, calibration=Calibration(origin=(12.0, 12.0)))
    theirs = vectors.filter_magnitude(1.0, 99.0).get_strain_maps(np.concatenate([basis, -basis]), distance=2.0)
    np.testing.assert_allclose(made.data, theirs.data, atol=1e-4)  # both are to first order in 2e-3
    back = from_pyxem(made)
    for label, name in zip(back.labels, ("exx", "eyy", "exy", "theta")):
        np.testing.assert_allclose(back[label], getattr(strain, name).data, atol=1e-15)


def test_virtual_images(signals):
    image = gpu4d.RealSlice(np.arange(12.0).reshape(3, 4), "adf", "counts", 5.0, "Å")
    made = to_pyxem(image)
    assert isinstance(made, signals.VirtualDarkFieldImage)
    assert differences(from_pyxem(made), image) == []


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    cube = scan()
    for name in ("pyxem", "pyxem.signals"):
        monkeypatch.setitem(sys.modules, name, None)
    for result in (cube, disks(cube)):
        with pytest.raises(InputError, match="to_pyxem needs pyxem beside gpu4d: pip install pyxem"):
            to_pyxem(result, calibration=cube.calibration)
    with pytest.raises(InputError, match="result is a int: need a DataCube, disks"):
        to_pyxem(3)


def test_disks_without_an_origin_are_refused(signals):
    with pytest.raises(InputError, match="begin at the unscattered beam: give calibration="):
        to_pyxem(disks(scan()))
