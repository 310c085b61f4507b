"""Magnetic induction: sign and unit, two scans that are displaced, errors, and a skyrmion lattice."""

import logging

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d import physics
from gpu4d.arrays import to_numpy
from gpu4d.calibrate import to_scan_axes
from gpu4d.deflection import find_shift, resampled
from gpu4d.deflection.magnetic import H_OVER_E
from gpu4d.errors import InputError

Q = 1e-3  # 1/Å


def test_the_lorentz_force_gives_sign_and_size():
    """An electron along +z in B = B_y: F = −e v × B. Its momentum change e B t and h/e give T nm per 1/Å; x, y, z are right-handed."""
    velocity, induction = np.array([0.0, 0.0, 2e8]), np.array([0.3, -0.7, 0.0])  # m/s, T
    thickness = 50e-9  # m
    force = -physics.ELEMENTARY_CHARGE * np.cross(velocity, induction)
    k = force * (thickness / velocity[2]) / physics.PLANCK * 1e-10  # 1/Å
    com = np.broadcast_to(k[:2] / Q, (6, 5, 2))
    found = gpu4d.magnetic_induction(com, q_pixel=Q, rotation=0.0, descan=None)
    for i in (0, 1):
        np.testing.assert_allclose(np.asarray(found.measured)[i], induction[i] * 50, rtol=1e-12)  # T nm
        np.testing.assert_allclose(np.asarray(found.flux_density(500.0))[i], induction[i], rtol=1e-9)
    assert pytest.approx(4.1357e4, rel=1e-4) == H_OVER_E


def parts(shift=(0.0, 0.0), shape=(40, 36)):
    """Momenta (1/Å) of a magnetic and of an electric phase at positions + shift: domains, and many smaller grains."""
    x, y = np.meshgrid(np.arange(shape[0]) + shift[0], np.arange(shape[1]) + shift[1], indexing="ij")
    rng = np.random.default_rng(3)

    def bumps(number, width, even):
        out = np.zeros((*shape, 2))
        for _ in range(number):
            dx, dy = x - rng.uniform(-6, shape[0] + 6), y - rng.uniform(-6, shape[1] + 6)
            height = rng.uniform(0.5, 1) if even else rng.uniform(-1, 1)
            out += height * np.stack([-dx, -dy], -1) / width * np.exp(-(dx**2 + dy**2) / (2 * width**2))[..., None]
        return out

    return 3e-4 * bumps(60, 4.0, even=False), 0.5e-4 * bumps(90, 2.5, even=True)


def induction_of(k):
    return H_OVER_E * np.stack([-k[..., 1], k[..., 0]])


@pytest.mark.parametrize(
    ("relation", "rotation", "transpose"), [("reversed", 0.8, False), ("flipped", 0.0, False), ("flipped", -2.0, True)]
)
def test_two_scans_are_separated_and_their_displacement_is_found(relation, rotation, transpose):
    shift = (1.4, -0.6)
    magnetic, electric = parts()
    moved = parts(shift)
    second = moved[1] - moved[0]
    if relation == "flipped":  # turned over about the first axis: the second axis runs backwards, and with it the components along it
        second = second[:, ::-1] * [1, -1]

    def measured(k):  # what a detector turned against the scan sees, pixels
        matrix = gpu4d.calibrate.scan_matrix(rotation, transpose)
        return k @ matrix / Q + [20.0, 22.0]

    assert np.allclose(to_scan_axes(measured(magnetic) - [20.0, 22.0], rotation, transpose) * Q, magnetic)
    options = {"q_pixel": Q, "r_pixel": 50.0, "rotation": rotation, "transpose": transpose, "descan": (20.0, 22.0)}
    found = gpu4d.magnetic_induction(measured(magnetic + electric), measured(second), relation=relation, **options)
    for s, e, right in zip(found.shift.shift, found.shift.error, shift):
        assert abs(s - right) < min(3 * e, 0.15)
    known = gpu4d.magnetic_induction(measured(magnetic + electric), measured(second), relation=relation, shift=shift, **options)
    right = induction_of(magnetic)
    seen = np.isfinite(np.asarray(known.measured)[0])
    assert seen.sum() == (40 - 2) * (36 - 1)

    def off(result, truth):  # rms over rms
        return np.sqrt(np.nanmean((np.asarray(result) - truth) ** 2) / np.mean(truth**2))

    assert off(known.measured, right) < 1e-4
    assert off(known.induction, right) < 0.02  # the edges, where a field without curl is continued as an even potential
    assert off(known.electric, np.moveaxis(electric, -1, 0)) < 0.03
    assert off(found.induction, right) < 0.03


def test_a_known_electric_part_and_what_is_said_without_one(caplog):
    magnetic, electric = parts()
    com = (magnetic + electric) / Q
    options = {"q_pixel": Q, "rotation": 0.0, "descan": None}
    found = gpu4d.magnetic_induction(com, electric=electric, **options)
    np.testing.assert_allclose(np.asarray(found.measured), induction_of(magnetic), atol=1e-9)
    stack = gpu4d.RealSlice(np.moveaxis(electric, -1, 0), "electric", "1/Å")
    np.testing.assert_array_equal(np.asarray(gpu4d.magnetic_induction(com, electric=stack, **options).measured), np.asarray(found.measured))
    with caplog.at_level(logging.WARNING, logger="gpu4d"):
        alone = gpu4d.magnetic_induction(com, **options)
    assert "the electric part is not separated" in alone.warnings[0] and "not separated" in caplog.text
    turned = gpu4d.magnetic_induction(com, q_pixel=Q, descan=None)
    assert any("up to 180°" in line for line in turned.warnings)
    assert abs(np.sin(turned.rotation)) < 0.02


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"relation": "turned"}, "relation='turned'"),
        ({"q_pixel": None}, "q_pixel"),
        ({"second": np.zeros((4, 4, 2))}, "one shape"),
        ({"second": np.ones((40, 36, 2)), "electric": np.zeros((40, 36, 2))}, "two ways"),
        ({"electric": np.zeros((3, 3, 2))}, "electric has shape"),
        ({"memory": "1 GB"}, "memory belong to a scan"),
        ({"second": np.zeros((40, 36, 2))}, "is the same at all positions"),
    ],
)
def test_wrong_arguments(options, said):
    options = {"q_pixel": Q, "rotation": 0.0, **options}
    second = options.pop("second", None)
    with pytest.raises(InputError, match=said):
        gpu4d.magnetic_induction(parts()[0] / Q, second, **options)


def test_arrays_of_another_library_stay_there():
    xp, device = pytest.importorskip("array_api_strict"), "device1"
    first = sum(parts()) / Q
    first[4, 7] = np.nan
    second = (parts((1.2, 0.3))[1] - parts((1.2, 0.3))[0]) / Q
    given = [xp.asarray(a, device=xp.Device(device)) for a in (first, second)]
    options = {"q_pixel": Q, "rotation": 0.3}
    found, right = gpu4d.magnetic_induction(*given, **options), gpu4d.magnetic_induction(first, second, **options)
    assert type(found.induction.data) is type(given[0]) and found.induction.data.device == given[0].device
    np.testing.assert_allclose(to_numpy(found.induction.data), np.asarray(right.induction), atol=1e-9)
    assert np.isnan(np.asarray(right.induction)[:, 4, 7]).all()


# ---------------------------------------------------------------- displacement


@pytest.mark.parametrize("sign", [1, -1])
def test_displacements_are_found_for_both_signs(sign):
    for shift, limit in (((0.0, 0.0), 0.01), ((1.4, -0.6), 0.01), ((-4.7, 3.2), 0.07)):  # the edges differ the more, the larger it is
        found = find_shift(parts()[0], sign * parts(shift)[0])
        assert found.shift == pytest.approx(shift, abs=limit)
        assert np.sign(found.correlation) == sign and found.rival < 0.9


def test_resampling_is_exact_for_smooth_fields_and_marks_what_it_cannot_know():
    x, y = np.meshgrid(np.arange(20.0), np.arange(16.0), indexing="ij")
    field = np.stack([x**2 - 3 * x * y, 0.1 * y**3, np.cos(0.6 * x) * np.sin(0.5 * y)], -1)
    found = resampled(field, (1.25, -2.5))
    right = np.stack(
        [(x - 1.25) ** 2 - 3 * (x - 1.25) * (y + 2.5), 0.1 * (y + 2.5) ** 3, np.cos(0.6 * (x - 1.25)) * np.sin(0.5 * (y + 2.5))], -1
    )
    known = np.isfinite(found).all(-1)
    assert known.sum() == 18 * 13
    np.testing.assert_allclose(found[known][:, :2], right[known][:, :2], atol=1e-9)
    np.testing.assert_allclose(found[known][:, 2], right[known][:, 2], atol=2e-3)
    field[10, 8] = np.nan
    holed = resampled(field, (1.25, -2.5))
    lost = known & np.isnan(holed).any(-1)
    assert 4 <= lost.sum() <= 24 and lost[11, 5] and not lost[3, 3]
    np.testing.assert_allclose(resampled(field, (0.0, 0.0))[:8], field[:8], atol=1e-9)


# ---------------------------------------------------------------- skyrmions


@pytest.mark.parametrize(("relation", "electric_slope"), [("reversed", 0.01), ("flipped", 0.02)])
def test_a_skyrmion_lattice_from_two_scans(shared_data, relation, electric_slope):
    """Displacement found blind; induction to 0.06 of its peak at every position, slopes and error bars right."""
    with h5py.File(shared_data / "skyrmion_dpc.h5") as file:
        a = dict(file.attrs)
        scans = {name: file[f"{name}_poisson_20000"][:] for name in ("forward", relation)}
        right, electric = (file[f"truth/forward/{n}"][:].astype(float) for n in ("Bt_probe_averaged_T_nm", "k_electric_1_per_A"))
        moved = file[f"truth/shift_{relation}_steps"][:] * ([1, -1] if relation == "flipped" else [1, 1])
    known = {"q_pixel": float(a["detector_pixel_1_per_A"]), "r_pixel": 60.0, "energy": 300e3, "semiangle": 0.3}
    cubes = [gpu4d.DataCube(s, gpu4d.Calibration(rotation=0.0, transpose=False, **known)) for s in scans.values()]
    found = gpu4d.magnetic_induction(*cubes, relation=relation)
    for s, e, m in zip(found.shift.shift, found.shift.error, moved):
        assert abs(s - m) < 0.08 and 0.03 < e < 0.2

    def compare(result, error, truth, peak):
        values, errors = (np.moveaxis(np.asarray(r), 0, -1) for r in (result, error))
        seen = np.isfinite(values).all(-1)
        x, y = (v[seen] - v[seen].mean(0) for v in (values, truth))
        inside = np.mean(np.abs(x - y) < errors[seen])
        return np.sum(x * y) / np.sum(y * y), np.sqrt(np.mean((x - y) ** 2)) / peak, inside

    slope, rms, inside = compare(found.induction, found.error, right, 22.1)
    assert slope == pytest.approx(1, abs=0.01) and rms < 0.055 and 0.60 < inside < 0.76
    slope, rms, inside = compare(found.measured, found.measured_error, right, 22.1)
    assert slope == pytest.approx(1, abs=0.01) and rms < 0.075 and 0.60 < inside < 0.76
    slope, rms, inside = compare(found.electric, found.electric_error, electric, np.hypot(*np.moveaxis(electric, -1, 0)).max())
    assert slope == pytest.approx(1, abs=electric_slope) and rms < 0.13 and 0.60 < inside < 0.76
    assert found.sensitivity == pytest.approx(1.2, abs=0.1)
    assert found.excess == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_one_scan_alone_mixes_in_the_electric_part(shared_data):
    with h5py.File(shared_data / "skyrmion_dpc.h5") as file:
        q = float(file.attrs["detector_pixel_1_per_A"])
        cube = gpu4d.DataCube(file["forward_poisson_20000"][:], gpu4d.Calibration(q_pixel=q, r_pixel=60.0, rotation=0.0))
        right, electric = (file[f"truth/forward/{n}"][:].astype(float) for n in ("Bt_probe_averaged_T_nm", "k_electric_1_per_A"))

    def rms(found):
        off = np.moveaxis(np.asarray(found.induction), 0, -1) - right
        return np.std(off - off.mean((0, 1))) / 22.1

    assert rms(gpu4d.magnetic_induction(cube)) > 0.12
    assert rms(gpu4d.magnetic_induction(cube, electric=electric)) < 0.075
