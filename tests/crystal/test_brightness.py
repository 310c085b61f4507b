"""Strain that changes with the brightness of the disks."""

import numpy as np
import pytest

import gpu4d
from gpu4d.crystal.brightness import strain_and_brightness
from gpu4d.errors import InputError

SHAPE = (96, 96)


def crystal(share):
    mean = np.full(SHAPE, 0.05)
    for h in (-1, 0, 1):
        for k in (-1, 0, 1):
            x, y = np.array([47.7, 47.2]) + h * np.array([12.5, 1.0]) + k * np.array([-1.0, 12.5])
            r = np.hypot(np.arange(96)[:, None] - x, np.arange(96) - y)
            mean += 200 * (1.0 if h == k == 0 else share * np.exp(-0.15 * (h * h + k * k))) / (1 + np.exp(5 * (r - 5.0)))
    return mean


def measured(left, right, refine):
    rng = np.random.default_rng(1)
    halves = [crystal(left), crystal(right)]
    scan = np.stack([[rng.poisson(halves[column >= 4]) for column in range(8)] for _ in range(6)]).astype("uint16")
    template = gpu4d.probe.template(gpu4d.probe.synthetic(SHAPE, 5.0, edge=0.8))
    disks = gpu4d.find_bragg_disks(gpu4d.DataCube(scan), template, refine=refine)
    origin = gpu4d.calibrate.origin(disks)
    fit = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, origin), origin=origin)
    return gpu4d.strain_map(fit), disks


def test_shifts_by_brighter_neighbours_are_noticed():
    """The correlation does not separate neighbours, so its strain follows their brightness. The likelihood's does not."""
    found = strain_and_brightness(*measured(0.05, 0.2, "correlation"))
    assert abs(found.correlation) > 0.5 and abs(found.difference) > 0.003
    assert strain_and_brightness(*measured(0.05, 0.2, "likelihood")).correlation == 0


def test_real_strain_is_not_taken_for_an_error():
    scan = gpu4d.simulate.bragg_scan((10, 10), dose=1000.0, seed=3)
    disks = gpu4d.find_bragg_disks(scan.cube, scan.probe, parameters=6)
    strain = gpu4d.strain_map(gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks)))
    assert np.ptp(np.asarray(strain.exx)) > 0.01
    assert abs(strain_and_brightness(strain, disks).correlation) < 0.5


def test_few_positions_and_other_scans():
    scan = gpu4d.simulate.bragg_scan((3, 4), dose=300.0)
    disks = gpu4d.find_bragg_disks(scan.cube, scan.probe, parameters=6)
    strain = gpu4d.strain_map(gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks)))
    assert strain_and_brightness(strain, disks) is None
    other = gpu4d.PointListArray(disks.offsets, {n: disks.flat(n) for n in disks.fields}, (12,))
    with pytest.raises(InputError, match="same scan"):
        strain_and_brightness(strain, other)
