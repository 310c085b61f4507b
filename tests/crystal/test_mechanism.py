"""The trace of strain tells mechanisms of deformation apart: fields that are written down, with the noise of disks."""

import numpy as np
import pytest
from lattice_points import OBLIQUE, disks_of, turn

import gpu4d
from gpu4d.crystal.lattice import canonical
from gpu4d.crystal.mechanism import trace_of_strain

SHAPE, ORIGIN = (12, 10), (63.0, 64.5)


def found(tensor, size=0.01, sigma=0.05, seed=0, angle=0.4):
    """What is found of a strain tensor that is scaled up and down over the scan, along axes at an angle of the scan's."""
    wave = size * np.sin(np.arange(np.prod(SHAPE)) / 7).reshape(*SHAPE, 1, 1)
    f = np.eye(2) + wave * (turn(angle) @ np.asarray(tensor) @ turn(angle).T)
    fit = gpu4d.fit_lattice(disks_of(OBLIQUE, f, shape=SHAPE, sigma=sigma, seed=seed), canonical(OBLIQUE), origin=ORIGIN)
    return trace_of_strain(gpu4d.strain_map(fit, reference=OBLIQUE, calibration=gpu4d.Calibration(rotation=0.0)))


@pytest.mark.parametrize(
    ("mechanism", "tensor"),
    [
        ("shear", [[1, 0], [0, -1]]),
        ("uniaxial", [[1, 0], [0, -0.3]]),
        ("layer", [[0, 0], [0, 1]]),
        ("dilation", [[1, 0], [0, 1]]),
    ],
)
def test_each_mechanism_explains_its_own_strain(mechanism, tensor):
    trace = found(tensor)
    assert trace.unexplained[mechanism] < 0.01 and trace.positions > 80
    others = {name for name in trace.unexplained if name != mechanism} - ({"uniaxial"} if mechanism == "layer" else set())
    assert all(trace.unexplained[name] > 0.05 for name in others), trace.unexplained
    assert trace.best == mechanism or mechanism == "layer", "a layer is stress along one direction with a Poisson's ratio of 0"


@pytest.mark.parametrize("poisson", [0.0, 0.2, 0.35, 0.5])
def test_poissons_ratio_is_found(poisson):
    trace = found([[1, 0], [0, -poisson]])
    assert trace.poisson == pytest.approx(poisson, abs=0.03) and trace.unexplained["uniaxial"] < 0.01


def test_dilation_is_what_all_directions_share():
    assert found([[1, 0], [0, 1]], size=0.05).dilation == pytest.approx(0.05, abs=0.003)
    assert found([[1, 0], [0, 0.4]], size=0.05).dilation == pytest.approx(0.02, abs=0.003)
    assert found([[1, 0], [0, -0.3]], size=0.05).dilation < 1e-4, "its directions have different signs"


def test_noise_alone_has_no_mechanism_and_no_dilation():
    trace = found([[0, 0], [0, 0]], sigma=0.3)
    assert trace.unexplained == {} and trace.best is None and np.isnan(trace.poisson) and trace.dilation < 1e-3


def test_noise_is_not_taken_for_another_mechanism():
    """Without what it adds, the share of shear would be 3 % lower."""
    shares = [found([[1, 0], [0, -1]], size=0.01, sigma=0.25, seed=seed).unexplained["shear"] for seed in range(3)]
    assert max(shares) < 0.01
