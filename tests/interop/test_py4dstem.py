"""Scans, probes, Bragg vectors, strain maps and calibrations of py4DSTEM in and out."""

import sys

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.interop import py4dstem as ours


@pytest.fixture(scope="module")
def library(need):
    found = need("py4DSTEM")
    need("matplotlib").use("Agg")
    yield found
    need("matplotlib.pyplot").close("all")


def calibration():
    """A calibration with everything that both sides know."""
    origin = np.stack(np.meshgrid(np.arange(4) + 8.0, np.arange(5) / 4 + 9, indexing="ij"), -1)
    return gpu4d.Calibration(
        q_pixel=0.02,
        r_pixel=2.5,
        energy=200e3,
        semiangle=3.0,
        probe_radius=5.5,
        origin=origin,
        ellipse=(1.03, 1.0, 0.3),
        rotation=0.4,
        transpose=True,
    )


def test_a_mapped_scan_is_not_copied(library, tmp_path):
    patterns = np.random.default_rng(0).poisson(5, (4, 5, 16, 18)).astype(np.uint16)
    np.save(tmp_path / "scan.npy", patterns)
    mapped = np.load(tmp_path / "scan.npy", mmap_mode="r")
    theirs = library.DataCube(mapped, name="mine")
    cube = ours.from_datacube(theirs)
    assert cube.shape == patterns.shape and cube.name == "mine" and cube.calibration.q_pixel is None
    assert np.shares_memory(np.asarray(cube.source.read(slice(0, 1), slice(0, 1))), mapped)
    cube.calibration = calibration()
    back = ours.to_datacube(cube)
    assert isinstance(back, library.DataCube) and np.shares_memory(back.data, mapped)
    assert ours.from_datacube(back).calibration.known().keys() == calibration().known().keys()
    part = ours.to_datacube(cube.crop(rx=(1, 3)))
    np.testing.assert_array_equal(part.data, patterns[1:3])
    assert part.calibration.get_origin()[0].shape == (2, 5)


def test_calibrations_both_ways(library):
    known = calibration()
    theirs = ours.to_calibration(known)
    assert (theirs.get_Q_pixel_size(), theirs.get_Q_pixel_units()) == (0.02, "A^-1")
    assert (theirs.get_R_pixel_size(), theirs.get_R_pixel_units()) == (2.5, "A")
    np.testing.assert_allclose(theirs.get_origin(), np.moveaxis(known.origin, -1, 0))
    np.testing.assert_allclose(theirs.get_ellipse(), (1.03, 1.0, 0.3))
    assert theirs.get_QR_rotation() == 0.4 and theirs.get_QR_flip() is True
    assert theirs.get_QR_rotation_degrees() == pytest.approx(np.rad2deg(0.4)) and theirs.get_probe_semiangle() == 5.5
    back = ours.from_calibration(theirs, (4, 5))
    assert back.known().keys() == known.known().keys()
    for name, value in known.known().items():
        np.testing.assert_allclose(np.asarray(back.known()[name], float), np.asarray(value, float))
    assert back.how_known("q_pixel") == "calibration of py4DSTEM"


def test_units_and_axes_of_their_calibration(library, caplog):
    theirs = library.DataCube(np.ones((2, 3, 4, 5))).calibration
    theirs.set_R_pixel_size(0.5)
    theirs.set_R_pixel_units("nm")
    theirs.set_ellipse((1.0, 1.1, 0.2))
    theirs.set_origin((2, 3))
    found = ours.from_calibration(theirs)
    assert found.r_pixel == 5.0 and found.q_pixel is None and found.transpose is None
    np.testing.assert_allclose(found.ellipse, (1.1, 1.0, 0.2 + np.pi / 2))
    np.testing.assert_allclose(found.origin, (2.0, 3.0))
    assert "0.9091 times as long" in caplog.text
    theirs.set_ellipse((np.ones((2, 3)), np.ones((2, 3)), np.zeros((2, 3))))
    assert ours.from_calibration(theirs).ellipse is None and "one for each position" in caplog.text


def test_calibrated_vectors_are_theirs(library):
    """Ours, calibrated by our formulas, are the vectors that py4DSTEM calibrates with the calibration that it gets."""
    rng = np.random.default_rng(4)
    q = rng.uniform(0, 18, (40, 2))
    disks = gpu4d.PointListArray(
        np.arange(0, 41, 2), {"qx": q[:, 0], "qy": q[:, 1], "intensity": rng.random(40), "sx": rng.random(40)}, (4, 5)
    )
    known = calibration()
    theirs = ours.to_braggvectors(disks, (16, 18), known)
    assert theirs.calstate == {"center": True, "ellipse": True, "pixel": True, "rotate": True}
    for number, position in enumerate(np.ndindex(4, 5)):
        centred = (q[2 * number : 2 * number + 2] - known.origin[position]) @ gpu4d.data.ellipse.ellipse_matrix(known.ellipse).T
        expected = gpu4d.calibrate.to_scan_axes(centred, known.rotation, known.transpose) * known.q_pixel
        found = theirs.cal[position].data
        np.testing.assert_allclose(np.stack([found["qx"], found["qy"]], -1), expected, atol=1e-12)
    back = ours.from_braggvectors(theirs)
    assert back.shape == (4, 5) and back.fields == ("qx", "qy", "intensity")
    np.testing.assert_array_equal(back.offsets, disks.offsets)
    np.testing.assert_array_equal(back.flat("qy"), disks.flat("qy"))


def test_probes_both_ways(library):
    image = 1000 * gpu4d.probe.synthetic((48, 40), 5.0)
    theirs = library.Probe(image)
    theirs.get_kernel(mode="sigmoid", radii=(5.0, 10.0))
    made = ours.template_from_probe(theirs)
    np.testing.assert_array_equal(made.kernel, theirs.kernel)
    assert made.radius == pytest.approx(5.0, abs=0.1) and made.probe is not None
    assert ours.template_from_probe(theirs, kernel=False).kind == "sigmoid"
    template = gpu4d.probe.template(image)
    back = ours.to_probe(template)
    assert isinstance(back, library.Probe)
    np.testing.assert_array_equal(back.kernel, template.kernel)
    np.testing.assert_array_equal(back.probe, template.probe)
    bare = ours.to_probe(gpu4d.Template.from_kernel(template.kernel))
    assert bare.probe.argmax() == np.ravel_multi_index(
        np.unravel_index(np.roll(template.kernel, (24, 20), (0, 1)).argmax(), (48, 40)), (48, 40)
    )


def strain_of(library, vectors, mask=None):
    """py4DSTEM's own way from Bragg vectors to strain, in axes turned by 20°."""
    found = library.StrainMap(braggvectors=vectors)
    found.choose_basis_vectors(
        minSpacing=6, minAbsoluteIntensity=0.01, maxNumPeaks=60, edgeBoundary=4, vis_params={"vmin": 0, "vmax": 0.99}
    )
    found.set_max_peak_spacing(max_peak_spacing=5)
    found.fit_basis_vectors(mask=mask)
    found.get_strain(coordinate_rotation=20)
    return found


@pytest.fixture(scope="module")
def strained(library):
    """Disks of a strained lattice, as ours and as theirs, with their strain map in axes turned by 20°."""
    scan = gpu4d.simulate.bragg_scan((5, 6), (128, 128), seed=3)
    points = scan.truth["positions"].reshape(-1, 2)
    each = len(points) // 30
    intensity = 100 * scan.truth["amplitudes"].reshape(-1)
    disks = gpu4d.PointListArray(np.arange(31) * each, {"qx": points[:, 0], "qy": points[:, 1], "intensity": intensity}, (5, 6))
    vectors = ours.to_braggvectors(disks, (128, 128), gpu4d.Calibration(origin=scan.truth["origin"]))
    return disks, vectors, strain_of(library, vectors)


def test_their_strain_in(library, strained):
    _, vectors, theirs = strained
    found = ours.from_strainmap(theirs)
    assert found.definition == "first_order" and found.mask.all()
    for label, field in (("e_xx", "exx"), ("e_yy", "eyy"), ("e_xy", "exy"), ("theta", "theta")):
        np.testing.assert_allclose(getattr(found, field).data, theirs.get_slice(label).data, atol=1e-9)
    assert np.abs(found.exx.data).max() > 5e-3
    some = np.arange(30).reshape(5, 6) % 4 > 0
    partly = strain_of(library, vectors, some)
    found = ours.from_strainmap(partly)
    np.testing.assert_array_equal(found.mask, some)
    np.testing.assert_allclose(found.exx.data[some], partly.get_slice("e_xx").data[some], atol=1e-9)


def test_our_strain_out(strained, library):
    disks, vectors, theirs = strained
    lattice = np.stack([theirs.g1, theirs.g2])
    fit = gpu4d.fit_lattice(disks, lattice, origin=np.stack(vectors.calibration.get_origin(), -1), weights="py4dstem", outliers=None)
    strain = gpu4d.strain_map(fit, definition="first_order", rotation=np.deg2rad(20))
    made = ours.to_strainmap(strain, vectors)
    assert isinstance(made, library.StrainMap) and made.coordinate_rotation_degrees == pytest.approx(20)
    for label in ("e_xx", "e_yy", "e_xy", "theta", "mask"):
        np.testing.assert_allclose(made.get_slice(label).data, theirs.get_slice(label).data, atol=1e-4)


def test_wrong_objects_and_a_missing_library(library, monkeypatch):
    for call in (ours.from_datacube, ours.from_braggvectors, ours.from_strainmap, ours.template_from_probe, ours.from_calibration):
        with pytest.raises(InputError, match=r"need a \w+ of py4DSTEM"):
            call(np.zeros((2, 2, 2, 2)))
    for call in (ours.to_datacube, ours.to_calibration, ours.to_probe, lambda g: ours.to_braggvectors(g, (2, 2))):
        with pytest.raises(InputError, match="need a"):
            call("scan.h5")
    lazy = library.DataCube(np.zeros((2, 2, 2, 2)))
    lazy.data = memoryview(b"")
    with pytest.raises(InputError, match=r"gpu4d\.open"):
        ours.from_datacube(lazy)
    monkeypatch.setitem(sys.modules, "py4DSTEM", None)
    with pytest.raises(InputError, match="pip install gpu4d py4dstem"):
        ours.accelerate()
