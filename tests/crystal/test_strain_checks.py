"""Checks of strain maps, on fields whose displacement is written down: what is continuous passes, what is not is found."""

import numpy as np
import pytest
from lattice_points import OBLIQUE, disks_of

import gpu4d
from gpu4d.crystal.lattice import canonical
from gpu4d.crystal.strain_checks import incompatibility, jumps, reference_strain

SHAPE, ORIGIN, SIZE = (14, 12), (63.0, 64.5), 0.01


def of_a_displacement(x, y):
    """F⁻¹ = ∂X/∂x of X = x − u(x), u ∝ (sin kx cos ly, ½ cos kx sin ly): the gradient of a displacement, and so without a curl."""
    k, m = 2 * np.pi / 12, 2 * np.pi / 20
    cosines, sines = SIZE * np.cos(k * x) * np.cos(m * y), SIZE * np.sin(k * x) * np.sin(m * y)
    gradient = [[k * cosines, -m * sines], [-0.5 * k * sines, 0.5 * m * cosines]]
    return np.linalg.inv(np.eye(2) - np.moveaxis(np.array(gradient), (0, 1), (-2, -1)) / k)


def strain_of(f, rotation=0.0, transpose=False, reference=None, sigma=0.02, **options):
    """Strain of the disks of a crystal with gradients f in scan axes, which the detector sees as calibrated."""
    lattice = canonical(OBLIQUE)
    fit = gpu4d.fit_lattice(disks_of(OBLIQUE, f, shape=f.shape[:2], sigma=sigma), lattice, origin=ORIGIN)
    calibration = gpu4d.Calibration(rotation=rotation, transpose=transpose)
    return gpu4d.strain_map(fit, reference=OBLIQUE if reference is None else reference, calibration=calibration, **options)


@pytest.fixture(scope="module")
def field():
    return of_a_displacement(*np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij"))


@pytest.mark.parametrize("definition", ["finite", "infinitesimal"])
def test_a_continuous_crystal_is_compatible(field, definition):
    found = incompatibility(strain_of(field, definition=definition))
    assert found.share < 0.03 and found.positions == (SHAPE[0] - 2) * (SHAPE[1] - 2)


def test_axes_that_are_turned_do_not_matter(field):
    """The tensor's axes are a choice. Derivatives are along the scan."""
    strain = strain_of(field)
    assert incompatibility(strain.rotated(0.7)).share == pytest.approx(incompatibility(strain).share, abs=1e-6)


@pytest.mark.parametrize(("rotation", "transpose"), [(np.pi / 2, False), (0.0, True)], ids=["a quarter turn", "a transpose"])
def test_a_wrong_rotation_makes_a_curl(field, rotation, transpose):
    assert incompatibility(strain_of(field, rotation, transpose)).share > 0.15


def test_without_a_rotation_or_a_gradient_nothing_is_said(field):
    strain = gpu4d.strain_map(gpu4d.fit_lattice(disks_of(OBLIQUE, field, shape=SHAPE), canonical(OBLIQUE), origin=ORIGIN))
    assert strain.axes.frame == "detector" and incompatibility(strain) is None
    flat = np.broadcast_to(np.eye(2), (*SHAPE, 2, 2))
    assert incompatibility(strain_of(flat, sigma=0.05)) is None, "gradients of noise alone"


def test_positions_with_another_lattice_stand_out(field):
    wrong = field.copy()
    places = [(3, 4), (9, 9), (10, 2)]
    for place in places:
        wrong[place] = wrong[place] @ np.diag([1.06, 1.0])
    found = jumps(strain_of(wrong))
    assert sorted(map(tuple, np.argwhere(found.where))) == places and found.share == pytest.approx(3 / np.prod(SHAPE))


def test_an_interface_is_no_jump(field):
    """Of a step of 4 %, every position has most neighbours on its own side."""
    step = field.copy()
    step[7:] = step[7:] @ np.diag([1.0, 1.04])
    assert jumps(strain_of(step)).share == 0 and jumps(strain_of(field)).share == 0


def test_noise_makes_no_jumps(field):
    noisy = strain_of(field, sigma=0.6)
    assert np.nanmax(np.abs(np.asarray(noisy.exx) - np.asarray(strain_of(field).exx))) > 0.02 and jumps(noisy).share == 0


def test_the_reference_region_is_near_zero_only_if_it_is_not_strained(field):
    still = field.copy()
    still[:4] = np.eye(2)
    region = np.zeros(SHAPE, bool)
    region[:4] = True
    assert reference_strain(strain_of(still, reference=region)) < 2e-4
    assert reference_strain(strain_of(field, reference=region)) > 2e-3
    assert reference_strain(strain_of(field)) is None, "vectors that were given have no region"
