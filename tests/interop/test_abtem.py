"""Measurements and probes of abTEM, in and out: axes, units, centre of mass, waves."""

import re
import sys

import numpy as np
import pytest

import gpu4d
from gpu4d import Calibration, DataCube
from gpu4d.errors import InputError
from gpu4d.interop.abtem import from_abtem, probe_from_abtem, probe_to_abtem, to_abtem
from gpu4d.testing.results import differences

ABERRATIONS = {"C10": -90.0, "C12": 45.0, "phi12": 0.4, "C21": 900.0, "phi21": -1.1, "C30": 2e4}


@pytest.fixture
def abtem(need):
    found = need("abtem")
    found.config.set({"local_diagnostics.progress_bar": False})
    return found


def _measured(abtem, need, lazy=True):
    """A scan of two atoms in a cell that is not square, at positions that are not square."""
    ase = need("ase")
    atoms = ase.Atoms("AuSi", positions=[(2.0, 1.5, 1.0), (5.0, 4.0, 1.0)], cell=(8.0, 6.0, 2.0), pbc=True)
    potential = abtem.Potential(atoms, sampling=0.1)
    probe = abtem.Probe(energy=200e3, semiangle_cutoff=20.0, defocus=50.0)
    probe.grid.match(potential)
    scan = abtem.GridScan((1.0, 0.5), (5.0, 3.7), gpts=(5, 4), endpoint=False)
    found = probe.scan(potential, scan=scan, detectors=abtem.PixelatedDetector(max_angle=60))
    return found if lazy else found.compute()


def _version(library):
    return tuple(int(part) for part in re.findall(r"\d+", library.__version__)[:3])


def test_a_lazy_measurement_opens_as_a_scan(abtem, need):
    measured = _measured(abtem, need)
    cube = from_abtem(measured)
    assert measured.is_lazy and cube.source.description.startswith("Dask array")
    known = cube.calibration
    assert (known.energy, known.semiangle) == (200e3, 20.0) and known.r_pixel == pytest.approx(0.8)
    assert cube.metadata["abtem"]["energy"] == 200e3
    com = gpu4d.sweep(cube, gpu4d.CenterOfMass(relative_to_origin=True), progress=False)
    ready = measured.compute()
    assert known.q_pixel is None, "abTEM's steps differ: 1/8 and 1/6 of 1/Å"
    theirs, total = ready.center_of_mass().array, ready.array.sum((-1, -2))
    if _version(abtem) < (1, 0, 11):
        theirs = theirs / total  # theirs is divided by the counts from 1.0.11 on
    ours = [plane * step for plane, step in zip(com.data, ready.sampling)]
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours[0], theirs.real, atol=1e-4 * scale)
    np.testing.assert_allclose(ours[1], theirs.imag, atol=1e-4 * scale)
    assert np.argmax(np.abs(theirs)) == np.argmax(np.hypot(*ours))
    np.testing.assert_array_equal(np.asarray(from_abtem(ready)), ready.array)


def test_patterns_with_the_zero_in_the_corner_are_shifted(abtem):
    patterns = np.random.default_rng(0).random((3, 2, 6, 9)).astype("f4")
    centred = np.fft.fftshift(patterns, axes=(2, 3))
    axes = pytest.importorskip("abtem.core.axes")
    scan = [axes.ScanAxis(label=label, sampling=0.5, units="Å") for label in "xy"]
    made = sys.modules["abtem.measurements"].DiffractionPatterns
    corner = made(patterns, sampling=0.1, fftshift=False, ensemble_axes_metadata=scan, metadata={"energy": 1e5})
    for measurement in (corner, corner.ensure_lazy()):
        found = from_abtem(measurement)
        np.testing.assert_array_equal(np.asarray(found), centred)
        np.testing.assert_allclose(found.calibration.origin, (3, 4))
        assert found.calibration.q_pixel == pytest.approx(0.1) and found.calibration.r_pixel == pytest.approx(0.5)
    one = from_abtem(corner[1, 1])
    assert isinstance(one, gpu4d.DiffractionSlice) and one.pixel_size == pytest.approx(0.1)
    assert from_abtem(corner[1]).shape == (1, 2, 6, 9)
    with pytest.raises(InputError, match="3 axes beside the detector's"):
        from_abtem(made(patterns[None], sampling=0.1, fftshift=True, ensemble_axes_metadata=[axes.OrdinalAxis(values=(1,)), *scan]))


def test_a_scan_goes_there_and_back(abtem):
    patterns = np.random.default_rng(0).poisson(5, (3, 4, 24, 20)).astype("u2")
    cube = DataCube(patterns, Calibration(q_pixel=0.02, r_pixel=2.0, energy=2e5, semiangle=1.5, origin=(12, 10), rotation=0.3))
    made = to_abtem(cube)
    assert made.fftshift and made.sampling == (0.02, 0.02) and [a.sampling for a in made.ensemble_axes_metadata] == [2.0, 2.0]
    np.testing.assert_allclose(made.offset, -cube.calibration.origin * 0.02)
    back = from_abtem(made)
    assert differences(back.calibration, cube.calibration) == []
    np.testing.assert_array_equal(np.asarray(back), patterns)
    with pytest.raises(InputError, match=r"the origin is \(9.00, 10.00\), and abTEM has it at \(12, 10\)"):
        to_abtem(DataCube(patterns, Calibration(q_pixel=0.02, origin=(9, 10))))
    with pytest.raises(InputError, match="size of the image's pixels is not known"):
        to_abtem(gpu4d.RealSlice(np.ones((2, 3))))
    with pytest.raises(InputError, match="q_pixel"):
        to_abtem(DataCube(patterns))


def test_images(abtem):
    for one in (
        gpu4d.RealSlice(np.arange(6.0).reshape(2, 3), "bf", "counts", 2.0, "Å"),
        gpu4d.RealSlice(np.arange(12.0).reshape(2, 2, 3), "e", "1", 2.0, "Å", ("a", "b")),
    ):
        assert differences(from_abtem(to_abtem(one)), one) == []


def test_probes_have_the_same_numbers_and_the_same_wave(abtem):
    known, aberrations = probe_from_abtem(abtem.Probe(energy=80e3, semiangle_cutoff=22.0, aberrations=ABERRATIONS))
    assert aberrations == ABERRATIONS and (known.energy, known.semiangle) == (80e3, 22.0)
    assert probe_from_abtem(probe_to_abtem(known, aberrations))[1] == ABERRATIONS
    assert probe_from_abtem(abtem.CTF(energy=80e3, semiangle_cutoff=22.0, defocus=100.0))[1] == {"C10": -100.0}
    assert probe_from_abtem(probe_to_abtem(known, {"defocus": 100.0}))[1] == {"C10": -100.0}
    probe = probe_to_abtem(known, ABERRATIONS)
    probe.extent, probe.gpts = 16.0, 128
    theirs = probe.build(lazy=False).array  # in the middle of the field
    ours = gpu4d.probe.wavefunction(22.0, ABERRATIONS, energy=80e3, q_pixel=1 / 16.0, shape=(128, 128))
    ours = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(ours)))
    overlap = [abs(np.vdot(wave, theirs)) / np.linalg.norm(wave) / np.linalg.norm(theirs) for wave in (ours, ours.T, ours.conj())]
    assert overlap[0] > 0.9999 and max(overlap[1:]) < 0.9
    sigma = pytest.importorskip("abtem.core.energy").energy2sigma(80e3)
    assert sigma == pytest.approx(gpu4d.physics.interaction_constant(80e3), rel=1e-6)
    with pytest.raises(InputError, match="C10 of the probe is a distribution"):
        probe_from_abtem(abtem.Probe(energy=80e3, semiangle_cutoff=22.0, C10=abtem.distributions.gaussian(20.0, 3)))


def test_a_potential_is_an_image_in_volts_and_a_phase(abtem, need):
    need("ase"), need("gemmi")
    silicon = gpu4d.interop.ase.to_ase(gpu4d.structures.Structure.standard("Si"))
    potential = abtem.Potential(silicon, sampling=0.1, slice_thickness=10.0).build(lazy=False)
    found = from_abtem(potential.project())
    assert isinstance(found, gpu4d.RealSlice) and found.pixel_size == pytest.approx(potential.sampling[0])
    wave = abtem.PlaneWave(energy=300e3).multislice(potential, lazy=False).array
    made = np.exp(1j * gpu4d.physics.interaction_constant(300e3) * found.data)
    phases = [np.angle(one / one.mean()).ravel() for one in (made, wave)]
    assert np.corrcoef(phases)[0, 1] > 0.9, "exp(iσV), the phase positive at atoms; abTEM's wave has left the slice"


def test_what_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "abtem", None)
    monkeypatch.setitem(sys.modules, "abtem.measurements", None)
    with pytest.raises(InputError, match="to_abtem needs abTEM beside gpu4d: pip install abtem"):
        to_abtem(gpu4d.RealSlice(np.ones((2, 3))))
    with pytest.raises(InputError, match="probe_to_abtem needs abTEM beside gpu4d: pip install abtem"):
        probe_to_abtem(Calibration(energy=2e5, semiangle=3.0))
    with pytest.raises(InputError, match=r"the measurement is a numpy.ndarray: need DiffractionPatterns or Images"):
        from_abtem(np.ones((2, 3)))
    with pytest.raises(InputError, match="need a Probe, CTF or Aberrations"):
        probe_from_abtem({"C10": 3})
