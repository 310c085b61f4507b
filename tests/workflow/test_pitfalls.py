"""The pitfalls of the guide that a run can see: each has a check, and a message that says what to do (docs/reference/pitfalls.md)."""

import re
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d import DataCube
from gpu4d.crystal import dilation_and_spacing
from gpu4d.workflow import Record, RunState, analyse, run
from gpu4d.workflow.compare import compare
from gpu4d.workflow.pitfalls import PITFALLS
from gpu4d.workflow.raw_data import raw_data_of
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.stages.acquisition_checks import AcquisitionChecks, PatternChecks
from gpu4d.workflow.stages.lattice_checks import LatticeChecks


@pytest.fixture(scope="module")
def strained():
    """A strained crystal of small patterns, its lattice and its strain."""
    scan = gpu4d.simulate.bragg_scan((8, 8), (64, 64), spacing=15.0, radius=3.5, dose=60.0, strain_size=0.01, seed=1)
    return scan, analyse(DataCube(scan.cube.source.array))


def checked(state, **calibration):
    """What the checks say of the lattice and the strain of a state, with another calibration."""
    cube = DataCube(state.cube.source, gpu4d.Calibration(**calibration))
    other = RunState(cube, Recipe(), Record(), results=dict(state.results))
    LatticeChecks().finish(other, {})
    return other.record


def gate(record, name):
    (found,) = [g for g in record.gates if g.name == name]
    return found


def test_every_pitfall_has_a_check_and_tests_that_exist(checkout):
    """The table of the page is made from this one: tests/project/test_pages.py compares both."""
    assert {one.number for one in PITFALLS} == set(range(1, 9)) and len({one.key for one in PITFALLS}) == len(PITFALLS)
    written = "\n".join(path.read_text(encoding="utf-8") for path in (checkout / "tests").rglob("test_*.py"))
    for one in PITFALLS:
        assert one.tests and all(f"def {name}(" in written for name in one.tests), one.key
        assert all(Path(checkout, name).is_file() for name in re.findall(r"`(gpu4d/\S+?\.py)`", one.check)), one.check


def test_1_strain_grows_where_the_disks_move_in(strained):
    _, state = strained
    passed = gate(state.record, "Sign of strain")
    assert passed.passed and "tension is positive" in passed.expected
    assert float(re.search(r"grows by ([\d.]+) %", passed.measured.partition("ε_xx")[2])[1]) == pytest.approx(1.0, abs=0.02)


def test_1_a_strain_of_g_instead_of_d_is_named(strained):
    """ε = Δg/g has the wrong sign."""
    _, state = strained
    strain = state["strain"]
    wrong = SimpleNamespace(exx=-np.asarray(strain.exx), eyy=-np.asarray(strain.eyy), uncertainty=strain.uncertainty)
    assert dilation_and_spacing(state["lattice_fit"], wrong).slope == pytest.approx(-1.0, abs=0.05)
    confused = RunState(state.cube, Recipe(), Record(), results={**state.results, "strain": wrong})
    LatticeChecks().finish(confused, {})
    said = gate(confused.record, "Sign of strain")
    assert not said.passed and "g = 1/d" in said.advice


@pytest.mark.parametrize("factor", [2 * np.pi, 10.0], ids=["with 2π", "in 1/nm"])
def test_1_spacings_that_no_crystal_has_are_named(strained, factor):
    _, state = strained
    true = 1 / (2.0 * state["lattice"].lengths[0])  # d = 2 Å
    assert gate(checked(state, q_pixel=true), "Spacings of the lattice").passed
    said = gate(checked(state, q_pixel=factor * true), "Spacings of the lattice")
    assert not said.passed and "without 2π" in said.advice and "1/nm" in said.advice


def test_2_values_that_were_not_measured_are_listed(strained):
    _, state = strained
    (said,) = [d for d in checked(state, q_pixel=0.02).decisions if d.what.startswith("Calibration not measured")]
    assert said.what.endswith("ellipse not known, rotation not known, pixel size as given") and "gpu4d calibrate" in said.why
    known = gpu4d.Calibration()
    known.measured(q_pixel=0.02, ellipse=(1.01, 1.0, 0.3), rotation=0.1, how="rings of Au")
    other = RunState(DataCube(state.cube.source, known), Recipe(), Record(), results=dict(state.results))
    LatticeChecks().finish(other, {})
    assert not other.record.decisions


def test_4_axes_are_drawn_and_a_missing_rotation_is_named(strained):
    from gpu4d import plot

    _, state = strained
    assert any("components are along the detector's axes" in line for line in state.record.warnings)
    texts = [t.get_text() for t in plot.strain(state["strain"]).figure.findobj(match=lambda a: hasattr(a, "get_text"))]
    assert any("the DETECTOR's axes" in t for t in texts) and {"q$_x$", "q$_y$"} <= set(texts)


def test_6_phase_correlation_is_compared_with_the_usual_power():
    scan = gpu4d.simulate.bragg_scan((8, 8), (64, 64), spacing=15.0, radius=3.5, dose=4.0, strain_size=0.005, seed=1)
    state = analyse(scan.cube, recipe(bragg__power=0.0, bragg__min_significance=2.0, analysis__technique="bragg"))
    (said,) = [line for line in state.record.warnings if "phase correlation" in line]
    ours, usual = (float(n) for n in re.search(r"finds (\d+\.\d) disks per pattern, 0.85 finds (\d+\.\d)", said).groups())
    assert ours > 1.3 * usual, "maxima of noise are counted as disks"
    assert any("outside the recommended 0.8 – 0.95" in line for line in state.record.warnings)


def test_1_a_reference_in_real_space_is_refused(strained):
    """Spacings in Å are given where vectors in 1/Å belong."""
    _, state = strained
    lengths = state["lattice"].lengths
    pixel = 1 / (2.0 * lengths[0])  # d = 2 Å
    d = [1 / (length * pixel) for length in lengths]
    rows = state["lattice"].matrix / np.array(lengths)[:, None]

    def said(numbers):
        text = ", ".join(f"{n:.6g}" for n in (rows * np.array(numbers)[:, None]).ravel())
        cube = DataCube(state.cube.source, gpu4d.Calibration(q_pixel=pixel))
        found = analyse(cube, recipe(strain__reference=f"{text} 1/Å", analysis__technique="bragg"))
        return found, [line for line in found.record.warnings if "the vectors g = 1/d" in line]

    wrong, lines = said(d)
    assert len(lines) == 1 and "strain" not in wrong.results and "spacings of this scan in Å" in lines[0]
    assert not gate(wrong.record, "Reference of the strain").passed
    right, lines = said([1 / one for one in d])
    assert not lines and "strain" in right


def acquired(total, radius=8.0, technique="bragg"):
    results = {"total": total, "technique": technique, "disk": gpu4d.probe.Disk(16.0, 16.0, radius, 0.5, 0.1)}
    state = RunState(DataCube(np.zeros((*total.shape, 4, 4), np.uint16)), Recipe(), Record(), results=results)
    AcquisitionChecks().finish(state, {})
    return state.record


def test_5_few_electrons_fine_pixels_and_fading_counts_are_named():
    good = np.random.default_rng(0).poisson(3000, (16, 12)).astype(float)
    silent = acquired(good)
    assert all(g.passed for g in silent.gates) and not silent.decisions and len(silent.gates) == 2
    few = gate(acquired(np.random.default_rng(0).poisson(50, (16, 12)).astype(float)), "Electrons per pattern")
    assert not few.passed and few.value == pytest.approx(50, abs=3) and "--bin" in few.advice
    fading = gate(acquired(good * np.linspace(1, 0.65, 16)[:, None]), "Steadiness of the scan")
    assert not fading.passed and fading.value == pytest.approx(-33, abs=5) and "steadily" in fading.measured
    uneven = good.copy()
    uneven[12:] *= 0.5  # a thicker part of the specimen, and not time
    uneven[:4] *= 0.6
    assert gate(acquired(uneven), "Steadiness of the scan").passed
    (said,) = acquired(good, radius=30.0).decisions
    assert "radius of 30.0 px" in said.what and "--bin 2 leaves 15.0 px" in said.why
    assert not acquired(good, radius=30.0, technique="ptychography").decisions, "its pixels set the field of view"


def beam(shift_of_row, shift_of_column, noise=0.3):
    """The gate of a direct beam, of a radius of 6 px, that moves by these px for each row and column."""
    x, y = np.indices((16, 12))
    found = np.stack([shift_of_row * x, shift_of_column * y], -1) + np.random.default_rng(0).normal(0, noise, (16, 12, 2))
    origin = SimpleNamespace(measured=found, outliers=np.zeros((16, 12), bool))
    results = {"com": None, "technique": "bragg", "disk": SimpleNamespace(radius=6.0), "origin": origin}
    state = RunState(DataCube(np.zeros((16, 12, 8, 8), np.uint16)), Recipe(), Record(), results=results)
    assert PatternChecks().wanted(state).wanted
    PatternChecks().finish(state, {})
    return gate(state.record, "Steadiness of the pattern")


def test_5_a_beam_that_moves_with_time_is_named_and_descan_is_not():
    assert beam(0, 0).value == 0 and beam(0.5, 0.5).passed, "the descan is alike along both axes"
    assert beam(0, 0, noise=4.0).value == 0, "noise alone is no drift"
    slow = beam(0.5, 0.0)
    assert not slow.passed and slow.value == pytest.approx(0.5 * 14 / 6, rel=0.1), "14 rows lie between the ends"
    fast = beam(2.0, 0.1)
    assert fast.failed and "the direct beam moves by 27.98 ± 0.28 px" in fast.measured


def test_6_the_usual_power_says_nothing(strained):
    _, state = strained
    assert not any("phase correlation" in line for line in state.record.warnings)


def test_7_one_phase_in_two_orientations_is_named(need):
    need("sklearn")
    made = [gpu4d.simulate.bragg_scan((6, 8), (64, 64), spacing=15.0, radius=3.5, dose=60.0, angle=t, strain=None, seed=1) for t in (8, 40)]
    state = analyse(DataCube(np.concatenate([one.cube.source.array for one in made])))
    (said,) = [line for line in state.record.warnings if "one phase in two orientations" in line]
    assert abs(float(re.search(r"turned by (-?[\d.]+)°", said)[1])) == pytest.approx(32, abs=1)


def test_8_a_result_says_where_its_raw_scan_is_and_when_it_is_lost(strained, tmp_path, blank_pictures, capfd):
    scan, _ = strained
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["data"] = scan.cube.source.array
    settings = recipe(analysis__technique="images")
    linked, whole = (
        run(tmp_path / "scan.h5", tmp_path / "a", recipe=settings),
        run(tmp_path / "scan.h5", tmp_path / "b", recipe=settings, bundle=True),
    )
    (said,) = [d for d in linked.record.decisions if d.what.startswith("Raw data")]
    assert str(tmp_path / "scan.h5") in said.why and "--bundle" in said.why and said.what in (linked.folder / "report.html").read_text()
    assert any(d.what.startswith("Raw data: in result.h5") for d in whole.record.decisions)
    assert raw_data_of(linked.folder).status == "linked" and raw_data_of(whole.folder).status == "bundled"
    assert not compare(linked.folder, whole.folder).remarks
    (tmp_path / "scan.h5").unlink()
    assert raw_data_of(linked.folder) == ("missing", str(tmp_path / "scan.h5")) and raw_data_of(whole.folder).status == "bundled"
    assert any("the raw scan is lost" in line for line in compare(linked.folder, whole.folder).remarks)
    np.save(tmp_path / "scan.npy", scan.cube.source.array)
    mapped = run(tmp_path / "scan.npy", tmp_path / "c", recipe=settings)
    assert raw_data_of(mapped.folder).status == "linked"
    gpu4d.save(tmp_path / "alone.h5", {"bf": np.ones((4, 4))})
    assert raw_data_of(tmp_path / "alone.h5").status == "none"
