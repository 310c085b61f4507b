"""HyperSpy's signals become scans, images and points; functions of gpu4d inside `signal.map`, eager and lazy."""

import numpy as np
import pytest
from interop_scans import disks, scan

import gpu4d
from gpu4d import DiffractionSlice, RealSlice
from gpu4d.errors import InputError
from gpu4d.interop.hyperspy import bragg_disks, from_hyperspy
from gpu4d.testing.results import differences


@pytest.fixture
def hs(need):
    api = need("hyperspy.api")
    api.preferences.General.show_progressbar = False
    return api


def test_a_scan_comes_back_as_it_was(hs, tmp_path):
    cube = scan()
    signal = cube.to_hyperspy()
    assert [axis.offset for axis in signal.axes_manager.signal_axes] == pytest.approx(-cube.calibration.origin_mean[::-1] * 0.02)
    signal.save(tmp_path / "scan.hspy")
    for found in (
        from_hyperspy(signal),
        from_hyperspy(hs.load(tmp_path / "scan.hspy", lazy=True)),
        from_hyperspy(hs.load(tmp_path / "scan.hspy")),
    ):
        assert differences(found.calibration, cube.calibration) == []
        np.testing.assert_array_equal(np.asarray(found), np.asarray(cube))
        np.testing.assert_array_equal(found.detector_mask, cube.detector_mask)
        assert found.name == "two words" and found.metadata["sample"] == "a test"
        assert found.metadata["hyperspy"]["General"]["title"] == "two words"


def test_axes_that_were_turned_lose_the_rotation(hs, caplog):
    """Mirrored, or swapped with each other: the array is as HyperSpy has it, and its directions are not those of the rotation."""
    data = np.arange(4 * 4 * 6 * 6, dtype="u2").reshape(4, 4, 6, 6)
    known = gpu4d.Calibration(energy=2e5, q_pixel=0.02, r_pixel=3.0, origin=(2, 3), rotation=0.3, transpose=False)
    signal = gpu4d.DataCube(data, known).to_hyperspy()
    for turned, values, origin in (
        (signal.inav[::-1], data[:, ::-1], (2, 3)),
        (signal.isig[:, ::-1], data[:, :, ::-1], (3, 3)),
        (signal.transpose(navigation_axes=(1, 0)), data.transpose(1, 0, 2, 3), (2, 3)),
        (signal.transpose(signal_axes=(3, 2)), data.transpose(0, 1, 3, 2), (3, 2)),
    ):
        found = from_hyperspy(turned)
        np.testing.assert_array_equal(np.asarray(found), values)
        np.testing.assert_allclose(found.calibration.origin, origin, atol=1e-9)
        assert found.calibration.rotation is None and found.calibration.transpose is None and found.calibration.energy == 2e5
    assert caplog.text.count("its rotation is left out") == 4
    assert from_hyperspy(signal).calibration.rotation == 0.3


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_one_row_keeps_its_step(hs, shape):
    cube = gpu4d.DataCube(np.ones((*shape, 6, 8), "u2"), gpu4d.Calibration(r_pixel=3.0, q_pixel=0.02))
    assert from_hyperspy(cube.to_hyperspy()).calibration.r_pixel == 3.0


def test_a_scan_that_was_changed_keeps_what_pixels_do_not_change(hs):
    cube = scan()
    found = from_hyperspy(cube.to_hyperspy().isig[2:, 4:]).calibration
    np.testing.assert_allclose(found.origin, cube.calibration.origin_mean - (4, 2), atol=1e-9)
    assert (found.rotation, found.transpose, found.energy, found.q_pixel) == (0.3, True, 200e3, pytest.approx(0.02))
    assert found.ellipse is None and found.q_pixel_error is None, "their pixels may have changed"
    signal = cube.to_hyperspy()
    for axis in signal.axes_manager.signal_axes:
        axis.scale *= 2
        axis.offset *= 2
    signal.metadata.Acquisition_instrument.TEM.beam_energy = 300.0
    found = from_hyperspy(signal).calibration
    assert found.q_pixel == pytest.approx(0.04) and found.energy == 300e3 and found.r_pixel == pytest.approx(5.0)


def test_axes_of_others(hs):
    """nm, k_nm^-1 and mrad; offsets; no offsets; axes that are not navigated first."""
    data = np.arange(3 * 4 * 6 * 8, dtype="u2").reshape(3, 4, 6, 8)
    signal = hs.signals.Signal2D(data)
    for name, scale, units, offset in (("x", 2.0, "nm", 7.0), ("y", 2.0, "nm", 3.0)):
        axis = signal.axes_manager.navigation_axes["xy".index(name)]
        axis.name, axis.scale, axis.units, axis.offset = name, scale, units, offset
    for axis, offset in zip(signal.axes_manager.signal_axes, (-0.6, -0.4)):
        axis.scale, axis.units, axis.offset = 0.2, "k_nm^-1", offset
    found = from_hyperspy(signal).calibration
    assert found.r_pixel == pytest.approx(20.0) and found.q_pixel == pytest.approx(0.02) and found.energy is None
    np.testing.assert_allclose(found.origin, (2.0, 3.0), atol=1e-12)  # down first: of the second signal axis of HyperSpy
    for axis in signal.axes_manager.signal_axes:
        axis.units, axis.offset = "mrad", 0.0
    assert from_hyperspy(signal).calibration.q_pixel is None, "an angle is no frequency without the energy"
    signal.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 200.0)
    found = from_hyperspy(signal).calibration
    assert found.q_pixel == pytest.approx(gpu4d.physics.angle_to_frequency(0.2, 200e3)) and found.origin is None
    line = from_hyperspy(signal.inav[1])
    assert line.shape == (1, 3, 6, 8)
    np.testing.assert_array_equal(np.asarray(line)[0], data[:, 1])
    turned = from_hyperspy(signal.transpose(signal_axes=[0, 1], navigation_axes=[2, 3]))
    np.testing.assert_array_equal(np.asarray(turned), data.transpose(2, 3, 0, 1))


def test_lazy_signals_stay_lazy(hs):
    import dask.array

    cube, read = scan(mask=False), []

    def noted(block):
        read.append(block.shape)
        return block

    lazy = dask.array.from_array(np.asarray(cube), chunks=(2, 2, 24, 20)).map_blocks(noted, dtype="u2", meta=np.empty((0,) * 4, "u2"))
    found = from_hyperspy(hs.signals.Signal2D(lazy).as_lazy())
    assert not read and found.source.blocks == (2, 2)
    np.testing.assert_array_equal(np.asarray(found[2, 3]), np.asarray(cube)[2, 3])
    assert read == [(1, 2, 24, 20)], "one chunk"
    swept = gpu4d.sweep(found, {"com": gpu4d.CenterOfMass(), "mean": gpu4d.MeanPattern()}, progress=False)
    np.testing.assert_array_equal(swept["com"].data, np.moveaxis(gpu4d.center_of_mass(np.asarray(cube)), -1, 0))


@pytest.mark.parametrize("made", [RealSlice, DiffractionSlice])
def test_images_and_stacks_come_back(hs, made):
    unit = {RealSlice: "Å", DiffractionSlice: "1/Å"}[made]
    for values, labels in ((np.arange(6.0).reshape(2, 3), ()), (np.arange(24.0).reshape(2, 3, 4), ("a", "b")), (np.ones((2, 3)) * 1j, ())):
        one = made(values, "two words", "rad", 0.25, unit, labels)
        assert differences(from_hyperspy(one.to_hyperspy()), one) == []


def test_points_come_back(hs):
    found = disks(scan())
    assert differences(from_hyperspy(found.to_hyperspy()), found) == []


def test_what_is_refused(hs):
    with pytest.raises(InputError, match=r"signal is a numpy.ndarray: need a signal of HyperSpy"):
        from_hyperspy(np.ones((2, 3, 4, 5)))
    with pytest.raises(InputError, match="2 navigation and 1 signal axes: need images"):
        from_hyperspy(hs.signals.Signal1D(np.ones((2, 3, 4))))
    with pytest.raises(InputError, match="does not say what its columns are"):
        from_hyperspy(hs.signals.BaseSignal(np.array([None, np.ones((2, 2))], object), ragged=True))


def test_without_hyperspy_an_array_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"signal is a numpy.ndarray: need a signal of HyperSpy or pyxem"):
        from_hyperspy(np.ones((2, 3, 4, 5)))


# ---------------------------------------------------------------- our functions inside map

MASK = np.hypot(*(np.indices((24, 20)) - np.array([11.5, 9.5])[:, None, None])) < 9


def _template():
    return gpu4d.probe.template(gpu4d.probe.synthetic((24, 20), 3.0))


KINDS = {
    "numbers": (gpu4d.center_of_mass, lambda: {"mask": MASK}),
    "a curve": (gpu4d.radial_profile, lambda: {"origin": (11.5, 9.5), "n_r": 8}),
    "an image of another shape": (gpu4d.polar_transform, lambda: {"origin": (11.5, 9.5), "n_theta": 12}),
    "an image": (gpu4d.hybrid_correlation, lambda: {"template": _template()}),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_one_frame_in_one_result_out(hs, kind, lazy):
    function, options = KINDS[kind]
    patterns = np.asarray(scan())
    signal = hs.signals.Signal2D(patterns.copy())
    if lazy:
        import dask.array

        signal = hs.signals.Signal2D(dask.array.from_array(patterns, chunks=(2, 2, 24, 20))).as_lazy()
    found = signal.map(function, inplace=False, **options())
    assert found._lazy == lazy
    if lazy:
        found.compute()
    np.testing.assert_array_equal(found.data, function(patterns, **options()))


@pytest.mark.parametrize("lazy", [False, True])
def test_disks_of_each_frame_are_ragged(hs, lazy):
    template, cube = _template(), scan(mask=False)
    spots = np.asarray(gpu4d.probe.synthetic((24, 20), 3.0))
    patterns = np.stack([[np.roll(400 * spots, (i, j), (0, 1)) for j in range(4)] for i in range(3)])
    signal = hs.signals.Signal2D(patterns)
    found = (signal.as_lazy() if lazy else signal).map(bragg_disks, template=template, ragged=True, inplace=False)
    if lazy:
        found.compute()
    whole = gpu4d.find_bragg_disks(gpu4d.DataCube(patterns), template, progress=False)
    for position in np.ndindex(cube.scan_shape):
        rows, expected = found.data[position], whole[position]
        assert len(rows) == len(expected) == 1
        np.testing.assert_allclose(rows[0, :2], [expected.qx[0], expected.qy[0]], atol=1e-9)
        np.testing.assert_allclose(rows[0, :2], np.array([12, 10]) + position, atol=0.02)


def test_an_origin_of_each_position_iterates_with_the_frames(hs):
    cube = scan()
    origins = cube.calibration.origin
    found = hs.signals.Signal2D(np.asarray(cube)).map(gpu4d.radial_profile, origin=hs.signals.Signal1D(origins), n_r=8, inplace=False)
    np.testing.assert_array_equal(found.data, gpu4d.radial_profile(np.asarray(cube), origins, n_r=8))


def test_the_origin_is_given_once():
    with pytest.raises(InputError, match="given twice"):
        gpu4d.radial_profile(np.ones((9, 9)), (4, 4), origin=(4, 4))
    by_name = gpu4d.polar_transform(np.ones((9, 9)), origin=(4, 4))
    np.testing.assert_array_equal(by_name, gpu4d.polar_transform(np.ones((9, 9)), (4, 4)))
