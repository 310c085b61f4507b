"""Single-side-band ptychography beside an acquisition, its gate, its transfer and the dark field of the same pass."""

import numpy as np
import pytest
from ssb_scans import ENERGY, aberrated_scan, correlation, edge, random_cube, slope_in

import gpu4d
from gpu4d import physics
from gpu4d.errors import InputError
from gpu4d.ptychography import SSBLive
from gpu4d.ptychography.overlap_gate import frequency_of_overlap, overlap_fraction
from gpu4d.simulate import phase_object_scan

# ---------------------------------------------------------------- live


def live_of(cube, **options):
    return SSBLive(cube.scan_shape, cube.detector_shape, cube.calibration, detector_mask=cube.detector_mask, **options)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_the_whole_scan_gives_the_bits_of_ssb(dtype):
    mask = np.ones((16, 17), bool)
    mask[7, 8:10] = False
    cube = random_cube(dtype=dtype)
    cube = gpu4d.DataCube(cube.source.array, cube.calibration, detector_mask=mask)
    options = {"aberrations": {"defocus": 40.0}, "adf": (10.0, 14.0), "rotation": 0.3}
    live, data = live_of(cube, **options), cube.source.array.reshape(-1, 16, 17)
    order = np.random.default_rng(0).permutation(63)
    for some in np.array_split(order, 5):
        live.update(data[some], np.stack(np.divmod(some, 9), -1))
    found, whole = live.result(), gpu4d.ssb(cube, **options)
    for name in ("phase", "transmission", "transfer", "adf"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert found.incident == whole.incident
    assert found.decisions == whole.decisions
    again = live.result()
    np.testing.assert_array_equal(again.phase, whole.phase)
    assert again.decisions == whole.decisions


def test_calibrated_positions_are_kept():
    cube = random_cube()
    positions = 0.9 * np.stack(np.meshgrid(np.arange(7.0), np.arange(9.0), indexing="ij"), -1)
    cube.calibration.set(positions=positions, how="a drift")
    live = live_of(cube)
    live.update(cube.source.array.reshape(-1, 16, 17))
    np.testing.assert_array_equal(live.result().positions, gpu4d.ssb(cube).positions)


def test_a_picture_after_the_first_rows():
    scan = phase_object_scan((36, 36), (36, 36), r_pixel=0.25, strength=0.1)
    live = live_of(scan.cube, origin=(18, 18))
    with pytest.raises(InputError, match="no pattern has arrived"):
        live.result()
    data, truth = scan.cube.source.array, scan.truth["phase"]
    better = []
    for row in range(36):
        live.update(data[row])
        if row + 1 in (12, 24, 36):
            found = np.asarray(live.result().phase)
            assert np.isnan(found[row + 1 :]).all()
            better.append(correlation(found[: row + 1], truth[: row + 1], 3))
    assert live.arrived == 36 * 36
    assert better[0] > 0.9
    assert better[2] > 0.99


def test_blank_patterns_and_nan_are_left_out():
    scan = phase_object_scan((24, 24), (36, 36), r_pixel=0.375, strength=0.1)
    data = scan.cube.source.array.copy()
    data[3, 4], data[5, 6] = 0, np.nan
    live = live_of(scan.cube, origin=(18, 18))
    for row in range(20):
        live.update(data[row])
    found = live.result()
    gone = np.zeros((24, 24), bool)
    gone[20:], gone[3, 4], gone[5, 6] = True, True, True
    np.testing.assert_array_equal(np.isnan(found.phase), gone)
    assert f"{gone.sum()} of 576 positions" in found.warnings[-1]


def test_live_refuses():
    cube = random_cube()
    bare = gpu4d.Calibration(**{**cube.calibration.known(), "origin": None})
    with pytest.raises(InputError, match="origin"):
        SSBLive((7, 9), (16, 17), bare)
    live, frames = live_of(cube), cube.source.array[0]
    with pytest.raises(InputError, match="need \\(n, 16, 17\\)"):
        live.update(frames[:, :5])
    with pytest.raises(InputError, match="whole numbers"):
        live.update(frames, np.full((9, 2), 30))
    live.update(cube.source.array.reshape(-1, 16, 17))
    with pytest.raises(InputError, match="same dtype"):
        live.update(frames.astype(float), np.stack([np.zeros(9, int), np.arange(9)], -1))
    with pytest.raises(InputError, match="give positions"):
        live.update(frames)


# ---------------------------------------------------------------- gate


def test_the_overlap_of_two_disks():
    """Counted on a fine grid."""
    x = np.linspace(-1, 1, 1001)
    inside = np.hypot(x[:, None], x) < 1
    for shift in (0.3, 1.0, 1.7):
        both = inside & (np.hypot(x[:, None] - shift, x) < 1)
        assert overlap_fraction(shift) == pytest.approx(both.sum() / inside.sum(), abs=2e-3)
    assert overlap_fraction(frequency_of_overlap(0.3)) == pytest.approx(0.3)


def test_the_gate_says_what_geometry_allows():
    scan = phase_object_scan((24, 24), (36, 36), r_pixel=0.375, strength=0.1)
    found = gpu4d.ssb(scan.cube, origin=(18, 18))
    assert not found.warnings
    k0 = physics.angle_to_frequency(25.0, ENERGY)
    line = next(line for line in found.decisions if "λ/4α" in line)
    assert f"λ/4α = {1 / (4 * k0):.4g} Å" in line
    assert f"by 0.1 down to {1 / (frequency_of_overlap(0.1) * k0):.3g} Å" in line
    assert any("disks of the strongest frequency" in line for line in found.decisions)
    coarse = gpu4d.ssb(random_cube(step=4.0))
    part = 1 - 4.0 * 4.3 * 0.05 / 1.22
    assert any("neighbouring probes" in line and f"overlap by {part:.0%}" in line for line in coarse.warnings)


def test_a_lattice_whose_disks_hardly_overlap_is_warned_of():
    """A sine of 1.75 k₀: disks overlap by 0.05 of their area."""
    k0 = physics.angle_to_frequency(25.0, ENERGY)
    side = 24 * 0.375
    order = round(1.75 * k0 * side)
    scan = phase_object_scan((24, 24), (36, 36), object=lambda x, y: 0.1 * np.cos(2 * np.pi * order * x / side) + 0 * y, r_pixel=0.375)
    for call in (gpu4d.ssb, gpu4d.wdd):
        assert any("overlap by 0.0" in line and "less than 0.1" in line for line in call(scan.cube, origin=(18, 18)).warnings)


def test_disks_that_never_overlap_are_refused():
    cube = random_cube((4, 4), step=0.5)
    with pytest.raises(InputError, match="lowest scan frequency"):
        gpu4d.ssb(cube)


# ---------------------------------------------------------------- transfer, dark field


@pytest.mark.parametrize("epsilon", [0.003, 0.3])
@pytest.mark.parametrize("aberrations", [{}, {"C10": -60.0, "C21": 900.0, "phi21": 0.3}])
def test_the_transfer_is_that_of_a_weak_object(epsilon, aberrations):
    cube, truth = aberrated_scan(aberrations, scan=36, strength=0.002)
    found = gpu4d.ssb(cube, aberrations=aberrations, epsilon=epsilon)
    expected, seen = np.fft.rfft2(truth), np.fft.rfft2(np.asarray(found.phase))
    strong = (np.abs(expected) > 0.01 * np.abs(expected).max()) & (found.transfer > 0)
    np.testing.assert_allclose((seen / expected)[strong] / edge(cube, found), found.transfer[strong], atol=0.01)
    assert found.slope == pytest.approx(slope_in(found, truth) / edge(cube, found), rel=0.01)
    assert found.transfer[0, 0] == 0


def test_exact_mode_measures_or_leaves_out():
    assert set(np.unique(gpu4d.ssb(random_cube(), mode="exact").transfer)) == {0.0, 1.0}


def test_the_dark_field_is_made_in_the_same_pass():
    scan = phase_object_scan((16, 16), (48, 48), r_pixel=0.5, strength=0.8)
    for call in (gpu4d.ssb, gpu4d.wdd):
        found = call(scan.cube, origin=(24, 24), adf=(40.0, 70.0))
        x, y = np.indices((48, 48)) - 24
        radius = np.hypot(x, y) * scan.cube.calibration.q_pixel * physics.wavelength(ENERGY) * 1e3
        expected = scan.cube.source.array[:, :, (radius > 40) & (radius < 70)].sum(-1)
        np.testing.assert_allclose(found.adf, expected, rtol=1e-5)
        assert found.adf.pixel_size == 0.5
        assert call(scan.cube, origin=(24, 24)).adf is None
        np.testing.assert_array_equal(call(scan.cube, origin=(24, 24), adf=np.array([40, 70])).adf, found.adf)
