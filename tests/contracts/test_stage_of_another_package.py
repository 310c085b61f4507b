"""A technique of another package takes part in a run, by its entry point alone."""

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.workflow import Recipe, run
from gpu4d.workflow.recipe import explain, to_toml


def test_it_brings_a_section_of_the_recipe(with_corner):
    assert Recipe().corner.width == 4 and "[corner]" in to_toml(Recipe())
    recipe = Recipe.from_toml("[corner]\nwidth = 16")
    assert recipe.advice() == ["corner.width = 16 is outside the recommended 2 – 8"]
    assert "corner.width = 16" in explain(recipe, "corner") and "Side of the square" in explain(recipe, "corner")
    with pytest.raises(InputError, match=r"corner\.width = 0.*from 1 to 64"):
        Recipe.from_toml("[corner]\nwidth = 0")


def test_it_brings_a_result_a_gate_a_picture_and_a_figure(with_corner, tmp_path):
    scan = gpu4d.simulate.phase_object_scan((10, 9), (32, 32), r_pixel=0.4, dose=1e4, seed=1).cube
    data = np.asarray(scan.source.array) + np.uint16(1)
    np.save(tmp_path / "scan.npy", data)
    result = run(tmp_path / "scan.npy", tmp_path / "out", recipe=Recipe.from_toml("[gates]\ncorner_counts_warn = 0"))
    np.testing.assert_array_equal(np.asarray(result.state["corner"]), data[..., :4, :4].sum((-2, -1)))
    with h5py.File(tmp_path / "out" / "result.h5") as file:
        np.testing.assert_array_equal(np.squeeze(file["gpu4d/corner/data"][()]), data[..., :4, :4].sum((-2, -1)))
    (gate,) = [g for g in result.record.gates if g.name == "Counts in the corner"]
    assert gate.status == "warn" and gate.advice == "centre the pattern" and gate.key == "corner_counts"
    page = (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "corner.png").stat().st_size > 0
    assert "Counts in the corner of the detector." in page and "the corner fits the detector" in page
    passes = [s.name for s in result.record.stages if s.name.startswith("pass")]
    assert len(passes) == 2 and "virtual images, counts in the corner" in passes[1], "it shares the pass of the images"


def test_its_gate_is_one_of_the_recipe(with_corner, tmp_path):
    assert "corner_counts_fail" in to_toml(Recipe()) and "corner_counts" in explain(Recipe(), "gates.stop")
    scan = gpu4d.simulate.phase_object_scan((10, 9), (32, 32), r_pixel=0.4, dose=1e4, seed=1).cube
    np.save(tmp_path / "scan.npy", np.asarray(scan.source.array) + np.uint16(1))
    strict = Recipe.from_toml('[gates]\ncorner_counts_fail = 0.001\nstop = ["corner_counts"]')
    result = run(tmp_path / "scan.npy", tmp_path / "out", recipe=strict)
    assert result.stopped and result.record.stopped.key == "corner_counts"


def test_it_says_why_it_does_not_run(with_corner, tmp_path):
    np.save(tmp_path / "scan.npy", np.ones((3, 3, 16, 16), np.uint8))
    result = run(tmp_path / "scan.npy", tmp_path / "out", recipe=Recipe.from_toml("[corner]\nwidth = 32"))
    assert result.state.reasons["corner"].why == "the detector of (16, 16) has no corner of 32 px"
    assert "corner" not in result.state.products and "has no corner of 32 px" in (tmp_path / "out" / "report.html").read_text()


def test_without_it_nothing_knows_of_it():
    assert "corner" not in Recipe().sections
    with pytest.raises(AttributeError, match="no section 'corner'"):
        _ = Recipe().corner
