"""`gpu4d compare` brings both sides to one frame: regions, axes, units, classes, parts of a truth, what a method leaves open."""

import re

import h5py
import numpy as np
import pytest
from scipy import ndimage

import gpu4d
from gpu4d import RealSlice
from gpu4d.errors import InputError
from gpu4d.workflow.compare import compare
from gpu4d.workflow.comparing.quantity import OBJECT, Quantity, compared
from gpu4d.workflow.comparing.units import factor

SHAPE = (12, 10)
RNG = np.random.default_rng(7)


def result(path, items, **settings):
    gpu4d.save(path, items, settings=settings, overwrite=True)
    return path


def truth(path, values, **attributes):
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        for name, value in values.items():
            file[f"truth/{name}"] = value
    return path


def strain(xx, yy, xy, theta=None):
    theta = np.zeros(SHAPE) if theta is None else theta
    return {"strain": RealSlice(np.stack([xx, yy, xy, theta]), "strain", "1", labels=("e_xx", "e_yy", "e_xy", "theta"))}


def parts():
    return [0.01 * RNG.normal(size=SHAPE) for _ in range(3)]


def test_an_error_that_was_put_into_one_component_is_read_back(tmp_path):
    xx, yy, xy = parts()
    error = 1e-3 * np.sign(RNG.normal(size=SHAPE))
    made = result(tmp_path / "r.h5", strain(xx + 1e-3, yy + error, xy))
    found = compare(made, truth(tmp_path / "t.h5", {"e_xx": xx, "e_yy": yy, "e_xy": xy}))
    assert found["strain/e_xx"].bias == pytest.approx(1e-3) and found["strain/e_xx"].scatter < 1e-12
    assert found["strain/e_yy"].rms == pytest.approx(1e-3) and found["strain/e_xy"].rms == 0


# ---------------------------------------------------------------- regions, missing values, shapes


def test_a_part_of_a_scan_is_compared_with_its_part_of_the_truth(tmp_path):
    whole = RNG.normal(size=SHAPE)
    made = result(tmp_path / "r.h5", {"dpc_phase": RealSlice(whole[2:9, 1:6], "phase", "rad")}, input={"crop_scan": [2, 9, 1, 6]})
    found = compare(made, truth(tmp_path / "t.h5", {"phase_conv": whole}))
    assert found["dpc_phase"].rms < 1e-12 and found["dpc_phase"].count == 35
    assert any("rows 2 to 8 and columns 1 to 5" in line for line in found.remarks)


def test_parts_of_one_shape_and_of_other_places_are_compared_where_they_overlap(tmp_path):
    """Without their places, they would be compared position by position, and everything would differ."""
    whole = RNG.normal(size=SHAPE)
    made = [
        result(tmp_path / f"{n}.h5", {"bf": RealSlice(whole[n : n + 6], "bf", "counts")}, input={"crop_scan": [n, n + 6, 0, 10]})
        for n in (0, 4, 6)
    ]
    assert compare(made[0], made[1])["bf"].count == 20 and compare(made[0], made[1])["bf"].rms == 0
    with pytest.raises(InputError, match="no position in common"):
        compare(made[0], made[2])


def test_values_that_one_side_lacks_are_counted_and_are_not_within_a_tolerance(tmp_path):
    image = RNG.normal(size=SHAPE)
    holed = image.copy()
    holed[:3] = np.nan
    one, other = (result(tmp_path / f"{n}.h5", {"bf": RealSlice(v, "bf", "counts")}) for n, v in (("a", holed), ("b", image)))
    found = compare(one, other, tolerance={"bf": 1.0})
    assert found["bf"].missing == 30 and found["bf"].rms == 0 and not found.passed
    assert "30 of the second's 120 values are missing" in found.exceeded[0]
    back = compare(other, one, tolerance={"bf": 1.0})
    assert back.passed and back["bf"].more == 30 and any("30 only in the first" in line for line in back.remarks)


def test_maps_that_cannot_be_compared_do_not_hide_the_others(tmp_path):
    image = RNG.normal(size=SHAPE)
    items = [
        {"bf": RealSlice(image, "bf", "counts"), "mean_pattern": gpu4d.DiffractionSlice(np.ones((n, n)), "mean", "counts")} for n in (4, 8)
    ]
    one, other = (result(tmp_path / f"{n}.h5", held) for n, held in enumerate(items))
    found = compare(one, other)
    assert found["bf"].rms == 0 and found.refused == ("mean_pattern: 4×4 in the first and 8×8 in the second: only results of the same "
    "scan, with the same binning, can be compared",)  # fmt: skip
    assert "not compared: mean_pattern" in str(found) and found.as_dict()["refused"]
    with pytest.raises(InputError, match="mean_pattern: 4×4 in the first"):
        compare(one, other, tolerance={"mean_pattern": 0.1})


# ---------------------------------------------------------------- units and axes


def test_units_are_converted_or_named(tmp_path):
    field = RNG.normal(size=(2, *SHAPE))
    labels = ("E_x", "E_y")
    one = result(tmp_path / "a.h5", {"dpc_field": RealSlice(field, "field", "V/Å", labels=labels)})
    row = compare(one, truth(tmp_path / "t.h5", {"E_probe_averaged_V_per_nm": 10 * np.moveaxis(field, 0, -1)}))["dpc_field/E_x"]
    assert row.rms < 1e-12 and row.slope == pytest.approx(1) and row.unit == "V/Å"
    com = result(tmp_path / "b.h5", {"dpc_com": RealSlice(field, "com", "px", labels=("com_x", "com_y"))})
    with pytest.raises(InputError, match="in px in the first and in 1/Å in the second: give the run its calibration"):
        compare(com, truth(tmp_path / "u.h5", {"com_noisefree_1_per_A": np.moveaxis(field, 0, -1)}))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("nm", "Å", 10), ("T Å", "T nm", 0.1), ("°", "rad", np.pi / 180), ("rad/nm²", "rad/Å^2", 0.01), ("A^-1", "1/Å", 1), ("V", "T", None)],
)
def test_factors_between_units(one, other, expected):
    assert factor(one, other) == (None if expected is None else pytest.approx(expected))


def test_strain_in_other_axes_is_turned(tmp_path):
    """As matrices: the components along axes at an angle are those of Rᵀ ε R."""
    xx, yy, xy = parts()
    tensor = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)
    angle = np.radians(30.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = turn.T @ tensor @ turn
    one = result(tmp_path / "a.h5", strain(turned[..., 0, 0], turned[..., 1, 1], turned[..., 0, 1]), strain={"axis": 30.0})
    other = result(tmp_path / "b.h5", strain(xx, yy, xy), strain={"axis": 0.0})
    for found in (compare(one, other), compare(other, one), compare(one, truth(tmp_path / "t.h5", {"exx": xx, "eyy": yy, "exy": xy}))):
        assert max(found[f"strain/e_{part}"].rms for part in ("xx", "yy", "xy")) < 1e-15
        assert any("turned to the axes of the first" in line for line in found.remarks)
    along = result(tmp_path / "c.h5", strain(xx, yy, xy), strain={"axis": "g1"})
    found = compare(along, other)
    assert [row.name for row in found.rows] == ["strain/theta"] and "give both the same strain.axis" in found.refused[0]


def test_a_deformation_gradient_is_strain_and_rotation(tmp_path):
    """F = R U with U = 1 + ε; θ is minus the angle of R from x to y."""
    turn, (xx, yy, xy) = 0.03 * RNG.normal(size=SHAPE), parts()
    u = np.stack([np.stack([1 + xx, xy], -1), np.stack([xy, 1 + yy], -1)], -2)
    r = np.stack([np.stack([np.cos(turn), -np.sin(turn)], -1), np.stack([np.sin(turn), np.cos(turn)], -1)], -2)
    made = result(tmp_path / "r.h5", strain(xx, yy, xy, -turn))
    found = compare(made, truth(tmp_path / "t.h5", {"F": r @ u}))
    assert len(found.rows) == 4 and max(row.rms for row in found.rows) < 1e-14


# ---------------------------------------------------------------- classes


def test_shares_of_classes_are_matched_by_their_maps(tmp_path):
    shares = RNG.dirichlet(np.ones(4), SHAPE)
    order, error = [2, 0, 3], 0.02
    measured = np.moveaxis(shares[..., order], -1, 0) + error * np.sign(RNG.normal(size=(3, *SHAPE)))
    labels = tuple(f"class {n}" for n in range(3))
    made = result(tmp_path / "r.h5", {"class_fractions": RealSlice(measured, "shares", "1", labels=labels)})
    found = compare(made, truth(tmp_path / "t.h5", {"fractions": shares}), tolerance={"class_fractions": 0.021})
    assert [row.rms for row in found.rows] == pytest.approx([error] * 3) and found.passed
    assert "first = second: 0 = 2, 1 = 0, 2 = 3" in found.remarks[0]
    assert found.only_second == ("class_fractions/class 1 of the second",), "a class that the result does not have is named"


# ---------------------------------------------------------------- several scans in one truth


def test_the_part_of_a_truth_is_that_of_the_scan(tmp_path):
    fields = RNG.normal(size=(2, 2, *SHAPE))
    values = {f"{name}/Bt_probe_averaged_T_nm": np.moveaxis(field, 0, -1) for name, field in zip(("forward", "reversed"), fields)}
    path = truth(tmp_path / "t.h5", values)
    induction = {"induction": RealSlice(fields[1] + 3.0, "B t", "T nm", labels=("Bx_t", "By_t"))}
    made = result(tmp_path / "r.h5", induction, input={"dataset": "/reversed_poisson_20000"})
    assert compare(made, path)["induction/By_t"].rms < 1e-12, "known up to a constant, as the descan is"
    wrong = compare(made, f"{path}:/truth/forward")["induction/By_t"]
    assert wrong.rms == pytest.approx(np.std(fields[1, 1] - fields[0, 1]))
    free = result(tmp_path / "f.h5", induction, input={"dataset": "/reversed_x"}, magnetic={"field_free": [0, 2, 0, 2]})
    assert compare(free, path)["induction/Bx_t"].bias == pytest.approx(3.0), "with a region without a field, the mean is measured"
    with pytest.raises(InputError, match="no part /truth/reversd"):
        compare(made, f"{path}:/truth/reversd")
    unnamed = result(tmp_path / "u.h5", induction)
    with pytest.raises(InputError, match=r"several scans: name one as .*t.h5:/truth/forward"):
        compare(unnamed, path)
    with pytest.raises(InputError, match="is a result, which has no part"):
        compare(path, f"{made}:/truth/forward")


def test_numbers_whose_names_begin_as_the_scan_does(tmp_path):
    path = truth(tmp_path / "t.h5", {"plain_rotation_rad": 0.5, "other_rotation_rad": 2.0}, detector_pixel_1_per_A=0.02)
    calibration = gpu4d.Calibration(rotation=0.51, q_pixel=0.021)
    made = result(tmp_path / "r.h5", {"calibration": calibration}, input={"dataset": "plain_overfocus"})
    found = compare(made, path)
    assert found["calibration/rotation"].bias == pytest.approx(0.01) and found["calibration/q_pixel"].bias == pytest.approx(0.001)


def test_a_structure_factor_over_q_is_one_over_k(tmp_path):
    k = np.linspace(0.2, 2.0, 400)
    made = result(tmp_path / "r.h5", {"structure_factor": gpu4d.PointList({"k": k, "structure_factor": np.sin(4 * k)})})
    row = compare(made, truth(tmp_path / "t.h5", {"S_Q": np.sin(4 * k), "Q_rad_per_A": 2 * np.pi * k}))["structure_factor/structure_factor"]
    assert row.count > 390 and row.rms < 1e-9


# ---------------------------------------------------------------- complex maps and objects


def smooth(shape, seed, width=2.0):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), width, mode="wrap")
    return 0.3 * values / values.std()


def test_a_global_phase_of_a_transmission_is_open_and_a_ramp_is_not(tmp_path):
    wave = np.exp(1j * smooth(SHAPE, 1))
    error = 0.01 * np.exp(2j * np.pi * RNG.random(SHAPE))
    made = [
        result(tmp_path / f"{n}.h5", {"ssb_transmission": RealSlice(values, "transmission", "1")})
        for n, values in enumerate((wave * np.exp(0.7j) + error, wave, wave * np.exp(0.05j * np.arange(12)[:, None])))
    ]
    row = compare(made[0], made[1])["ssb_transmission"]
    assert row.rms == pytest.approx(0.01, rel=0.02) and row.correlation > 0.99
    assert float(re.search(r"global phase of (\S+) rad", row.remark)[1]) == pytest.approx(0.7, abs=0.005)
    assert compare(made[2], made[1])["ssb_transmission"].rms > 0.1


@pytest.mark.parametrize("of", [np.asarray, lambda phase: np.exp(1j * phase)], ids=["phase", "transmission"])
def test_constant_ramp_and_shift_of_an_object_are_open_and_an_error_is_not(of):
    phase = smooth((64, 56), 2)
    x, y = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in phase.shape), indexing="ij")
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(phase), (1.3, -2.4))).real
    other = Quantity("ptychography/phase", of(phase), "rad", OBJECT, pixel=0.2)
    same = compared(Quantity("ptychography/phase", of(moved + 0.7 + 0.02 * x - 0.01 * y), "rad", OBJECT, pixel=0.2), other)
    assert same.rms < 0.01 and same.correlation > 0.999
    assert "ramp of (0.1, -0.05) rad/Å and a shift of (0.26, -0.48) Å" in same.remark
    error = 0.05 * np.sign(np.random.default_rng(3).normal(size=phase.shape))
    wrong = compared(Quantity("ptychography/phase", of(moved + 0.7 + error), "rad", OBJECT, pixel=0.2), other)
    assert wrong.rms == pytest.approx(0.05, rel=0.05)


def test_objects_on_other_grids_are_compared_on_that_of_the_first():
    """A wave of 4 Å, sampled at 0.1 and at 0.25 Å, whose corners lie 2 Å apart."""

    def at(corner, pixel, count):
        x = corner + pixel * np.arange(count)
        return np.sin(2 * np.pi * x / 4)[:, None] + np.cos(2 * np.pi * x / 5)[None]

    coarse = Quantity("ptychography/phase", at(0.0, 0.25, 40), "rad", OBJECT, pixel=0.25)
    fine = Quantity("ptychography/phase", at(-2.0, 0.1, 160), "rad", OBJECT, pixel=0.1, corner=(-2.0, -2.0))
    row = compared(coarse, fine)
    assert row.rms < 0.01 and row.slope == pytest.approx(1, abs=0.01) and row.difference.shape == (40, 40)


def test_an_ellipse_is_compared_by_ratio_and_direction(tmp_path):
    """Directions that differ by half a turn are one."""
    made = result(tmp_path / "r.h5", {"calibration": gpu4d.Calibration(ellipse=(103.0, 100.0, 0.3 + np.pi))})
    found = compare(made, truth(tmp_path / "t.h5", {"ellipse": [1.02, 1.0, 0.29]}))
    assert found["calibration/ellipse a/b"].bias == pytest.approx(0.01) and found["calibration/ellipse angle"].bias == pytest.approx(0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("only_blank_pictures")
def test_the_induction_of_a_run_agrees_with_the_truth_of_its_scan(tmp_path, shared_data):
    """A skyrmion with a second scan of reversed magnetisation; the peak is 22 T nm, and a simple method is off by 0.065 of it."""
    from recipes_in_tests import recipe

    from gpu4d.workflow import run

    path = shared_data / "skyrmion_dpc.h5"
    known = {"energy": 300e3, "semiangle": 0.3, "r_pixel": 60.0, "rotation_degrees": 0.0}
    settings = recipe(input__dataset="forward_poisson_20000", **{f"calibration__{name}": value for name, value in known.items()})
    settings.set("magnetic.second", f"{path}:/reversed_poisson_20000")
    settings.set("analysis.technique", "magnetic")
    run(path, tmp_path / "out", recipe=settings, cache=False)
    found = compare(tmp_path / "out", path)
    for name in ("induction/Bx_t", "induction/By_t"):
        row = found[name]
        assert row.correlation > 0.98 and row.slope == pytest.approx(1, abs=0.02) and row.rms < 0.065 * 22, row
        assert row.within == pytest.approx(0.95, abs=0.03), "errors from the counts are honest"
    assert found["electric_momentum/k_x"].slope == pytest.approx(1, abs=0.05)
