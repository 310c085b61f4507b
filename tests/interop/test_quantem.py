"""quantem's datasets, vectors and strain maps, in and out, against quantem's own numbers."""

import sys

import numpy as np
import pytest
from interop_scans import disks, our_strain, scan, strained

import gpu4d
from gpu4d.errors import InputError
from gpu4d.interop.quantem import from_quantem, to_quantem
from gpu4d.testing.results import differences


@pytest.fixture
def structures(need):
    return need("quantem.core.datastructures")


def test_a_scan_comes_back_as_it_was(structures):
    cube = scan()
    made = to_quantem(cube)
    assert isinstance(made, structures.Dataset4dstem) and made.array.dtype == np.uint16
    np.testing.assert_allclose(made.origin[2:] + cube.calibration.origin_mean * made.sampling[2:], 0, atol=1e-12)
    assert made.metadata["q_to_r_rotation_ccw_deg"] == pytest.approx(np.degrees(0.3)) and made.metadata["q_transpose"] is True
    found = from_quantem(made)
    assert differences(found.calibration, cube.calibration) == [] and found.name == "two words" and found.metadata["sample"] == "a test"
    np.testing.assert_array_equal(np.asarray(found), np.asarray(cube))
    np.testing.assert_array_equal(found.detector_mask, cube.detector_mask)


def test_a_scan_that_quantem_binned_and_cropped(structures):
    cube = scan((10.5, 9.25))
    found = from_quantem(to_quantem(cube).bin((1, 1, 2, 2)))
    np.testing.assert_allclose(found.calibration.origin, cube.bin(detector=2).calibration.origin)
    assert found.calibration.q_pixel == pytest.approx(0.04) and found.calibration.rotation == pytest.approx(0.3)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(cube.bin(detector=2)))
    unknown = gpu4d.DataCube(np.asarray(cube), gpu4d.Calibration(q_pixel=0.02))
    assert from_quantem(to_quantem(unknown).bin((1, 1, 2, 2))).calibration.origin is None


def test_datasets_of_quantem(structures):
    array = np.random.default_rng(0).poisson(3, (3, 4, 6, 8)).astype("u2")
    own = structures.Dataset4dstem.from_array(array, "theirs", (0, 0, -3.0, -4.0), (1.5, 1.5, 1.0, 1.0), ("nm", "nm", "mrad", "mrad"))
    found = from_quantem(own)
    assert found.calibration.r_pixel == pytest.approx(15.0) and found.calibration.q_pixel is None
    np.testing.assert_allclose(found.calibration.origin, (3, 4))
    plain = from_quantem(structures.Dataset4dstem.from_array(array))
    assert plain.calibration.known() == {} and plain.source.array is not None
    for image, kind in ((own.get_virtual_image(mask=np.ones((6, 8)), attach=False), gpu4d.RealSlice),):
        slice_ = from_quantem(image)
        assert isinstance(slice_, kind) and slice_.pixel_size == pytest.approx(15.0)
        np.testing.assert_allclose(slice_.data, array.sum((2, 3)))


def test_slices(structures):
    for one in (gpu4d.RealSlice(np.eye(2, 3), "a", "rad", 2.0, "Å"), gpu4d.DiffractionSlice(np.eye(3, 2), "b", "counts", 0.02, "1/Å")):
        assert differences(from_quantem(to_quantem(one)), one) == []
    with pytest.raises(InputError, match="real images of two dimensions"):
        to_quantem(gpu4d.RealSlice(np.ones((2, 3, 4))))


def test_disks_are_its_vector(structures):
    found = disks(scan())
    made = to_quantem(found)
    assert isinstance(made, structures.Vector) and made.shape == (3, 4) and list(made.fields) == ["q_row", "q_col", "intensity", "sx"]
    one = np.asarray(made[1, 2].numpy())
    np.testing.assert_array_equal(one, np.column_stack([found[1, 2][field] for field in found.fields]))
    assert differences(from_quantem(made), found) == []


def test_its_search_and_ours_give_the_same_disks(structures, need):
    bragg = need("quantem.diffraction.bragg_vectors")
    simulated = gpu4d.simulate.bragg_scan((2, 3), (96, 96), descan=0.0, dose=300.0)
    probe = gpu4d.probe.synthetic((96, 96), 6.0)
    theirs = bragg.BraggVectors.from_dataset(to_quantem(simulated.cube))
    with pytest.raises(InputError, match="no peaks yet"):
        from_quantem(theirs)
    theirs.make_template_from_probe(np.asarray(probe), center=(48, 48), subtract_mean=True)
    theirs.detect_disks(min_abs_intensity=20.0, min_spacing=9, edge_boundary=6, progressbar=False)
    ours = gpu4d.find_bragg_disks(simulated.cube, probe, refine="correlation", progress=False)
    found = from_quantem(theirs)
    for position in np.ndindex(2, 3):
        a, b = (np.stack([one[position].qx, one[position].qy], -1) for one in (found, ours))
        apart = np.linalg.norm(a[:, None] - b, axis=-1).min(axis=0)
        assert np.median(apart) < 0.05 and (apart < 0.2).mean() > 0.9


def test_strain_is_computed_by_quantem_from_the_same_lattice(structures):
    _, basis, g = strained()
    for rotation, transpose in ((0.0, False), (0.4, True)):
        known = gpu4d.Calibration(rotation=rotation, transpose=transpose, r_pixel=20.0)
        _, strain = our_strain(basis, g, definition="infinitesimal", calibration=known)
        made = to_quantem(strain)
        for theirs, ours, sign in (
            ("e_rr", "exx", 1),
            ("e_cc", "eyy", 1),
            ("e_rc", "exy", 1),
            ("phi", "theta", -1),
            ("phi", "rotation", 1),
        ):
            np.testing.assert_allclose(getattr(made, theirs).array, sign * getattr(strain, ours).data, atol=1e-12, err_msg=theirs)
        back = from_quantem(made)
        assert back.labels == ("e_xx", "e_yy", "e_xy", "theta") and back.pixel_size == 20.0
        np.testing.assert_allclose(back["theta"], strain.theta.data, atol=1e-12)


def test_what_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "quantem.core.datastructures", None)
    for result in (scan(), disks(scan())):
        with pytest.raises(InputError, match="to_quantem needs quantem beside gpu4d: pip install torch torchvision quantem"):
            to_quantem(result)
    with pytest.raises(InputError, match=r"the object is a numpy.ndarray: need a Dataset4dstem"):
        from_quantem(np.ones((2, 3, 4, 5)))
    with pytest.raises(InputError, match=r"result is a numpy.ndarray: need a DataCube"):
        to_quantem(np.ones((2, 3, 4, 5)))
