"""The trace of strain follows the spacing: tension where the cell of 1/g grows."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

import gpu4d
from gpu4d.crystal import dilation_and_spacing


@pytest.fixture(scope="module")
def fit():
    scan = gpu4d.simulate.bragg_scan((8, 8), (64, 64), spacing=15.0, radius=3.5, dose=80.0, strain_size=0.01, seed=1)
    disks = gpu4d.find_bragg_disks(scan.cube, scan.probe)
    return gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks))


@pytest.mark.parametrize("definition", ["finite", "infinitesimal", "first_order"])
def test_the_slope_is_one_for_every_definition(fit, definition):
    assert dilation_and_spacing(fit, gpu4d.strain_map(fit, definition=definition)).slope == pytest.approx(1.0, abs=0.03)


def test_the_slope_of_g_itself_is_minus_one(fit):
    """Δg/g, of the matrices of g1 and g2, is what somebody gets who forgets the inverse."""
    rows = np.stack([fit.g1, fit.g2], -2)
    change = np.linalg.inv(np.median(rows, axis=(0, 1))) @ rows - np.eye(2)
    wrong = SimpleNamespace(exx=change[..., 0, 0], eyy=change[..., 1, 1], uncertainty=gpu4d.strain_map(fit).uncertainty)
    assert dilation_and_spacing(fit, wrong).slope == pytest.approx(-1.0, abs=0.05)


def test_no_slope_where_the_cell_does_not_change(fit):
    still = dataclasses.replace(fit, g1=np.broadcast_to(fit.g1[0, 0], fit.g1.shape), g2=np.broadcast_to(fit.g2[0, 0], fit.g2.shape))
    assert dilation_and_spacing(still, gpu4d.strain_map(fit)) is None
    few = SimpleNamespace(exx=np.full(fit.shape, np.nan), eyy=np.full(fit.shape, np.nan), uncertainty=np.full((4, *fit.shape), np.nan))
    assert dilation_and_spacing(fit, few) is None
