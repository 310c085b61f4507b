"""`gpu4d compare`: what differs between a result and a truth, or two results, is what was put there."""

import json

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d import RealSlice
from gpu4d.cli import run_command
from gpu4d.errors import InputError
from gpu4d.workflow.compare import compare

SHAPE = (8, 6)
RNG = np.random.default_rng(0)
PARTS = {name: 0.01 * RNG.normal(size=SHAPE) for name in ("e_xx", "e_yy", "e_xy", "theta")}
ERROR = 1e-3


def strain_items(parts, **more):
    stack = np.stack([*(parts[name] for name in PARTS), np.ones(SHAPE)])
    labels = (*PARTS, "mask")
    errors = RealSlice(np.full((4, *SHAPE), ERROR), "uncertainty", "1", labels=tuple(PARTS))
    return {"strain": RealSlice(stack, "strain", "1", 20.0, "Å", labels), "strain_uncertainty": errors, **more}


@pytest.fixture
def result(tmp_path):
    """A result whose strain has errors of the size that it says."""
    noisy = {name: part + np.random.default_rng(1).normal(0, ERROR, SHAPE) for name, part in PARTS.items()}
    gpu4d.save(tmp_path / "result.h5", strain_items(noisy), settings={"bragg": {"power": 0.85}, "strain": {"reference": "median"}})
    return tmp_path / "result.h5"


def truth(path, values, **attributes):
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        for name, value in values.items():
            file[f"truth/{name}"] = value
    return path


def test_bias_rms_slope_and_errors_are_those_that_were_put_there(result, tmp_path):
    other = truth(tmp_path / "t.h5", {"exx": PARTS["e_xx"] / 1.1 - 0.004, "eyy": PARTS["e_yy"]})
    found = compare(result, other)
    row = found["strain/e_xx"]
    assert row.bias == pytest.approx(0.004 + np.mean(PARTS["e_xx"] - PARTS["e_xx"] / 1.1), abs=3e-4) and row.count == 48
    assert row.slope == pytest.approx(1.1, abs=0.05) and row.rms**2 == pytest.approx(row.bias**2 + row.scatter**2)
    assert "references" in row.remark
    good = found["strain/e_yy"]
    assert good.rms == pytest.approx(ERROR, rel=0.3) and good.within == pytest.approx(0.95, abs=0.07) and good.correlation > 0.99
    assert "strain/e_xy" in found.only_first and good.as_dict()["rms"] == good.rms


def test_axes_of_a_truth_whose_x_is_the_column(result, tmp_path):
    """Their exx is our eyy; theta keeps its sign."""
    values = {"exx": PARTS["e_yy"], "eyy": PARTS["e_xx"], "exy": PARTS["e_xy"], "theta_rad": PARTS["theta"]}
    found = compare(result, truth(tmp_path / "t.h5", values, axes="data[scan_row, scan_col]; vectors given as (x=col,y=row)"))
    assert all(found[f"strain/{name}"].correlation > 0.98 for name in PARTS)
    assert not any("axes are" in line or "signs are" in line for line in found.remarks)
    wrong = compare(result, truth(tmp_path / "u.h5", values, axes="x is the FIRST axis"))
    assert any("the axes are exchanged" in line for line in wrong.remarks)


def test_g_taken_for_d_is_named(result, tmp_path):
    found = compare(result, truth(tmp_path / "t.h5", {"exx": -PARTS["e_xx"], "rotation": -PARTS["theta"]}))
    assert any("the signs are opposite" in line and line.startswith("strain/e_xx") for line in found.remarks)
    assert found["strain/theta"].correlation > 0.98, "a rotation from x to y is −θ"


def test_phases_are_compared_up_to_a_constant(tmp_path):
    phase = RNG.normal(size=SHAPE)
    gpu4d.save(tmp_path / "r.h5", {"dpc_phase": RealSlice(phase + 7.0, "phase", "rad")})
    row = compare(tmp_path / "r.h5", truth(tmp_path / "t.h5", {"phase_conv": phase}))["dpc_phase"]
    assert row.rms < 1e-12 and row.slope == pytest.approx(1.0) and "without the mean" in row.remark


def test_classes_are_matched_before_they_are_compared(tmp_path):
    label = RNG.integers(0, 3, SHAPE)
    named = np.array([2, 0, 1])[label].astype(float)
    named[0, 0] = (named[0, 0] + 1) % 3
    gpu4d.save(tmp_path / "r.h5", {"class_label": RealSlice(named, "class", "1")})
    row = compare(tmp_path / "r.h5", truth(tmp_path / "t.h5", {"label": label}))["class_label"]
    assert row.rms == pytest.approx(1 / 48) and row.worst == (0, 0) and "0 = 1" in row.remark


def test_orientations_are_compared_by_their_angle_up_to_symmetry(tmp_path):
    def about_z(angle):
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])

    turned = np.broadcast_to(about_z(0.3), (*SHAPE, 3, 3))
    other = turned @ about_z(np.pi / 2 + np.radians(2.0))
    planes = np.moveaxis(other.reshape(*SHAPE, 9), -1, 0)
    items = {"orientation_matrices": RealSlice(np.ascontiguousarray(planes), "matrices", "1", labels=tuple(map(str, range(9))))}
    gpu4d.save(tmp_path / "r.h5", items, settings={"orientation": {"structures": ["Au"]}})
    row = compare(tmp_path / "r.h5", truth(tmp_path / "t.h5", {"rotation": turned}))["orientation_matrices"]
    assert row.bias == pytest.approx(2.0, abs=1e-6) and row.unit == "°" and "0 % within 1°" in row.remark


def test_curves_are_compared_where_both_were_measured(tmp_path):
    k, other = np.linspace(0.2, 2.0, 50), np.linspace(0.0, 1.5, 301)
    gpu4d.save(tmp_path / "r.h5", {"structure_factor": gpu4d.PointList({"k": k, "structure_factor": np.sin(4 * k), "error": 0.1 + 0 * k})})
    file = truth(tmp_path / "t.h5", {"S_k": np.sin(4 * other), "k_1_per_A": other})
    row = compare(tmp_path / "r.h5", file)["structure_factor/structure_factor"]
    assert row.count == (k <= 1.5).sum() and row.rms < 1e-4 and row.within == 1


def test_distances_at_which_there_are_no_atoms_are_left_out(tmp_path):
    """G(r) is off by 0.1 everywhere; g(r) = 1 + G(r) / (4πρr) is off by 40 near zero, and hardly at the shells."""
    r = np.linspace(0.02, 8.0, 400)
    g, off = 1 + np.sin(3 * r) * (r > 2), 0.1 / (4 * np.pi * 0.05 * r)
    gpu4d.save(tmp_path / "r.h5", {"pair_distribution": gpu4d.PointList({"r": r, "pair_distribution": g + off})})
    row = compare(tmp_path / "r.h5", truth(tmp_path / "t.h5", {"g_r": g, "r_A": r}))["pair_distribution/pair_distribution"]
    assert row.count == (r >= 1).sum() and row.rms == pytest.approx(np.sqrt(np.mean(off[r >= 1] ** 2)), rel=1e-6)


def test_settings_and_gates_that_differ_are_listed(result, tmp_path):
    gates = {"name": ["Curl"], "status": ["pass"]}
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    gpu4d.save(first, strain_items(PARTS, gates=gates), settings={"bragg": {"power": 0.85}, "strain": {"reference": [0, 2, 0, 3]}})
    gpu4d.save(second, strain_items(PARTS, gates={**gates, "status": ["warn"]}), settings={"bragg": {"power": 0.9}})
    found = compare(first, second)
    assert "setting bragg.power: 0.85 in the first, 0.9 in the second" in found.remarks
    assert any(line.startswith("setting strain.reference: [0, 2, 0, 3]") and "automatic" in line for line in found.remarks)
    assert "gate “Curl”: pass in the first, warn in the second" in found.remarks
    assert all(row.rms == 0 for row in found.rows) and not any(line.startswith("setting") for line in compare(result, result).remarks)


def test_other_shapes_and_other_names_are_refused(result, tmp_path):
    with pytest.raises(InputError, match="strain/e_xx: 8×6 in the first and 4×6 in the second"):
        compare(result, truth(tmp_path / "t.h5", {"exx": PARTS["e_xx"][:4]}))
    with pytest.raises(InputError, match="nothing to compare"):
        compare(result, truth(tmp_path / "u.h5", {"thickness": np.ones(SHAPE)}))
    with pytest.raises(InputError, match="no quantity is called 'strian'"):
        compare(result, result, only=["strian"])
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["data"] = np.ones(3)
    for path, said in ((tmp_path / "v.h5", "neither results of gpu4d nor a group truth/"), (tmp_path / "w.h5", "no such file")):
        with pytest.raises(InputError, match=said):
            compare(result, path)


@pytest.mark.parametrize(("tolerance", "code"), [({"strain": 2e-3}, 0), ({"strain": 2e-3, "strain/e_xy": 1e-5}, 3)])
def test_the_exit_code_follows_the_tolerances(result, tmp_path, capfd, tolerance, code):
    other = truth(tmp_path / "t.h5", {name.replace("e_", "e"): part for name, part in PARTS.items()})
    options = [f"--tolerance={name}={value}" for name, value in tolerance.items()]
    assert run_command(["compare", str(result), str(other), "--json", *options]) == code
    said = json.loads(capfd.readouterr().out)
    assert said["passed"] is (code == 0) and len(said["exceeded"]) == (code == 3) and len(said["quantities"]) == 4
    assert run_command(["compare", str(result), str(other), *options]) == code
    printed = capfd.readouterr().out
    assert "strain/e_xy" in printed and "within 2 σ" in printed and ("beyond its tolerance" in printed) is (code == 3)
    assert run_command(["compare", str(result), str(other), "--tolerance", "strain"]) == 1
    assert "need NAME=VALUE" in capfd.readouterr().err


def test_a_picture_shows_both_and_their_difference(result, tmp_path, capfd):
    other = truth(tmp_path / "t.h5", {"exx": PARTS["e_xx"], "eyy": PARTS["e_yy"]})
    assert run_command(["compare", str(result), str(other), "--picture", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").stat().st_size > 20_000
    with pytest.raises(InputError, match="no map was compared"):
        from gpu4d.workflow.comparing.picture import draw

        gpu4d.save(tmp_path / "c.h5", {"c": gpu4d.Calibration(q_pixel=0.02)})
        draw(compare(tmp_path / "c.h5", tmp_path / "c.h5"), tmp_path / "q.png")


@pytest.mark.slow
def test_the_strain_of_a_run_agrees_with_the_truth_of_its_scan(tmp_path, shared_data):
    """Gold with known strain states: the axes of the shared file are exchanged, and the reference is its border."""
    from recipes_in_tests import recipe

    from gpu4d.workflow import run

    path = shared_data / "au_nbed_strain.h5"
    settings = recipe(
        input__dataset="poisson_1e5", calibration__energy=200e3, calibration__semiangle=3.0, calibration__rotation_degrees=0.0
    )
    settings.set("strain.reference", [0, 2, 0, 24])
    run(path, tmp_path / "out", recipe=settings)
    found = compare(tmp_path / "out", path)
    for name in ("e_xx", "e_yy", "e_xy"):
        row = found[f"strain/{name}"]
        assert row.correlation > 0.99 and row.slope == pytest.approx(1.0, abs=0.05) and row.scatter < 1.5e-3, row
    assert found["strain/theta"].correlation > 0.99
