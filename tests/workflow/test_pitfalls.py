"""The pitfalls of the guide that a run can see: each has a check, and a message that says what to do (docs/reference/pitfalls.md)."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d import DataCube
from gpu4d.crystal import dilation_and_spacing
from gpu4d.workflow import Record, RunState, analyse
from gpu4d.workflow.recipe import Recipe
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
