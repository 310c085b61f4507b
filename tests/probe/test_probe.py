"""The vacuum probe: averaged, made, and its template."""

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.probe import from_vacuum, measure_disk, synthetic, template


def test_vacuum_average_aligns():
    """Vacuum probes moved by descan: the aligned average keeps their edge, the plain one smears it."""
    rng = np.random.default_rng(2)
    centers = 24 + rng.uniform(-2, 2, (60, 2))
    stack = np.array([rng.poisson(200 * synthetic((48, 48), 6.0, tuple(c))) for c in centers]).astype("uint16")
    aligned, plain = from_vacuum(stack), from_vacuum(stack, align=False)
    assert measure_disk(aligned).edge < 1.7 < 2.2 < measure_disk(plain).edge
    assert measure_disk(aligned).radius == pytest.approx(6.0, abs=0.06)
    np.testing.assert_allclose(measure_disk(aligned)[:2], centers.mean(0), atol=0.05)


def test_vacuum_region_of_a_scan():
    rng = np.random.default_rng(3)
    data = rng.poisson(3.0, (6, 5, 48, 48)).astype("uint16")
    data[:2] = rng.poisson(100 * synthetic((48, 48), 6.0, (23.5, 24.5)), (2, 5, 48, 48))
    cube = gpu4d.DataCube(data, gpu4d.Calibration(q_pixel=0.01))
    probe = from_vacuum(cube, ((0, 2), (0, 5)))
    mask = np.zeros((6, 5), bool)
    mask[:2] = True
    np.testing.assert_array_equal(probe, from_vacuum(cube, mask))
    np.testing.assert_allclose(measure_disk(probe)[:3], (23.5, 24.5, 6.0), atol=0.05)
    assert probe.pixel_size == 0.01
    for region, text in ((mask.T, r"region is \(5, 6\)"), (np.zeros((6, 5), bool), "no position")):
        with pytest.raises(InputError, match=text):
            from_vacuum(cube, region)
    with pytest.raises(InputError, match="no pattern with counts"):
        from_vacuum(np.zeros((3, 16, 16)))


def test_kinds_are_checked():
    with pytest.raises(InputError, match="kind='sigmoid_log'"):
        template(synthetic((32, 32), 4.0), "sigmoid_log")


@pytest.mark.shared
def test_real_bright_field_disk(shared_data):
    """Rotavirus scan: edge-circle fits give radius 15.2 and centre (31.52, 31.17); its centre of mass is elsewhere."""
    with h5py.File(shared_data / "rotavirus_cryo_ptycho_96x96_bin4.h5") as f:
        mean = f["data"][:].mean((0, 1))
    disk = measure_disk(mean)
    assert disk.radius == pytest.approx(15.2, abs=0.4)
    assert np.hypot(disk.qx - 31.52, disk.qy - 31.17) < 0.3


@pytest.mark.shared
def test_simulated_vacuum_probe(shared_data):
    with h5py.File(shared_data / "au_nbed_strain.h5") as f:
        disk = measure_disk(f["truth/vacuum_probe"][:])
    np.testing.assert_allclose(disk[:3], (63.75, 63.75, 3.0 / 0.5), atol=0.12)


def test_background_is_taken_off_the_template():
    """A vacuum image on a pedestal with a noisy surround: the kernel is that of the bare probe, so noise gives no disks."""
    rng = np.random.default_rng(6)
    bare = synthetic((64, 64), 5.0, (31.6, 32.2))
    pedestal = rng.poisson(2000 * bare + 100).astype(float)
    clean, noisy = template(bare), template(pedestal)
    assert np.abs(noisy.kernel - clean.kernel).max() < 0.1 * clean.kernel.max()  # its Poisson noise is 2 % rms
    assert np.abs(template(pedestal, background=False).kernel - clean.kernel).max() > 0.5 * clean.kernel.max()
    vacuum = rng.poisson(20.0, (8, 64, 64))
    assert len(gpu4d.find_bragg_disks(vacuum, noisy)) == 0
