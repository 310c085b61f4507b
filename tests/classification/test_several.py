"""One set of reflections or several: what a sample of the scan says, against scans whose truth is known."""

import functools

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.classification import outlook
from gpu4d.errors import InputError

RADIUS = 3.19


@functools.cache
def two_phase(file, dose):
    """Cube, disks and true fractions."""
    with h5py.File(file) as f:
        cube, truth = gpu4d.DataCube(f[f"poisson_{dose}"][:]), f["truth/fractions"][:]
    return cube, gpu4d.find_bragg_disks(cube, gpu4d.probe.synthetic((96, 96), RADIUS), refine="parabola"), truth


def outlook_of(scan, where=None):
    template = gpu4d.probe.template(scan.probe)
    disks = gpu4d.find_bragg_disks(scan.cube, template, refine="parabola")
    return outlook(disks, scan.cube, template=template, origin=gpu4d.calibrate.origin(disks), where=where)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"thickness": 0.4, "vacuum_rows": 3}, {"strain": "inclusion", "strain_size": 0.02}])
def test_one_crystal_is_one_set(seed, options):
    """Also if it is strained, uneven, or beside vacuum."""
    scan = gpu4d.simulate.bragg_scan((12, 10), (64, 64), spacing=14.0, radius=4.0, dose=60.0 if seed % 2 else 8.0, seed=seed, **options)
    found = outlook_of(scan)
    assert not found.several, found.why


@pytest.mark.shared
@pytest.mark.parametrize("dose", [300, 3000])
def test_the_shared_scan_has_several(shared_data, dose):
    cube, disks, truth = two_phase(shared_data / "two_phase.h5", dose)
    about = {"template": gpu4d.probe.synthetic((96, 96), RADIUS), "origin": gpu4d.calibrate.origin(disks)}
    assert outlook(disks, cube, **about).several
    for pure in (0, 1, 2):
        found = outlook(disks, cube, where=truth[..., pure] > 0.98, **about)
        assert not found.several, f"the bent phase {pure} alone: {found.why}"


@pytest.mark.shared
def test_faint_reflections_of_an_ordered_phase_are_seen_in_sums(shared_data):
    """Its disks are those of the disordered phase; single patterns show hardly more."""
    cube, disks, truth = two_phase(shared_data / "two_phase.h5", 3000)
    about = {"template": gpu4d.probe.synthetic((96, 96), RADIUS), "origin": gpu4d.calibrate.origin(disks)}
    found = outlook(disks, cube, where=truth[..., :2].sum(-1) > 0.98, **about)
    assert found.several and "fainter reflections" in found.why


def test_a_glass_beside_a_crystal_is_a_class_and_vacuum_is_none():
    scan = gpu4d.simulate.bragg_scan((10, 10), (64, 64), spacing=14.0, radius=4.0, dose=60.0, vacuum_rows=4, seed=3)
    assert not outlook_of(scan).several
    x, y = (np.arange(64) - 32 for _ in range(2))
    halo = 6 * np.exp(-(((np.hypot(x[:, None], y) - 18) / 3) ** 2))
    data = scan.cube.source.array.copy()
    data[:4] += np.random.default_rng(0).poisson(halo, data[:4].shape).astype(data.dtype)
    template = gpu4d.probe.template(scan.probe)
    disks = gpu4d.find_bragg_disks(scan.cube, template, refine="parabola")
    found = outlook(disks, gpu4d.DataCube(data), template=template, origin=gpu4d.calibrate.origin(disks))
    assert found.several and "no disks but scatter" in found.why


def test_scans_without_disks_and_of_another_shape():
    scan = gpu4d.simulate.bragg_scan((6, 6), (64, 64), spacing=14.0, radius=4.0, vacuum_rows=2, seed=3)
    where = np.zeros((6, 6), bool)
    where[:2] = True
    assert "no pattern has 3 disks" in outlook_of(scan, where).why
    disks = gpu4d.find_bragg_disks(scan.cube, scan.probe, refine="parabola")
    with pytest.raises(InputError, match="need the cube of these disks"):
        outlook(disks, scan.cube.crop(rx=slice(0, 3)), template=scan.probe, origin=(32, 32))
