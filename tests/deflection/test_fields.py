"""Electric fields and potentials in their units, when a phase is a potential, and edges that are not periodic."""

import itertools

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d import physics
from gpu4d.deflection import integrate_gradient, integrate_iteratively, potential_validity
from gpu4d.errors import InputError

STEP, THICKNESS, ENERGY = 40.0, 500.0, 200e3


def scan_of_a_potential():
    """Centre of mass (px) of a potential V(x, y) in V through `THICKNESS`, and the field −∇V in V/Å."""
    x, y = np.meshgrid(STEP * np.arange(36), STEP * np.arange(30), indexing="ij")
    cx, cy = 2 * np.pi * (x + STEP / 2) / (36 * STEP), 2 * np.pi * (y + STEP / 2) / (30 * STEP)
    v = 2.0 * np.cos(cx) + 1.5 * np.cos(cy / 2)
    e = np.stack([2.0 * np.sin(cx) * 2 * np.pi / (36 * STEP), 1.5 * np.sin(cy / 2) * np.pi / (30 * STEP)], -1)
    k = physics.interaction_constant(ENERGY) * THICKNESS * -e / (2 * np.pi)  # k = ∇φ / 2π with φ = σ V t
    return k / 1e-3, v, e


def test_fields_have_the_units_they_say():
    com, v, e = scan_of_a_potential()
    known = {"energy": ENERGY, "q_pixel": 1e-3, "r_pixel": STEP, "rotation": 0.0, "descan": None}
    found = gpu4d.dpc(com, thickness=THICKNESS, **known)
    for curl_free in (True, False):
        field = found.electric_field(curl_free=curl_free)
        assert field.units == "V/Å" and field.labels == ("E_x", "E_y") and field.pixel_size == STEP
        np.testing.assert_allclose(np.moveaxis(np.asarray(field), 0, -1), e, atol=1e-3 * np.abs(e).max())
    np.testing.assert_allclose(np.asarray(found.potential), (v - v.mean()) * THICKNESS, atol=2e-3 * THICKNESS)
    projected = gpu4d.dpc(com, **known).electric_field(curl_free=False)
    assert projected.units == "V"
    np.testing.assert_allclose(np.asarray(projected), THICKNESS * np.moveaxis(e, -1, 0), atol=1e-3)
    bend = found.deflection()
    assert bend.units == "mrad"
    np.testing.assert_allclose(np.moveaxis(np.asarray(bend), 0, -1), com * 1e-3 * physics.wavelength(ENERGY) * 1e3, rtol=1e-12)
    laplacian = np.asarray(found.divergence())[4:-4, 4:-4]
    assert found.divergence().units == "rad/Å²"
    expected = (np.gradient(np.gradient(np.asarray(found.phase), STEP, axis=0), STEP, axis=0)
                + np.gradient(np.gradient(np.asarray(found.phase), STEP, axis=1), STEP, axis=1))[4:-4, 4:-4]  # fmt: skip
    np.testing.assert_allclose(laplacian, expected, atol=0.03 * np.abs(expected).max())


def test_fields_ask_for_what_they_need():
    com, _, _ = scan_of_a_potential()
    for known in ({"q_pixel": 1e-3}, {"energy": ENERGY}):
        found = gpu4d.dpc(com, rotation=0.0, r_pixel=STEP, **known)
        for call in (found.electric_field, found.deflection, found.electric_field_error):
            with pytest.raises(InputError, match="energy"):
                call()
    found = gpu4d.dpc(com, rotation=0.0, r_pixel=STEP, q_pixel=1e-3, energy=ENERGY)
    assert found.electric_field_error() is None
    with pytest.raises(InputError, match="variance"):
        gpu4d.dpc(com, variance=np.zeros((3, 4, 4)))


# ---------------------------------------------------------------- edges


def ramp(shape):
    """Return a ramp with a bump near a corner, far from periodic, and its gradient per position."""
    x, y = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    bump = 0.5 * np.exp(-((x - 0.8) ** 2 + (y - 0.3) ** 2) / 0.02)
    gx, gy = 3 - bump * (x - 0.8) / 0.01, 1.3 - bump * (y - 0.3) / 0.01
    return 3 * x + 1.3 * y + bump, np.stack([gx / shape[0], gy / shape[1]], -1)


@pytest.mark.parametrize("shape", [(48, 40), (64, 64)])
def test_a_ramp_keeps_its_edges(shape):
    """The guide's padded iteration gets within 2 % of the range in ten rounds, the mirror solve at once. Periodic edges lose half of it."""
    v, gradient = ramp(shape)
    v = v - v.mean()
    rim = np.ones(shape, bool)
    rim[3:-3, 3:-3] = False

    def worst(found):
        return np.abs(found - v)[rim].max() / np.ptp(v)

    assert worst(integrate_gradient(gradient, boundary="mirror")) < 0.005
    found = integrate_iteratively(gradient, boundary="padded", max_iterations=10)
    assert worst(found.v) < 0.02
    assert len(found.errors) == 10 and all(b < a for a, b in itertools.pairwise(found.errors))
    assert worst(integrate_gradient(gradient, boundary="periodic")) > 0.4


# ---------------------------------------------------------------- potential or not


GOOD = {"energy": 300e3, "semiangle": 20.0, "thickness": 40.0, "r_pixel": 0.2}


@pytest.mark.parametrize(
    ("change", "name", "why"),
    [
        ({}, "potential", "thickness"),
        ({"thickness": 90.0}, "pseudo-DPC", "depth of field of 83.7"),  # 1.7 × 0.019687 Å / (20 mrad)²
        ({"thickness": None}, "pseudo-DPC", "thickness not known"),
        ({"semiangle": None}, "pseudo-DPC", "semi-angle"),
        ({"r_pixel": 0.6}, "pseudo-DPC", "against a probe of 0.502 Å"),  # 0.51 λ/α
        ({"r_pixel": 0.6, "probe_size": 5.0}, "potential", "step"),
        ({"bragg_angle": 15.0}, "potential", "Bragg"),
        ({"bragg_angle": 25.0}, "pseudo-DPC", "Bragg angle of 25"),
        ({"outside": 0.1}, "potential", "outside"),
        ({"outside": 0.3}, "pseudo-DPC", "30 %"),
    ],
)
def test_conditions_of_a_potential(change, name, why):
    found = potential_validity(**{**GOOD, **change})
    assert found.name == name and why in str(found), str(found)
    assert found.valid == (name == "potential")


@pytest.mark.parametrize("wrong", [{"thickness": -1.0}, {"outside": 1.5}, {"r_pixel": float("nan")}, {"bragg_angle": 0.0}])
def test_impossible_conditions_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        potential_validity(**{**GOOD, **wrong})


def test_a_phase_is_named_by_what_it_is(shared_data):
    """Of 19.9 nm of perovskite every column is seen, and the field is a hundredth of what the potential would give."""
    with h5py.File(shared_data / "thick_multislice.h5") as file:
        a, patterns = dict(file.attrs), file["poisson_4e4"][:]
        thin = file["truth/com_if_thin_1_per_A"][:]
    known = gpu4d.Calibration(energy=300e3, semiangle=24.0, r_pixel=0.26, q_pixel=float(a["detector_pixel_1_per_A"]))
    found = gpu4d.dpc(gpu4d.DataCube(patterns, known), rotation=0.0, thickness=float(a["thickness_A"]))
    assert found.phase.name == "pseudo-DPC phase" and found.potential.name == "pseudo-DPC"
    assert any("19.9 nm against a depth of field of 58.1 Å" in line for line in found.decisions)
    k = np.moveaxis(np.asarray(found.com), 0, -1)
    assert np.sum(k * thin) / np.sum(thin**2) < 0.05
    sliver = gpu4d.dpc(gpu4d.DataCube(patterns, known), rotation=0.0, thickness=8.0)
    assert sliver.phase.name == "DPC phase" and sliver.potential.name == "projected potential"


# ---------------------------------------------------------------- a junction


def test_the_field_of_a_junction(shared_data):
    """Every position to 0.036 of the peak where curl E = 0 is used; by itself to 0.0457, as the counts and the rough surface allow."""
    with h5py.File(shared_data / "pn_junction_dpc.h5") as file:
        a, patterns = dict(file.attrs), file["poisson_20000"][:]
        truth, clean = file["truth/E_probe_averaged_V_per_nm"][:].astype(float), file["truth/com_noisefree_1_per_A"][:].astype(float)
        volts = file["truth/projected_potential_V_nm"][:].astype(float)
    known = gpu4d.Calibration(energy=200e3, semiangle=0.2, q_pixel=float(a["detector_pixel_1_per_A"]), r_pixel=40.0)
    found = gpu4d.dpc(gpu4d.DataCube(patterns, known), rotation=0.0, transpose=False, thickness=1900.0, descan="mean")
    assert found.validity.name == "potential"
    peak, measured = 0.0308, {}
    e = truth - truth.mean((0, 1))  # the wedge adds a constant, which no fit of the scan itself can tell
    sigma = 1900 * physics.interaction_constant(200e3) / (2 * np.pi)
    for curl_free in (True, False):
        field = 10 * np.moveaxis(np.asarray(found.electric_field(curl_free=curl_free)), 0, -1)  # V/nm
        measured[curl_free] = np.sqrt(np.mean((field - e) ** 2)) / peak
        assert np.sum(field * e) / np.sum(e * e) == pytest.approx(1, abs=0.01)
        rough = -10 * (clean - clean.mean((0, 1))) / sigma  # what the noise is laid upon: the rough surface is there
        error = 10 * np.moveaxis(np.asarray(found.electric_field_error(curl_free=curl_free)), 0, -1)
        rough = gpu4d.deflection.curl_free(rough) if curl_free else rough
        assert 0.60 < np.mean(np.abs(field - rough) < error) < 0.76
    assert measured[True] < 0.037 and measured[False] < 0.046
    ends = np.zeros(truth.shape[:2], bool)
    ends[:8] = ends[-12:] = True
    free = gpu4d.dpc(gpu4d.DataCube(patterns, known), rotation=0.0, transpose=False, thickness=1900.0, descan="mean", descan_where=ends)
    v = np.asarray(free.potential) / 10  # V nm
    v, right = v - v.mean(), volts - volts.mean()
    assert np.sum(v * right) / np.sum(right**2) == pytest.approx(1, abs=0.04)
